"""The calls to a Kubernetes cluster that deployments need.

Objects are plain dicts here, applied by the server (https://kubernetes.io/docs/reference/using-api/server-side-apply/).
"""

from __future__ import annotations

import json
import os
import re
import select
import sys
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import IO, TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlencode

from astro_cli.foundation.errors import AstroError, TargetError

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Mapping, Sequence

    Object = dict[str, Any]

MANAGER = "astro"
NOT_FOUND, CONFLICT, FORBIDDEN, UNAUTHORIZED = 404, 409, 403, 401
SECONDS = (10.0, 60.0)
"""To connect, and for each answer."""
_STDOUT, _STDERR, _ERROR, _RESIZE = 1, 2, 3, 4  # channels of exec's protocol

KINDS = {
    "ConfigMap": ("v1", "configmaps"),
    "Deployment": ("apps/v1", "deployments"),
    "Ingress": ("networking.k8s.io/v1", "ingresses"),
    "Job": ("batch/v1", "jobs"),
    "Lease": ("coordination.k8s.io/v1", "leases"),
    "PersistentVolumeClaim": ("v1", "persistentvolumeclaims"),
    "Pod": ("v1", "pods"),
    "PodDisruptionBudget": ("policy/v1", "poddisruptionbudgets"),
    "ReplicaSet": ("apps/v1", "replicasets"),
    "Role": ("rbac.authorization.k8s.io/v1", "roles"),
    "RoleBinding": ("rbac.authorization.k8s.io/v1", "rolebindings"),
    "Secret": ("v1", "secrets"),
    "Service": ("v1", "services"),
    "ServiceAccount": ("v1", "serviceaccounts"),
    "StatefulSet": ("apps/v1", "statefulsets"),
}
"""Version of each kind's group, and its name in addresses."""
BETA_BUDGETS = "policy/v1beta1"
"""Where PodDisruptionBudgets are before Kubernetes 1.21."""


class RefusedError(AstroError):
    """The cluster refuses a call; `status` is HTTP's, `reason` Kubernetes' word for it."""

    code = "target"
    exit_code = 7

    def __init__(self, status: int, message: str, *, reason: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.reason = reason


class Answer(Protocol):
    """What a cluster answers to one request."""

    @property
    def status(self) -> int:
        """HTTP's."""

    @property
    def headers(self) -> Mapping[str, str]:
        """HTTP's."""

    @property
    def data(self) -> bytes:
        """All of the body."""

    def stream(self) -> Iterator[bytes]:
        """The body as it comes."""


class Channel(Protocol):
    """A running exec; what comes is kept for each channel until it is read."""

    def is_open(self) -> bool:
        """Whether more may come."""

    def update(self, timeout: float) -> None:
        """Wait at most so long for something to come."""

    def read_channel(self, channel: int) -> bytes:
        """What has come on a channel."""

    def write_channel(self, channel: int, data: bytes) -> None:
        """Send."""

    def close(self) -> None:
        """End it."""

    def fileno(self) -> int:
        """Of its socket."""


class Cluster(Protocol):
    """A way to a cluster, logged in."""

    def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        content_type: str = "application/json",
        seconds: tuple[float, float | None] = SECONDS,
    ) -> Answer:
        """One request; raises `TargetError` when there is no answer at all."""

    def execute(self, path: str) -> Channel:
        """Begin an exec; raises `TargetError` when there is no answer, `RefusedError` for a refusal."""

    def forward(self, path: str, port: int, client: socket.socket) -> None:
        """Let a connection lead to a port of a pod until either side ends."""


