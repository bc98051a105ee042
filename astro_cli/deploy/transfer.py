"""Brings an image to a host without any registry: the host's engine pulls it from here, through the SSH connection.

While it pulls, this process is a read-only registry on loopback, which a reverse forward shows to the host. An
engine asks for the layers that it lacks and no others, so a second deploy sends what has changed. Layers go as the
engine here saved them, under the digests by which every engine knows them, whoever saved them; `ssh -C` compresses.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import posixpath
import random
import re
import secrets
import tarfile
import tempfile
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Protocol

from astro_cli.foundation.errors import AstroError, EngineError, TargetError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager

    from astro_cli.runtime.engine import Report

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
_PORTS = range(20_000, 32_000)  # below those that systems give out by themselves
_PORT_TRIES = 4
_CHUNK = 1 << 18
_GZIP = b"\x1f\x8b"


class LocalApi(Protocol):
    """What is used of the engine that has the image: see `runtime.docker_api.DockerApi`."""

    def save_image(self, image_id: str, stream: IO[bytes]) -> None:
        """Write an image as `docker save` does."""


class RemoteApi(Protocol):
    """What is used of the host's engine: see `runtime.docker_api.DockerApi`."""

    def image_id(self, reference: str) -> str | None:
        """The id of an image; None when there is none of that name or id."""

    def pull(self, reference: str) -> Iterator[dict[str, Any]]:
        """Pull an image and tell how it goes."""

    def tag(self, image: str, reference: str) -> None:
        """Give an image another name."""

    def untag(self, reference: str) -> None:
        """Take a name off an image, unless it is the last one."""


class Tunnel(Protocol):
    """What is used of an SSH connection."""

    def reverse(self, remote_port: int, local_port: int) -> AbstractContextManager[None]:
        """While entered, a port on the host's loopback leads to one on ours."""


def transfer(
    local_api: LocalApi, image_id: str, remote_api: RemoteApi, ssh: Tunnel, repository: str, report: Report
) -> str:
    """Have an image of this machine's engine on the host's; returns the id by which that one knows it.

    An engine in swarm mode runs an image by its id, if it has it, without asking any registry.

    Args:
        repository: name to give to the image on the host, for people, and so that nobody takes it for a leftover.

    Raises:
        TargetError: the host cannot be reached any more.
        AstroError: the host refuses the image, for example because its disk is full.
    """
    name = f"{repository}:{image_id.removeprefix('sha256:')[:12]}"
    with _reached():
        known = remote_api.image_id(image_id)
        if known is not None:
            remote_api.tag(known, name)
            return known
    with tempfile.TemporaryFile() as archive:
        local_api.save_image(image_id, archive)
        image = SavedImage(archive)
        with _reached(), _serving(image) as port:
            known = _pulled(remote_api, ssh, image, port, name, report)
        report.detail(f"sent {image.sent} bytes of {image.size}")
    return known


@contextmanager
def _reached() -> Iterator[None]:
    """What is an engine to the adapter is the target here."""
    try:
        yield
    except EngineError as exc:
        raise TargetError(
            f"lost the host: {exc.message}", hint="see whether it is up, then run the same command again"
        ) from exc


def _pulled(
    remote_api: RemoteApi, ssh: Tunnel, image: SavedImage, port: int, name: str, report: Report
) -> str:
    error = ""
    with ExitStack() as forwards:
        remote_port = _forward(forwards, ssh, port)
        reference = f"127.0.0.1:{remote_port}/{image.path}@{image.digest}"
        for line in remote_api.pull(reference):
            if "errorDetail" in line:
                error = str(line["errorDetail"].get("message") or "no reason given")
            elif line.get("id") and line.get("status"):
                report.detail(f"{line['id']} {line['status']} {line.get('progress') or ''}".rstrip())
    if error:
        raise _explained(error)
    known = remote_api.image_id(reference)
    if known is None:
        raise AstroError("the host's engine does not have the image that it has just pulled")
    remote_api.tag(known, name)
    remote_api.untag(reference)
    return known


def _forward(forwards: ExitStack, ssh: Tunnel, port: int) -> int:
    """Lead a free port on the host's loopback to ours; returns it."""
    for left in reversed(range(_PORT_TRIES)):
        remote_port = random.choice(_PORTS)  # noqa: S311 - no secret
        try:
            forwards.enter_context(ssh.reverse(remote_port, port))
        except TargetError as exc:
            if not left or "remote port forwarding failed" not in " ".join((exc.message, *exc.details)):
                raise
        else:
            return remote_port
    raise AssertionError("the last try returns or raises")


def _explained(text: str) -> AstroError:
    if "no space left on device" in text:
        return AstroError(
            "the host's disk is full",
            hint="free some space there (`docker system df` shows what takes it), then deploy again",
            details=(text,),
        )
    if "127.0.0.1" in text:
        return TargetError(
            f"the host's engine lost the way to the layers: {text}",
            hint="see that the connection holds, and that its sshd allows TCP forwarding; then deploy again",
        )
    return AstroError(f"the host's engine refused the image: {text}")


@dataclass(frozen=True)
class _Blob:
    """A part of the archive."""

    offset: int
    size: int
    media_type: str


