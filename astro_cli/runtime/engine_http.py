"""Read-only questions to the Docker Engine API, over the standard library.

Importing the Docker SDK costs three times as much as all the rest of `astro airflow ps`, so the commands that
only look (`ps`, `list`, `logs`, `version`, a `start` with nothing to do) ask through this door. Everything
that changes something goes through the SDK in `docker_api`.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from astro_cli.foundation.errors import AstroError, EngineError
from astro_cli.runtime.endpoint import EngineInfo, find_endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from astro_cli.runtime.endpoint import Endpoint

ANSWER_SECONDS = 20.0
"""A busy engine may need some; one that hangs is given up after it."""


class NotFound(AstroError):
    """The engine answers that the thing asked for does not exist."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class EngineReader:
    """Sends GET requests to one engine.

    Every method raises `EngineError` when the engine does not answer (within `patience` seconds), or refuses us,
    and `NotFound` for a 404.
    """

    def __init__(self, endpoint: Endpoint, *, patience: float = ANSWER_SECONDS) -> None:
        self.endpoint = endpoint
        self._patience = patience

    def info(self) -> EngineInfo:
        """What answers."""
        answer = self.json("/version")
        parts = [str(part.get("Name", "")) for part in answer.get("Components") or []]
        return EngineInfo(
            name="Podman" if any("Podman" in part for part in parts) else "Docker",
            version=str(answer.get("Version", "unknown")),
            platform=f"{answer.get('Os', 'linux')}/{answer.get('Arch', 'unknown')}",
            address=self.endpoint.url,
        )

    def json(self, path: str, /, **query: str) -> Any:  # noqa: ANN401 - whatever JSON the engine sends
        """The decoded answer to `GET path`."""
        try:
            return json.loads(self.read(path, **query))
        except ValueError as exc:
            raise self._not_an_engine() from exc

    def read(self, path: str, /, **query: str) -> bytes:
        """The whole body of the answer to `GET path`."""
        return b"".join(self.stream(path, timeout=self._patience, **query))

    def stream(self, path: str, /, *, timeout: float | None = None, **query: str) -> Iterator[bytes]:
        """The body of the answer, as it arrives. `timeout` in seconds is for each read; None waits for ever."""
        target = quote(path) + (f"?{urlencode(query)}" if query else "")
        connection = self._connection(timeout)
        try:
            try:
                connection.request("GET", target)
                response = connection.getresponse()
            except (OSError, http.client.HTTPException) as exc:
                raise unreachable(self.endpoint, exc) from exc
            if response.status >= http.HTTPStatus.BAD_REQUEST:
                reason = _message(response.read())
                if reason is None:
                    raise self._not_an_engine()
                if response.status == http.HTTPStatus.NOT_FOUND:
                    raise NotFound(reason)
                raise EngineError(f"the Docker engine refused: {reason}")
            try:
                while chunk := response.read1(65536):
                    yield chunk
            except (OSError, http.client.HTTPException) as exc:
                raise unreachable(self.endpoint, exc) from exc
        finally:
            connection.close()

    def _connection(self, timeout: float | None) -> http.client.HTTPConnection:
        if self.endpoint.socket is not None:
            return _UnixConnection(str(self.endpoint.socket), timeout)
        try:
            parts = urlsplit(self.endpoint.url)
            _ = parts.port  # refuses anything but a number
        except ValueError as exc:
            raise self._not_an_address() from exc
        if parts.scheme in ("tcp", "http") and self.endpoint.tls_folder is None and parts.hostname:
            return http.client.HTTPConnection(parts.hostname, parts.port or 2375, timeout=timeout)
        if parts.scheme in ("tcp", "https") and self.endpoint.tls_folder is not None and parts.hostname:
            import ssl

            folder = self.endpoint.tls_folder
            try:
                context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
                context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
            except OSError as exc:
                raise EngineError(
                    f"the engine's TLS files in {folder} cannot be used: {exc}",
                    hint="it must hold ca.pem, cert.pem and key.pem; DOCKER_CERT_PATH names another folder",
                ) from exc
            return http.client.HTTPSConnection(
                parts.hostname, parts.port or 2376, timeout=timeout, context=context
            )
        raise self._not_an_address()

    def _not_an_engine(self) -> EngineError:
        return EngineError(
            f"what answers at {self.endpoint.url} (from {self.endpoint.source}) is not a Docker engine",
            hint="correct the address (DOCKER_HOST or the docker context)",
        )

    def _not_an_address(self) -> EngineError:
        return EngineError(
            f"the engine address {self.endpoint.url} (from {self.endpoint.source}) is not one astro can run a "
            "sandbox on",
            hint="use a local engine (unix://…) or a tcp://… address",
        )


def find_reader(environ: Mapping[str, str]) -> EngineReader:
    """The door to this machine's engine; nothing is connected to yet.

    Raises:
        EngineError: nothing points to an engine.
    """
    endpoint = find_endpoint(environ, home=Path(os.path.expanduser("~")), uid=os.getuid())  # noqa: PTH111 - never fails
    if endpoint is None:
        raise EngineError(
            "no Docker engine was found on this machine",
            hint="install and start Docker (https://docs.docker.com/engine/install/), or set DOCKER_HOST",
        )
    return EngineReader(endpoint)


def unreachable(endpoint: Endpoint, cause: BaseException) -> EngineError:
    """The error for an engine that does not answer, by what the operating system said."""
    where = f"{endpoint.url} (from {endpoint.source})"
    if isinstance(cause, PermissionError):
        return EngineError(
            f"no permission to use the Docker engine at {where}",
            hint="add yourself to its group (`sudo usermod -aG docker $USER`, then log in again)",
        )
    if isinstance(cause, (FileNotFoundError, ConnectionRefusedError)):
        return EngineError(
            f"no Docker engine answers at {where}",
            hint="start Docker (or Podman, Colima, OrbStack), then try again",
        )
    if isinstance(cause, TimeoutError):
        return EngineError(
            f"the Docker engine at {where} does not answer: it accepts the connection, then says nothing",
            hint="it hangs or is overloaded: restart it, then run the same command again",
        )
    if isinstance(cause, socket.gaierror) or getattr(cause, "strerror", None) == "AF_UNIX path too long":
        return EngineError(
            f"the engine address {where} leads nowhere: {cause}",
            hint="correct the address (DOCKER_HOST or the docker context)",
        )
    return EngineError(
        f"lost the connection to the Docker engine at {where}: {cause or type(cause).__name__}",
        hint="see whether the engine still runs, then run the same command again",
    )


def _message(body: bytes) -> str | None:
    """The reason an engine gives for a refusal; None if this is nothing an engine would say."""
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return None