class KubernetesApi:
    """One namespace of one cluster.

    Every method raises `TargetError` when the cluster does not answer any more or refuses the login, and
    `RefusedError` with Kubernetes' own words for what it refuses.

    Args:
        where: how the cluster is called in messages.
    """

    def __init__(self, cluster: Cluster, namespace: str, where: str) -> None:
        self._cluster = cluster
        self.namespace = namespace
        self.where = where
        self._now: datetime | None = None
        self._version: tuple[int, int] | None = None

    def call(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        content_type: str = "application/json",
        **query: str,
    ) -> Object:
        """One request; the decoded answer."""
        address = f"{path}?{urlencode(query)}" if query else path
        content = None if body is None else json.dumps(body).encode()
        answer = self._cluster.request(method, address, body=content, content_type=content_type)
        with suppress(TypeError, ValueError):
            self._now = parsedate_to_datetime(answer.headers.get("Date", ""))
        data = answer.data
        if answer.status >= 400:
            raise refusal(self.where, answer.status, data)
        try:
            return dict(json.loads(data))
        except ValueError as exc:
            raise TargetError(f"{self.where} does not answer as a Kubernetes does") from exc

    # objects

    def get(self, kind: str, name: str) -> Object | None:
        """An object of the namespace; None when there is none."""
        try:
            return self.call("GET", f"{self._folder(kind)}/{name}")
        except RefusedError as exc:
            if exc.status == NOT_FOUND:
                return None
            raise

    def list(self, kind: str, labels: str) -> list[Object]:
        """Objects that a selector of labels fits; without the namespace there are none."""
        return list(self.call("GET", self._folder(kind), labelSelector=labels)["items"])

    def create(self, wanted: Mapping[str, Any], *, dry_run: bool = False) -> Object:
        """Make an object that is not there yet."""
        return self.call("POST", self._folder(wanted["kind"]), body=self._known(wanted), **_dry(dry_run))

    def apply(self, wanted: Mapping[str, Any], *, dry_run: bool = False) -> Object:
        """Let an object be as it is wanted; fields that others set, and we never did, stay. Returns it as it is."""
        path = f"{self._folder(wanted['kind'])}/{wanted['metadata']['name']}"
        return self.call(
            "PATCH", path, body=self._known(wanted), content_type="application/apply-patch+yaml",
            fieldManager=MANAGER, force="true", **_dry(dry_run),
        )  # fmt: skip

    def merge(self, kind: str, name: str, patch: Mapping[str, Any]) -> Object:
        """Change some fields of an object."""
        path = f"{self._folder(kind)}/{name}"
        return self.call("PATCH", path, body=patch, content_type="application/merge-patch+json")

    def delete(self, kind: str, name: str, *, uid: str = "", foreground: bool = False) -> bool:
        """Remove an object and what it made; False when it is not there.

        Args:
            uid: remove it only if it is still this very one.
            foreground: it is there until what it made is gone.
        """
        body: Object = {"propagationPolicy": "Foreground" if foreground else "Background"}
        if uid:
            body["preconditions"] = {"uid": uid}
        try:
            self.call("DELETE", f"{self._folder(kind)}/{name}", body=body)
        except RefusedError as exc:
            if exc.status in (NOT_FOUND, CONFLICT):
                return False
            raise
        return True

    def _known(self, wanted: Mapping[str, Any]) -> Mapping[str, Any]:
        """An object in the words of the cluster's version."""
        return {**wanted, "apiVersion": self._group(wanted["kind"])}

    def _group(self, kind: str) -> str:
        is_old = kind == "PodDisruptionBudget" and self.version < (1, 21)
        return BETA_BUDGETS if is_old else KINDS[kind][0]

    def _folder(self, kind: str) -> str:
        group, plural = self._group(kind), KINDS[kind][1]
        return f"/{'api' if group == 'v1' else 'apis'}/{group}/namespaces/{self.namespace}/{plural}"

    # the cluster

    @property
    def version(self) -> tuple[int, int]:
        """Of Kubernetes."""
        if self._version is None:
            told = self.call("GET", "/version")
            major, minor = (int(re.sub(r"\D.*", "", str(told[key])) or 0) for key in ("major", "minor"))
            self._version = (major, minor)
        return self._version

    @property
    def now(self) -> datetime:
        """The cluster's clock, as of its last answer."""
        return self._now or datetime.now(timezone.utc)

    # pods

    def output_of(
        self, pod: str, command: Sequence[str], *, container: str, seconds: float = 120.0
    ) -> tuple[int, str]:
        """Run a short command in a pod; returns its exit code, and what it wrote on standard output."""
        import time

        channel = self._cluster.execute(
            self._exec_path(pod, container, command, stdout="true", stderr="true")
        )
        try:
            end = time.monotonic() + seconds
            while channel.is_open() and time.monotonic() < end:
                channel.update(timeout=1.0)
            output = channel.read_channel(_STDOUT)
            return _exit_code(channel.read_channel(_ERROR)), output.decode(errors="replace")
        finally:
            channel.close()

    def run_inside(self, pod: str, command: Sequence[str], *, container: str, interactive: bool) -> int:
        """Run a command in a pod on this terminal; returns its exit code."""
        streams = {
            "stdout": "true",
            **({"stdin": "true", "tty": "true"} if interactive else {"stderr": "true"}),
        }
        channel = self._cluster.execute(self._exec_path(pod, container, command, **streams))
        try:
            with _terminal(channel) if interactive else nullcontext():
                while channel.is_open():
                    if interactive:
                        _type(channel)
                    channel.update(timeout=0.0 if interactive else 1.0)
                    for number, stream in ((_STDOUT, sys.stdout.buffer), (_STDERR, sys.stderr.buffer)):
                        _show(stream, channel.read_channel(number))
            return _exit_code(channel.read_channel(_ERROR))
        finally:
            channel.close()

    def forward(self, pod: str, port: int, client: socket.socket) -> None:
        """Let a connection lead to a port of a pod until either side ends."""
        self._cluster.forward(f"{self._folder('Pod')}/{pod}/portforward?ports={port}", port, client)

    def lines(
        self,
        pod: str,
        *,
        container: str,
        follow: bool = False,
        previous: bool = False,
        tail: int | None = None,
        since: int | None = None,
    ) -> Iterator[str]:
        """What a container of a pod wrote, each line behind its time. Nothing while it has not begun.

        Args:
            previous: of the one that died before the present one.
            since: seconds back from now.
        """
        query = {"container": container, "timestamps": "true"}
        query |= {name: "true" for name, wanted in (("follow", follow), ("previous", previous)) if wanted}
        query |= {"tailLines": str(tail)} if tail is not None else {}
        query |= {"sinceSeconds": str(since)} if since is not None else {}
        path = f"{self._folder('Pod')}/{pod}/log?{urlencode(query)}"
        answer = self._cluster.request("GET", path, seconds=(SECONDS[0], None if follow else SECONDS[1]))
        if answer.status >= 400:
            if answer.status in (400, NOT_FOUND):  # it waits for its image, or is gone
                return
            raise refusal(self.where, answer.status, answer.data)
        rest = b""
        for chunk in answer.stream():
            *whole, rest = (rest + chunk).split(b"\n")
            yield from (line.decode(errors="replace") for line in whole)
        if rest:
            yield rest.decode(errors="replace")

    def _exec_path(self, pod: str, container: str, command: Sequence[str], **streams: str) -> str:
        query = urlencode(
            [("container", container), *streams.items(), *(("command", word) for word in command)]
        )
        return f"{self._folder('Pod')}/{quote(pod)}/exec?{query}"


