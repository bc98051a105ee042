"""The way to a Kubernetes cluster, through its official client; the only module that imports it.

That client takes a second to import and weighs 75 MB, so it is an extra, and nothing of it is imported before a
cluster is needed. It brings what every user has: kubeconfigs with their exec plugins, and the account of a pod.
"""

from __future__ import annotations

import os
import re
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from astro_cli.deploy.kubernetes.api import SECONDS, refusal
from astro_cli.foundation.errors import TargetError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Mapping

    from astro_cli.deploy.kubernetes.api import Answer, Channel, Cluster
    from astro_cli.domain.deployments import Deployment

CONFIG_VARIABLE = "ASTRO_KUBECONFIG"
"""The text of a kubeconfig, for CI jobs."""
REQUIREMENT = "kubernetes>=36"


def connect(deployment: Deployment, environ: Mapping[str, str]) -> Cluster:
    """Log in to a deployment's cluster: with ASTRO_KUBECONFIG, a kubeconfig, or as the pod that this runs in.

    Raises:
        TargetError: there is no way to it.
    """
    try:
        from kubernetes import client, config
    except ImportError as exc:
        raise TargetError(
            f"the deployment `{deployment.name}` is on Kubernetes, for which astro lacks the package `kubernetes`",
            hint=f"`{sys.executable} -m uv pip install --python {sys.executable} '{REQUIREMENT}'` adds it",
        ) from exc
    configuration = client.Configuration()
    text = environ.get(CONFIG_VARIABLE, "")
    named = os.path.expanduser(deployment.kubeconfig) or environ.get("KUBECONFIG", "")  # noqa: PTH111 - may be a list
    file = named or os.path.expanduser(config.KUBE_CONFIG_DEFAULT_LOCATION)  # noqa: PTH111
    context = deployment.context or None
    try:
        if text:
            import yaml

            content = yaml.safe_load(text)
            config.load_kube_config_from_dict(content, context=context, client_configuration=configuration)
        elif not named and not os.path.exists(file) and not context and "KUBERNETES_SERVICE_HOST" in environ:  # noqa: PTH110
            config.load_incluster_config(client_configuration=configuration)
        else:
            config.load_kube_config(file, context=context, client_configuration=configuration)
    except Exception as exc:
        raise _no_way(deployment, file, text, exc) from exc
    configuration.retries = False
    return _Connected(client.ApiClient(configuration), deployment.where)


def _no_way(deployment: Deployment, file: str, text: str, exc: Exception) -> TargetError:
    source = f"${CONFIG_VARIABLE}" if text else file
    hint = "`kubectl config get-contexts` shows what there is"
    if deployment.context and f"name {deployment.context} in" in str(exc):
        return TargetError(f"{source} has no context `{deployment.context}`", hint=hint)
    if not text and not any(os.path.exists(each) for each in file.split(os.pathsep)):  # noqa: PTH110 - may be a list
        return TargetError(
            f"there is no kubeconfig {source}",
            hint=f"name one: `kubeconfig:` in .astro/config.yaml, or KUBECONFIG; or its text in {CONFIG_VARIABLE}",
        )
    reason = " ".join(str(exc).split()) or type(exc).__name__
    return TargetError(f"the kubeconfig {source} leads to no cluster: {reason}", hint=hint)