class SavedImage:
    """What `docker save` wrote, as a registry shows it: a manifest and blobs, which lie where they were saved.

    Attributes:
        digest: of the manifest.
        path: name of the repository; nobody can guess it, as others on the host can reach it, too.
        size: bytes of all blobs.
        sent: bytes of blobs that were asked for so far.
    """

    def __init__(self, archive: IO[bytes]) -> None:
        self._archive = archive
        self._reading = threading.Lock()
        self._blobs: dict[str, _Blob] = {}
        archive.seek(0)
        with tarfile.open(fileobj=archive, mode="r:") as saved:
            members = {member.name: member for member in saved}
            listed = json.loads(self._read(_followed(members, "manifest.json")))[0]
            config = self._read(_followed(members, listed["Config"]))
            layers = [_followed(members, name) for name in listed["Layers"]]
        diff_ids = json.loads(config)["rootfs"]["diff_ids"]
        config_digest = _digest(config)
        self._blobs[config_digest] = self._blob(_followed(members, listed["Config"]), CONFIG_TYPE)
        descriptors = [self._descriptor(config_digest)]
        for diff_id, layer in zip(diff_ids, layers, strict=True):
            digest, media_type = str(diff_id), LAYER_TYPE
            if self._begins_with(layer, _GZIP):  # saved by an engine that keeps layers as they were pulled
                digest, media_type = "sha256:" + layer.name.rpartition("/")[2], f"{LAYER_TYPE}+gzip"
            self._blobs[digest] = self._blob(layer, media_type)
            descriptors.append(self._descriptor(digest))
        body = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptors[0],
            "layers": descriptors[1:],
        }
        self.manifest = json.dumps(body, sort_keys=True).encode()
        self.digest = _digest(self.manifest)
        self.path = secrets.token_hex(16)
        self.size = sum(blob.size for blob in self._blobs.values())
        self.sent = 0

    def size_of(self, digest: str) -> int | None:
        """Bytes of a blob; None when the image has no such one."""
        blob = self._blobs.get(digest)
        return None if blob is None else blob.size

    def read(self, digest: str, start: int) -> Iterator[bytes]:
        """A blob from `start` on, piece by piece."""
        blob = self._blobs[digest]
        position, end = blob.offset + start, blob.offset + blob.size
        while position < end:
            with self._reading:
                self._archive.seek(position)
                piece = self._archive.read(min(_CHUNK, end - position))
                self.sent += len(piece)
            position += len(piece)
            yield piece

    def _read(self, member: tarfile.TarInfo) -> bytes:
        self._archive.seek(member.offset_data)
        return self._archive.read(member.size)

    def _begins_with(self, member: tarfile.TarInfo, start: bytes) -> bool:
        self._archive.seek(member.offset_data)
        return self._archive.read(len(start)) == start

    def _blob(self, member: tarfile.TarInfo, media_type: str) -> _Blob:
        return _Blob(member.offset_data, member.size, media_type)

    def _descriptor(self, digest: str) -> dict[str, object]:
        blob = self._blobs[digest]
        return {"mediaType": blob.media_type, "digest": digest, "size": blob.size}


def _followed(members: Mapping[str, tarfile.TarInfo], name: str) -> tarfile.TarInfo:
    """The file of a name; engines before 25 save a layer that is there twice as a link."""
    member = members[name]
    while member.issym():
        member = members[posixpath.normpath(posixpath.join(posixpath.dirname(member.name), member.linkname))]
    return member


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@contextmanager
def _serving(image: SavedImage) -> Iterator[int]:
    """Answer as a registry on a free port of this machine's loopback; yields the port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def log_message(self, *_: object) -> None:
            """Nothing of it is for people."""

        def _answer(self, *, with_body: bool) -> None:
            kind, _, digest = self.path.removeprefix(f"/v2/{image.path}/").partition("/")
            if self.path == "/v2/":
                self._head(200, 2, "application/json")
                self._body([b"{}"], with_body)
            elif kind == "manifests" and digest == image.digest:
                self._head(200, len(image.manifest), MANIFEST_TYPE)
                self._body([image.manifest], with_body)
            elif kind == "blobs" and (size := image.size_of(digest)) is not None:
                start = _start(self.headers.get("Range", ""))
                self._head(
                    206 if start else 200, size - start, "application/octet-stream", start=start, of=size
                )
                self._body(image.read(digest, start), with_body)
            else:
                self._head(404, 0, "text/plain")

        def _head(self, code: int, length: int, media_type: str, *, start: int = 0, of: int = 0) -> None:
            self.send_response(code)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(length))
            self.send_header("Docker-Distribution-API-Version", "registry/2.0")
            if code == 206:
                self.send_header("Content-Range", f"bytes {start}-{of - 1}/{of}")
            if media_type == MANIFEST_TYPE:
                self.send_header("Docker-Content-Digest", image.digest)
            self.end_headers()

        def _body(self, pieces: Any, with_body: bool) -> None:  # noqa: ANN401 - an iterable of bytes
            if not with_body:
                return
            try:
                for piece in pieces:
                    self.wfile.write(piece)
            except OSError:  # the other side has what it wants, or is gone
                self.close_connection = True

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _start(text: str) -> int:
    """Where a range begins; engines ask for the rest of a blob, never for a part."""
    found = re.fullmatch(r"bytes=(\d+)-", text)
    return int(found.group(1)) if found else 0