def selector(marks: Mapping[str, str]) -> str:
    """A selector of labels."""
    return ",".join(f"{key}={value}" for key, value in marks.items())


def _dry(wanted: bool) -> dict[str, str]:
    return {"dryRun": "All"} if wanted else {}


def _exit_code(told: bytes) -> int:
    """What the last channel of an exec says; 137 when the connection broke before it said anything."""
    try:
        status = json.loads(told)
        return 0 if status["status"] == "Success" else int(status["details"]["causes"][0]["message"])
    except (ValueError, LookupError, TypeError):
        return 137


def _show(stream: IO[bytes], data: bytes) -> None:
    if data:
        stream.write(data)
        stream.flush()


def _type(channel: Channel) -> None:
    """Hand on what was typed, once there is something to read or to show."""
    keyboard = sys.stdin.fileno()
    ready, _, _ = select.select([keyboard, channel.fileno()], [], [], 0.2)
    if keyboard in ready:
        channel.write_channel(0, os.read(keyboard, 4096))


@contextmanager
def _terminal(channel: Channel) -> Iterator[None]:
    from astro_cli.runtime.terminal import raw_terminal

    size = os.get_terminal_size()
    channel.write_channel(_RESIZE, json.dumps({"Width": size.columns, "Height": size.lines}).encode())
    with raw_terminal():
        yield


# what clusters say

_MAY_NOT = re.compile(
    r'User "(?P<user>[^"]*)" cannot (?P<verb>\w+) resource "(?P<resource>[^"]*)" in API group "(?P<group>[^"]*)"'
    r'(?: in the namespace "(?P<namespace>[^"]*)"| at the cluster scope)'
)
_QUOTA = re.compile(r"exceeded quota: (?P<name>[^,]+), (?P<rest>requested: .*)")


def refusal(where: str, status: int, data: bytes) -> AstroError:
    """The error for what a cluster refused, in the user's words."""
    try:
        body = json.loads(data)
        message, reason = str(body["message"]), str(body.get("reason", ""))
    except (ValueError, LookupError, TypeError):
        message, reason = data.decode(errors="replace").strip()[:300] or f"HTTP {status}", ""
    if status == UNAUTHORIZED or 'User "system:anonymous"' in message:
        return TargetError(
            f"{where} refuses the login: it has expired, was revoked, or is for another cluster",
            hint="log in to the cluster again; `kubectl get pods` shows the same as long as it does not work",
        )
    if found := _MAY_NOT.search(message):
        what = f"{found['verb']} {found['resource']}{f'.{group}' if (group := found['group']) else ''}"
        place = f" in the namespace {found['namespace']}" if found["namespace"] else ""
        return RefusedError(
            status,
            f"`{found['user']}` may not {what}{place}",
            reason=reason,
            hint="ask the cluster's administrator for that right; docs/kubernetes.md lists what a deployment needs",
        )
    if found := _QUOTA.search(message):
        return RefusedError(
            status,
            f"the quota `{found['name']}` of the namespace is exceeded: {found['rest']}",
            reason=reason,
            hint="lower `replicas` or `resources`, or ask for a larger quota",
        )
    return RefusedError(status, f"{where} refuses: {message}", reason=reason)
