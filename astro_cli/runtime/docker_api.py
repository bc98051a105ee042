"""The one door to the Docker SDK: every call that changes something on an engine goes through `DockerApi`.

The SDK's errors become astro's here, in the user's words. Reading is `engine_http`'s job, which is cheaper.
"""

from __future__ import annotations

import io
import os
import select
import signal
import struct
import sys
import tarfile
import tempfile
import time
import uuid
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any

import docker
import docker.errors
import docker.tls
import docker.types
import requests
import urllib3.exceptions

from astro_cli.foundation import labels
from astro_cli.foundation.errors import AstroError, EngineError
from astro_cli.runtime.engine import PortTakenError
from astro_cli.runtime.engine_http import unreachable
from astro_cli.runtime.terminal import raw_terminal

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from astro_cli.runtime.endpoint import Endpoint
    from astro_cli.runtime.plan import ContainerSpec, PrivateFile

CALL_SECONDS = 120
VOLUME_TRIES, VOLUME_PAUSE = 20, 0.2
END_PAUSE = 0.3
LOG_CONFIG = {"max-size": "10m", "max-file": "3"}


class RefusedError(AstroError):
    """The engine refuses a call; `status` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class DockerApi:
    """One connection to one engine."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        tls: docker.tls.TLSConfig | bool = False
        if endpoint.tls_folder is not None:
            folder = endpoint.tls_folder
            tls = docker.tls.TLSConfig(
                client_cert=(str(folder / "cert.pem"), str(folder / "key.pem")),
                ca_cert=str(folder / "ca.pem"),
                verify=True,
            )
        with self._translated():
            self.client = docker.APIClient(
                base_url=endpoint.url, version="auto", timeout=CALL_SECONDS, tls=tls
            )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except docker.errors.APIError as exc:
            raise _explained(exc) from exc
        except (
            docker.errors.DockerException,
            requests.RequestException,
            urllib3.exceptions.HTTPError,
        ) as exc:
            raise unreachable(self._endpoint, _system_error(exc) or exc) from exc

    def call(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        **query: str,
    ) -> Any:  # noqa: ANN401 - whatever JSON the engine sends
        """Any call of the Engine API, for what the SDK does not know; returns the decoded answer or None.

        Raises:
            RefusedError: the engine answers with an error.
        """
        with self._translated():
            response = self.client.request(
                method,
                f"{self.client.base_url}/v{self.client.api_version}{path}",
                json=body,
                params=query,
                headers=dict(headers or {}),
                timeout=CALL_SECONDS,
            )
            if response.status_code >= requests.codes.bad_request:
                try:
                    message = str(response.json()["message"])
                except (ValueError, KeyError):
                    message = response.text.strip() or response.reason
                raise RefusedError(response.status_code, message)
            return response.json() if response.content.strip() else None

    def copy_image(self, image_id: str, to: DockerApi) -> None:
        """Copy an image to another engine, all of its layers."""
        with self._translated(), to._translated():
            to.client.load_image(self.client.get_image(image_id))  # type: ignore[no-untyped-call]

    # networks, volumes, images

    def push(self, reference: str, login: Mapping[str, str] | None) -> Iterator[dict[str, Any]]:
        """Push a tagged image; yields what the engine tells, an `errorDetail` among it when it failed.

        Args:
            login: `username` and `password`, or `identitytoken`; None to push without.
        """
        with self._translated():
            # Without a login the SDK would look for one of its own, in the home of this process.
            told: Iterator[dict[str, Any]] = self.client.push(
                reference,
                stream=True,
                decode=True,
                auth_config=dict(login or {"username": "", "password": ""}),
            )
            yield from told

    def pull(self, reference: str, login: Mapping[str, str] | None = None) -> Iterator[dict[str, Any]]:
        """Pull an image by its tag or digest; yields what the engine tells, an `errorDetail` among it.

        Args:
            login: see `push`.
        """
        with self._translated():
            client: Any = self.client
            yield from client.pull(reference, stream=True, decode=True, auth_config=dict(login or {}))

    def save_image(self, image_id: str, stream: IO[bytes]) -> None:
        """Write an image as `docker save` does."""
        with self._translated():
            client: Any = self.client
            for piece in client.get_image(image_id):
                stream.write(piece)

    def image_id(self, reference: str) -> str | None:
        """The id of an image; None when the engine has none of that name or id."""
        with self._translated(), suppress(docker.errors.NotFound):
            client: Any = self.client
            return str(client.inspect_image(reference)["Id"])
        return None

    def tag(self, image: str, reference: str) -> None:
        """Give an image another name."""
        repository, _, tag = reference.rpartition(":")
        with self._translated():
            self.client.tag(image, repository, tag, force=True)

    def untag(self, reference: str) -> None:
        """Take a name, or name and digest, off an image; not the last one, with which the image would go."""
        with self._translated(), _gone_is_fine(also_conflict=True):
            client: Any = self.client
            known = client.inspect_image(reference)
            if len({*known["RepoTags"], *known["RepoDigests"]} - {reference}) > 0:
                client.remove_image(reference, noprune=True)

    def copy_from_image(self, image: str, paths: Sequence[str], folder: Path) -> None:
        """Copy files or folders of an image into a folder here, as far as the image has them. Nothing runs."""
        with self._translated():
            container = self.client.create_container(image=image, command=["true"])["Id"]
            try:
                for path in paths:
                    with tempfile.TemporaryFile() as copy, _gone_is_fine():
                        for piece in self.client.get_archive(container, path)[0]:
                            copy.write(piece)
                        copy.seek(0)
                        with tarfile.open(fileobj=copy) as archive:
                            archive.extractall(folder, filter="data")
            finally:
                self.client.remove_container(container, force=True)

    @contextmanager
    def volume_door(self, volume: str, image: str, marks: Mapping[str, str]) -> Iterator[VolumeDoor]:
        """A way to a volume's files: a container of `image` that sees the volume and is never started.

        Args:
            marks: labels by which it is found, should a kill leave it there.
        """
        with self._translated():
            mount = docker.types.Mount(VolumeDoor.PLACE, volume, type="volume")
            host_config: Any = self.client.create_host_config(mounts=[mount], network_mode="none")
            door = self.client.create_container(
                image=image, command=["true"], host_config=host_config, labels=dict(marks)
            )["Id"]
            try:
                yield VolumeDoor(self.client, door)
            finally:
                with _gone_is_fine():
                    self.client.remove_container(door, force=True)

    def create_network(self, name: str, marks: Mapping[str, str]) -> None:
        """Make a bridge network."""
        with self._translated():
            self.client.create_network(name, driver="bridge", labels=dict(marks), check_duplicate=True)

    def remove_network(self, network_id: str) -> None:
        """Remove a network; one that is already gone is fine."""
        with self._translated(), _gone_is_fine():
            self.client.remove_network(network_id)

    def create_volume(self, name: str, marks: Mapping[str, str]) -> None:
        """Make a named volume; the engine fills it from the image when a container first uses it."""
        with self._translated():
            self.client.create_volume(name, labels=dict(marks))

    def remove_volume(self, name: str) -> None:
        """Remove a volume; one that is already gone is fine.

        The engine lets go of a volume a moment after it has removed the container, so a conflict is tried
        again. Never by force: the engine then forgets a volume that it cannot delete, and its old data is back
        when the next one of that name is made.
        """
        with self._translated(), _gone_is_fine():
            for _ in range(VOLUME_TRIES):
                try:
                    self.client.remove_volume(name, force=False)
                    return
                except docker.errors.APIError as exc:
                    if exc.status_code not in (requests.codes.conflict, requests.codes.server_error):
                        raise
                    time.sleep(VOLUME_PAUSE)
            self.client.remove_volume(name, force=False)

    def remove_image(self, image_id: str) -> None:
        """Remove an image; one that is gone, or still used elsewhere, is left alone."""
        with self._translated(), _gone_is_fine(also_conflict=True):
            self.client.remove_image(image_id, force=False, noprune=False)

    # containers

    def create_container(
        self,
        spec: ContainerSpec,
        *,
        name: str,
        network: str,
        marks: Mapping[str, str],
        bind: str = "127.0.0.1",
        keep: bool = False,
    ) -> str:
        """Create (not start) a container with its private files inside; returns its id.

        Args:
            marks: its labels, beside those of `spec`.
            bind: address of the engine's machine on which its ports are published.
            keep: whether the engine starts it again whenever it ends, until it is stopped.
        """
        with self._translated():
            host_config: Any = self.client.create_host_config(
                # Not `binds`: those break at a colon in the path, and make folders that do not exist.
                mounts=[
                    docker.types.Mount(
                        mount.target,
                        mount.source,
                        type="bind" if mount.source.startswith("/") else "volume",
                        read_only=mount.read_only,
                    )
                    for mount in spec.mounts
                ],
                port_bindings={inside: (bind, outside) for inside, outside in spec.ports.items()},
                restart_policy=_restart_policy(spec, keep=keep),
                cap_drop=[] if spec.strange else ["ALL"],
                security_opt=["no-new-privileges:true"],
                log_config=docker.types.LogConfig(type="json-file", config=LOG_CONFIG),
                extra_hosts={"host.docker.internal": "host-gateway"},
            )
            networking = self.client.create_networking_config(
                {network: self.client.create_endpoint_config(aliases=[spec.name])}  # type: ignore[arg-type]  # the stub is wrong
            )
            container_id = str(
                self.client.create_container(
                    image=spec.image,
                    command=list(spec.command),
                    name=name,
                    hostname=spec.name,
                    user=spec.user,
                    environment=dict(spec.environment),
                    ports=list(spec.ports),
                    labels={**marks, **spec.marks, labels.CONFIG_HASH: spec.config_hash},
                    host_config=host_config,
                    networking_config=networking,
                    stop_timeout=spec.stop_seconds if keep else None,
                )["Id"]
            )
            self.client.put_archive(container_id, "/", _archive(spec.files))
        return container_id

    def start_container(self, container_id: str, ports: Sequence[int] = ()) -> None:
        """Start a container.

        Raises:
            PortTakenError: one of the host ports it publishes belongs to somebody else.
        """
        try:
            self.client.start(container_id)
        except docker.errors.APIError as exc:
            text = str(exc.explanation)
            if "port is already allocated" in text or "address already in use" in text:
                port = next((port for port in ports if f":{port}" in text), ports[0] if ports else 0)
                raise PortTakenError(port) from exc
            raise _explained(exc) from exc
        except (docker.errors.DockerException, requests.RequestException) as exc:
            raise unreachable(self._endpoint, _system_error(exc) or exc) from exc

    def stop_container(self, container_id: str, seconds: int) -> None:
        """TERM, then KILL after `seconds`; a container that is gone is fine."""
        with self._translated(), _gone_is_fine():
            self.client.stop(container_id, timeout=seconds)

    def end_container(self, container_id: str) -> None:
        """TERM, then wait as long as it takes; a container that is gone or has ended is fine."""
        with self._translated(), _gone_is_fine(also_conflict=True):
            self.client.kill(container_id, "SIGTERM")
            while self.client.inspect_container(container_id)["State"]["Running"]:
                time.sleep(END_PAUSE)

    def copy_container(self, container_id: str, name: str, alias: str, files: Sequence[str]) -> str:
        """Create (not start) a container like another one, with the same private files; returns its id.

        Args:
            alias: its name on the network and to itself, and its label `astro.service`.
            files: paths inside.
        """
        with self._translated():
            told = self.client.inspect_container(container_id)
        (network,) = told["NetworkSettings"]["Networks"]
        config = told["Config"]
        body = {
            **{key: config[key] for key in ("Cmd", "User", "Env", "StopSignal") if config.get(key)},
            "Image": told["Image"],
            "Hostname": alias,
            "Labels": {**config["Labels"], labels.SERVICE: alias},
            "HostConfig": told["HostConfig"],
            "NetworkingConfig": {"EndpointsConfig": {network: {"Aliases": [alias]}}},
        }
        created = str(self.call("POST", "/containers/create", body=body, name=name)["Id"])
        with self._translated():
            for path in files:
                pieces, _ = self.client.get_archive(container_id, path)
                self.client.put_archive(created, path.rpartition("/")[0], b"".join(pieces))
        return created

    def remove_container(self, container_id: str) -> None:
        """Kill and remove a container with its anonymous volumes; one that is gone is fine."""
        with self._translated(), _gone_is_fine(also_conflict=True):
            self.client.remove_container(container_id, force=True, v=True)

    def run_to_end(self, container_id: str, on_line: Callable[[str], None]) -> int:
        """Start a created container, hand on each line that it writes, and return its exit code."""
        with self._translated():
            self.client.start(container_id)
            stream: Iterator[bytes] = self.client.logs(container_id, stream=True, follow=True)
            pending = b""
            for chunk in stream:
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    on_line(line.decode(errors="replace"))
            if pending:
                on_line(pending.decode(errors="replace"))
            return int(self.client.wait(container_id, timeout=CALL_SECONDS)["StatusCode"])

    # commands inside

    def run_inside(
        self,
        container_id: str,
        command: Sequence[str],
        *,
        interactive: bool = False,
        stdin: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> int:
        """Run a command in a running container, its streams joined to ours; returns its exit code.

        With `interactive` the command gets a terminal that follows this one's size, and every key but none of
        the signals of this process. Otherwise Ctrl-C is passed on as SIGINT.
        """
        token = uuid.uuid4().hex
        with self._translated():
            exec_id = self.client.exec_create(
                container_id,
                list(command),
                stdin=stdin,
                tty=interactive,
                environment={**(environment or {}), "ASTRO_EXEC": token},
            )["Id"]
            stream: Any = self.client.exec_start(exec_id, tty=interactive, socket=True)
            connection: socket.socket = getattr(stream, "_sock", stream)
            try:
                if interactive:
                    with raw_terminal(), self._following_size(exec_id):
                        _pump(connection, sys.stdin.fileno(), sys.stdout.buffer, framed=False)
                else:
                    source = sys.stdin.fileno() if stdin else None
                    _pump(connection, source, sys.stdout.buffer, framed=True)
            except KeyboardInterrupt:
                self._signal_inside(container_id, token)
                raise
            finally:
                stream.close()
            return self._exit_code(exec_id)

    def join(self, container_id: str, command: Sequence[str], client: socket.socket) -> None:
        """Run a command in a running container with a connection as its input and output, until one side ends."""
        with self._translated():
            exec_id = self.client.exec_create(container_id, list(command), stdin=True)["Id"]
            stream: Any = self.client.exec_start(exec_id, socket=True)
        connection: socket.socket = getattr(stream, "_sock", stream)
        try:
            with suppress(OSError), client.makefile("wb") as output:  # whoever ends first, it is the end
                _pump(connection, client.fileno(), output, framed=True)
        finally:
            stream.close()

    def output_of(self, container_id: str, command: Sequence[str]) -> tuple[int, str]:
        """Run a short command in a running container; returns its exit code and both outputs as text."""
        with self._translated():
            exec_id = self.client.exec_create(container_id, list(command))["Id"]
            output = self.client.exec_start(exec_id)
            return self._exit_code(exec_id), bytes(output).decode(errors="replace")

    def _exit_code(self, exec_id: str) -> int:
        for _ in range(50):
            code = self.client.exec_inspect(exec_id)["ExitCode"]
            if code is not None:
                return int(code)
            time.sleep(0.02)
        raise AstroError("the command's connection ended before the command did")

    def _signal_inside(self, container_id: str, token: str) -> None:
        script = 'for p in /proc/[0-9]*; do grep -qs "$0" $p/environ && kill -INT ${p#/proc/}; done; true'
        self.output_of(container_id, ["sh", "-c", script, f"ASTRO_EXEC={token}"])

    @contextmanager
    def _following_size(self, exec_id: str) -> Iterator[None]:
        def resize(*_: object) -> None:
            size = os.get_terminal_size(sys.stdout.fileno())
            self.client.exec_resize(exec_id, height=size.lines, width=size.columns)

        before = signal.signal(signal.SIGWINCH, resize)
        try:
            resize()
            yield
        finally:
            signal.signal(signal.SIGWINCH, before)


class VolumeDoor:
    """Reads and writes files of one volume; see `DockerApi.volume_door`."""

    PLACE = "/volume"

    def __init__(self, client: docker.APIClient, container_id: str) -> None:
        self._client = client
        self._container_id = container_id

    def read(self, name: str) -> bytes | None:
        """A file's content; None when there is none of that name."""
        try:
            chunks, _ = self._client.get_archive(self._container_id, f"{self.PLACE}/{name}")
        except docker.errors.NotFound:
            return None
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
            content = archive.extractfile(archive.getmembers()[0])
            return content.read() if content is not None else None

    def write(self, files: Mapping[str, bytes], *, owner: int) -> None:
        """Write files with the folders above them, for everybody to read. A reader may meet a part of one.

        Args:
            owner: number of the user who may remove them.
        """
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for folder in sorted({name.rpartition("/")[0] for name in files} - {""}):
                member = tarfile.TarInfo(folder)
                member.type, member.mode, member.uid = tarfile.DIRTYPE, 0o755, owner
                archive.addfile(member)
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size, member.mode, member.mtime = len(content), 0o644, int(time.time())
                member.uid = owner
                archive.addfile(member, io.BytesIO(content))
        self._client.put_archive(self._container_id, self.PLACE, buffer.getvalue())


def _restart_policy(spec: ContainerSpec, *, keep: bool) -> dict[str, Any] | None:
    if keep:
        return {"Name": "unless-stopped"}
    return {"Name": "on-failure", "MaximumRetryCount": spec.restarts} if spec.restarts else None


@contextmanager
def _gone_is_fine(*, also_conflict: bool = False) -> Iterator[None]:
    try:
        yield
    except docker.errors.NotFound:
        pass
    except docker.errors.APIError as exc:
        if not (also_conflict and exc.status_code == requests.codes.conflict):
            raise


def _explained(exc: docker.errors.APIError) -> AstroError:
    text = str(exc.explanation or exc).strip()
    if "no space left on device" in text:
        return AstroError(
            "the Docker engine's disk is full",
            hint="free some space (`docker system df` shows what takes it), then run the same command again",
            details=(text,),
        )
    if "non-overlapping IPv4 address pool" in text or "fully subnetted" in text:
        return EngineError(
            "the Docker engine has no free network address range left",
            hint="remove unused networks (`docker network prune`), then try again",
        )
    if "is not shared from the host" in text or "mounts denied" in text.lower():
        return EngineError(
            "the Docker engine may not see the project's folder",
            hint="share the folder in the engine's settings (File sharing), then try again",
            details=(text,),
        )
    if "bind source path does not exist" in text:
        return EngineError(
            "the Docker engine does not see the project's folder",
            hint="a sandbox needs an engine on this machine: see DOCKER_HOST and `docker context show`",
            details=(text,),
        )
    return AstroError(
        f"the Docker engine refused: {text}",
        hint="run the same command again; the engine's own log may say more",
    )


def _system_error(exc: BaseException) -> OSError | None:
    """The operating system's error at the bottom of what `requests` wraps around it."""
    seen: list[BaseException] = []
    queue: list[object] = [exc]
    while queue:
        current = queue.pop(0)
        if not isinstance(current, BaseException) or current in seen:
            continue
        seen.append(current)
        if isinstance(current, OSError) and not isinstance(current, requests.RequestException):
            return current
        queue += [current.__cause__, current.__context__, getattr(current, "reason", None), *current.args]
    return None


def _archive(files: Sequence[PrivateFile]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for file in files:
            content = file.content.encode()
            member = tarfile.TarInfo(file.path.lstrip("/"))
            member.size = len(content)
            member.mode = 0o400
            member.uid = file.owner
            member.mtime = int(time.time())
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _pump(connection: socket.socket, source: int | None, output: IO[bytes], *, framed: bool) -> None:
    """Copy from a descriptor to the command, and from it to a stream, until the command closes its side.

    `framed` output carries Docker's eight-byte headers, which tell stdout (1) from stderr (2). More input is read
    only when the last is sent, and nothing waits for a command that does not read: what it writes must come out.
    """
    import socket as sockets

    outputs = {1: output, 2: sys.stderr.buffer}
    pending = unsent = b""
    while True:
        sources: list[socket.socket | int] = [connection]
        if source is not None and not unsent:
            sources.append(source)
        ready, writable, _ = select.select(sources, [connection] if unsent else [], [])
        if connection in ready:
            try:
                chunk = connection.recv(65536)
            except ConnectionError:
                return
            if not chunk:
                return
            if not framed:
                output.write(chunk)
                output.flush()
                continue
            pending += chunk
            while len(pending) >= 8:
                channel, length = struct.unpack(">BxxxL", pending[:8])
                if len(pending) < 8 + length:
                    break
                target = outputs.get(channel, output)
                target.write(pending[8 : 8 + length])
                target.flush()
                pending = pending[8 + length :]
        elif writable:
            try:
                unsent = unsent[_send(connection, unsent) :]
            except OSError:  # the command does not read any more
                unsent, source = b"", None
        elif source is not None and source in ready:
            unsent = os.read(source, 65536)
            if not unsent:
                source = None
                with suppress(OSError):
                    connection.shutdown(sockets.SHUT_WR)


def _send(connection: socket.socket, data: bytes) -> int:
    """Send what fits without waiting; returns how many bytes that were."""
    import socket as sockets
    import ssl

    if isinstance(connection, ssl.SSLSocket):  # knows no flags
        return connection.send(data[:4096])
    try:
        return connection.send(data, sockets.MSG_DONTWAIT)
    except BlockingIOError:
        return 0