class _Connected:
    """A cluster through the official client; see `Cluster`."""

    def __init__(self, client: Any, where: str) -> None:  # noqa: ANN401 - an ApiClient, which is not typed
        self._client = client
        self._where = where

    def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        content_type: str = "application/json",
        seconds: tuple[float, float | None] = SECONDS,
    ) -> Answer:
        """See `Cluster`."""
        import urllib3

        headers = self._headers(method, path)
        headers["Accept"] = "application/json, */*"
        if body is not None:
            headers["Content-Type"] = content_type
        timeout = urllib3.Timeout(connect=seconds[0], read=seconds[1])
        try:
            answer: Answer = self._client.rest_client.pool_manager.request(
                method, self._url(path), headers=headers, body=body, timeout=timeout, preload_content=False
            )
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            raise self._unreachable(exc) from exc
        return _Guarded(answer, self._unreachable)

    def execute(self, path: str) -> Channel:
        """See `Cluster`."""
        from kubernetes.stream.ws_client import WSClient

        with self._opening():
            url = self._url(path).replace("http", "ws", 1)
            found = WSClient(self._client.configuration, url, self._headers("GET", path), False, binary=True)
        return _Exec(found)

    def forward(self, path: str, port: int, client: socket.socket) -> None:
        """See `Cluster`."""
        from kubernetes.stream.ws_client import PortForward, create_websocket

        headers = {**self._headers("GET", path), "sec-websocket-protocol": "v4.channel.k8s.io"}
        with self._opening():
            url = self._url(path).replace("http", "ws", 1)
            forward = PortForward(create_websocket(self._client.configuration, url, headers), [port])
        pod = forward.socket(port)
        try:
            _join(client, pod)
        finally:
            forward.close()

    @contextmanager
    def _opening(self) -> Iterator[None]:
        import websocket

        try:
            yield
        except websocket.WebSocketBadStatusException as exc:
            body = exc.resp_body or b""
            raise refusal(
                self._where, exc.status_code, body if isinstance(body, bytes) else body.encode()
            ) from exc
        except (websocket.WebSocketException, OSError) as exc:
            raise self._unreachable(exc) from exc

    def _url(self, path: str) -> str:
        return f"{self._client.configuration.host.rstrip('/')}{path}"

    def _headers(self, method: str, path: str) -> dict[str, str]:
        headers: dict[str, str] = {}
        self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, None)
        return headers

    def _unreachable(self, exc: BaseException) -> TargetError:
        reason = getattr(exc, "reason", None)
        words = (
            re.sub(r"^.*?>?: (?=Failed|\[)|<[^>]*>,? ?", "", str(reason or exc)).strip() or type(exc).__name__
        )
        host = self._client.configuration.host
        hint = "check the network, the VPN and the context (`kubectl config current-context`)"
        if "CERTIFICATE_VERIFY_FAILED" in words:
            hint = "the kubeconfig's `certificate-authority-data` is that of another cluster"
        return TargetError(f"{self._where} cannot be reached at {host}: {words}", hint=hint)


class _Guarded:
    """An answer whose body may break off."""

    def __init__(self, answer: Any, unreachable: Callable[[BaseException], TargetError]) -> None:  # noqa: ANN401
        self._answer = answer
        self._unreachable = unreachable
        self.status: int = answer.status
        self.headers: Mapping[str, str] = answer.headers

    @property
    def data(self) -> bytes:
        return b"".join(self.stream())

    def stream(self) -> Iterator[bytes]:
        import urllib3

        try:
            yield from self._answer.stream(65536)
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            raise self._unreachable(exc) from exc
        finally:
            self._answer.release_conn()


class _Exec:
    """An exec over a websocket; see `Channel`."""

    def __init__(self, client: Any) -> None:  # noqa: ANN401 - a WSClient, which is not typed
        self._client = client

    def is_open(self) -> bool:
        return bool(self._client.is_open())

    def update(self, timeout: float) -> None:
        import websocket

        try:
            self._client.update(timeout=timeout)
        except websocket.WebSocketConnectionClosedException:
            self._client.close()

    def read_channel(self, channel: int) -> bytes:
        data: bytes = self._client._channels.pop(channel, b"")  # `read_channel` waits for more
        return data

    def write_channel(self, channel: int, data: bytes) -> None:
        self._client.write_channel(channel, data)

    def close(self) -> None:
        self._client.close()

    def fileno(self) -> int:
        return int(self._client.sock.sock.fileno())


def _join(client: socket.socket, pod: socket.socket) -> None:
    """Copy both ways until either side ends."""
    import threading

    def copy(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(2)

    back = threading.Thread(target=copy, args=(pod, client), daemon=True)
    back.start()
    copy(client, pod)
    back.join(5.0)
