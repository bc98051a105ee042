"""Builds images over the Engine API, with BuildKit but without a client binary or a session.

BuildKit reports in messages that `buildkit` decodes; engines with another builder (Podman) report lines of text,
which are understood as well.
"""

from __future__ import annotations

import base64
import io
import json
import re
import tempfile
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import IO, TYPE_CHECKING, Any, Literal, Protocol, TextIO

from astro_cli.domain.build_context import ContextFile, write_context
from astro_cli.domain.host_settings import BUILD_SETTINGS_IMAGE, HostSettings, with_host_settings
from astro_cli.foundation import labels
from astro_cli.foundation.errors import AstroError, EngineError, ProjectError
from astro_cli.runtime.buildkit import Vertex, decode_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

BUILT_DOCKERFILE = ".astro.Dockerfile"
DETAIL_LINES = 20
SETTINGS_KIND = "build-settings"
FORGOTTEN = "1h"
"""Age at which the settings of a build are nobody's any more, as the Engine API writes times."""


class Response(Protocol):
    """What is used of a `requests.Response`."""

    status_code: int

    def iter_content(self, chunk_size: int | None) -> Iterator[bytes]:
        """The body as it arrives."""

    def json(self) -> object:
        """The body, decoded."""

    def close(self) -> None:
        """Ends the connection."""


class BuildClient(Protocol):
    """What is used of a `docker.APIClient`."""

    base_url: str

    @property
    def api_version(self) -> str:
        """Such as `1.41`."""

    def post(self, url: str, data: IO[bytes], **options: object) -> Response:
        """Sends a request; see `requests.Session.post`."""

    def delete(self, url: str, **options: object) -> Response:
        """Sends a request; see `requests.Session.delete`."""


@dataclass(frozen=True)
class BuildRequest:
    """One image to build.

    Args:
        dockerfile: its text, as the user wrote it.
        files: the context; see `build_context.project_context` and `engine_context`.
        tags: names of the image.
        target: stage to build; the last one if empty.
        arguments: build arguments; they show in the image's history.
        settings: of the host; never part of the image.
        no_cache: run every step again.
    """

    dockerfile: str
    files: tuple[ContextFile, ...]
    tags: tuple[str, ...]
    target: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    arguments: Mapping[str, str] = field(default_factory=dict)
    settings: HostSettings = field(default_factory=HostSettings)
    no_cache: bool = False


@dataclass(frozen=True)
class BuildEvent:
    """Progress of a build: a step's state, or a line that a step wrote.

    `seconds` is how long a done or failed step took; `text` is the line, or the error of a failed step.
    """

    kind: Literal["started", "done", "cached", "failed", "line"]
    step: str
    text: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class BuildResult:
    """A finished build."""

    image_id: str
    seconds: float
    cached: bool


def build(
    client: BuildClient,
    request: BuildRequest,
    *,
    log: TextIO,
    on_event: Callable[[BuildEvent], None],
) -> BuildResult:
    """Builds an image and waits for it.

    Args:
        client: a `docker.APIClient`.
        request: what to build.
        log: receives the whole log as text.
        on_event: is told of progress, in the calling thread.

    Raises:
        ProjectError: the Dockerfile, a requirement, a package or the base image is at fault.
        AstroError: a step failed, or the disk is full.
        EngineError: the engine went away.
    """
    started = time.monotonic()
    settings = request.settings
    try:
        try:
            report = _attempt(client, request, log, on_event)
        except _SettingsGone:  # another build with the same settings ended and took their image away
            report = _second_attempt(client, request, log, on_event)
        except _NoMounts:
            plain = replace(settings, ca_bundle=b"", pip_conf="", uv_toml="", apt_mirror="")
            report = _attempt(client, replace(request, settings=plain), log, on_event, mounts=False)
    except OSError as exc:
        raise EngineError(
            "the Docker engine went away during the build",
            hint="see that it runs (`docker info`), then try again: finished steps are kept",
        ) from exc
    return BuildResult(report.image_id, time.monotonic() - started, report.all_cached)


class _SettingsGone(Exception):
    """Not an error: a reason to try once more."""


class _NoMounts(Exception):
    """The builder does not know `--mount`: without it the build can still work."""


def _second_attempt(
    client: BuildClient, request: BuildRequest, log: TextIO, on_event: Callable[[BuildEvent], None]
) -> _Report:
    try:
        return _attempt(client, request, log, on_event)
    except _SettingsGone as exc:
        raise AstroError(
            f"the engine does not find the build settings that it was given: {exc}",
            hint="try again; if it stays, another engine or a newer version of this one may do",
        ) from exc


def _attempt(
    client: BuildClient,
    request: BuildRequest,
    log: TextIO,
    on_event: Callable[[BuildEvent], None],
    *,
    mounts: bool = True,
) -> _Report:
    settings = request.settings
    flags = settings.mounts() if mounts else ()
    arguments = settings.arguments() if mounts else {}
    dockerfile = with_host_settings(request.dockerfile, flags, arguments)
    url = f"{client.base_url}/v{client.api_version}"
    params: dict[str, Any] = {
        "version": "2",
        "dockerfile": BUILT_DOCKERFILE,
        "t": list(request.tags),
        "target": request.target,
        "labels": json.dumps(dict(request.labels)),
        "buildargs": json.dumps({**dict(settings.proxies), **request.arguments}),
        "nocache": "1" if request.no_cache else "0",
        "rm": "1",
        "forcerm": "1",
    }
    report = _Report(log, on_event, flags)
    settings_image = settings.image() if mounts else None
    brought = ""
    with tempfile.TemporaryFile() as context:
        write_context(
            (*request.files, ContextFile(BUILT_DOCKERFILE, content=dockerfile.encode("utf-8"))), context
        )
        context.seek(0)
        try:
            if settings_image:
                brought = _bring_settings(client, url, settings, settings_image)
            response = client.post(
                f"{url}/build",
                data=context,
                params=params,
                headers={"Content-Type": "application/tar"},
                stream=True,
                timeout=None,
            )
            _read(response, report)
        finally:
            if brought:
                _remove_quietly(client, f"{url}/images/{brought}")
                _remove_forgotten(client, url)
    if report.error is None and not report.image_id:
        raise ConnectionError("the build ended without a result")
    if report.error is not None:
        if mounts and re.search(r"--mount option requires BuildKit|[Uu]nknown flag: mount", report.error):
            raise _NoMounts
        # Podman quotes the whole step, with our mounts in it, before it says what went wrong.
        reason = re.sub(r'building at STEP ".*": ', "", report.error, flags=re.DOTALL)
        if BUILD_SETTINGS_IMAGE in reason or BUILD_SETTINGS_IMAGE in report.failed_name:
            raise _SettingsGone(report.error)
        raise _explain(report, dockerfile, tuple(f"ARG {k}={v}" for k, v in arguments.items()))
    return report


def _bring_settings(client: BuildClient, url: str, settings: HostSettings, name: str) -> str:
    """Brings the image of the settings; returns its id.

    A build removes its own image by id: another one at work may have brought the same name since.
    """
    with tempfile.TemporaryFile() as archive:
        write_context(
            (ContextFile(file, content=content) for file, content in settings.files().items()), archive
        )
        archive.seek(0)
        response = client.post(
            f"{url}/images/create",
            data=archive,
            params={
                "fromSrc": "-",
                "repo": name,  # with its tag: Podman overlooks a separate one
                "changes": f"LABEL {labels.KIND}={SETTINGS_KIND}",
            },
            headers={"Content-Type": "application/tar"},
            timeout=None,
        )
        if response.status_code >= 400:
            raise AstroError(f"the engine does not take the build settings: {_message(response)}")
        said = [str(message.get("status", "")) for message in _messages(response.iter_content(None))]
    ids = [text for text in said if re.fullmatch(r"(sha256:)?[0-9a-f]{64}", text)]
    return ids[-1] if ids else name


def _remove_quietly(client: BuildClient, url: str) -> None:
    with suppress(OSError):  # the engine is gone; the build says so
        client.delete(url, params={"force": "1"}, timeout=30)


def _remove_forgotten(client: BuildClient, url: str) -> None:
    """Remove the settings that a killed build has left; one that is still at work brings its own once more."""
    filters = {"label": [f"{labels.KIND}={SETTINGS_KIND}"], "dangling": ["false"], "until": [FORGOTTEN]}
    with suppress(OSError):
        client.post(
            f"{url}/images/prune", data=io.BytesIO(), params={"filters": json.dumps(filters)}, timeout=30
        )


def _message(response: Response) -> str:
    try:
        body = response.json()
    except ValueError:
        body = None
    message = body.get("message") if isinstance(body, dict) else None
    return str(message or f"HTTP status {response.status_code}")


def _read(response: Response, report: _Report) -> None:
    if response.status_code >= 400:
        report.error = _message(response)
        return
    try:
        for message in _messages(response.iter_content(None)):
            report.take(message)
    finally:
        response.close()


def _messages(chunks: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """JSON objects, one a line."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in (*lines,):
            if line.strip():
                yield json.loads(line)
    if rest.strip():
        yield json.loads(rest)


# What the messages mean


class _Report:
    """Follows a build's messages: tells events, writes the log, keeps what an error will need."""

    def __init__(self, log: TextIO, on_event: Callable[[BuildEvent], None], flags: tuple[str, ...]) -> None:
        self.image_id = ""
        self.error: str | None = None
        self.failed_name = ""
        self.failed_digest = ""
        self.all_cached = True
        self._log = log
        self._tell = on_event
        self._flags = tuple(f" --mount={flag}" for flag in flags)
        self._names: dict[str, str] = {}
        self._told: dict[str, str] = {}
        self._partial: dict[str, bytes] = {}
        self._tails: dict[str, deque[str]] = {}
        self._classic = ""

    def tail(self) -> tuple[str, ...]:
        """The last lines of the failed step."""
        return tuple(self._tails.get(self.failed_digest, ()))

    def take(self, message: dict[str, Any]) -> None:
        """Handles one message of the engine."""
        if message.get("id") == "moby.buildkit.trace":
            trace = decode_trace(base64.b64decode(message["aux"]))
            for vertex in trace.vertexes:
                self._vertex(vertex)
            for entry in trace.logs:
                self._output(entry.vertex, entry.content)
        elif "error" in message:
            self.error = str((message.get("errorDetail") or {}).get("message") or message["error"])
            self._log.write(f"error: {self.error}\n")
        elif isinstance(message.get("aux"), dict) and "ID" in message["aux"]:
            self.image_id = message["aux"]["ID"]
        elif "stream" in message:
            self._line_of_text(str(message["stream"]))

    def _vertex(self, vertex: Vertex) -> None:
        name = vertex.name
        for flag in self._flags:
            name = name.replace(flag, "")
        self._names[vertex.digest] = name
        seconds = (vertex.completed or 0) - (vertex.started or 0) if vertex.completed else 0.0
        if vertex.error:
            state = "failed"
            if not self.failed_digest and "context canceled" not in vertex.error:
                self.failed_digest, self.failed_name = vertex.digest, name
        elif vertex.completed is not None:
            state = "cached" if vertex.cached else "done"
        elif vertex.started is not None:
            state = "started"
        else:
            return
        if self._told.get(vertex.digest) == state:
            return
        self._told[vertex.digest] = state
        self._flush(vertex.digest, state)
        shown = state if state in ("started", "cached") else f"{state} {seconds:.1f}s"
        self._log.write(f"{shown}: {name}{': ' + vertex.error if vertex.error else ''}\n")
        if state in ("done", "failed") and " RUN " in f" {name}":
            self.all_cached = False
        if name.startswith(("[internal]", "copy /context")) or BUILD_SETTINGS_IMAGE in name:
            return
        if state == "done" and " COPY " in f" {name}":
            self.all_cached = False
        self._tell(BuildEvent(_KINDS[state], name, vertex.error, seconds))

    def _flush(self, digest: str, state: str) -> None:
        if state != "started" and self._partial.get(digest):
            self._output(digest, b"\n")

    def _output(self, digest: str, content: bytes) -> None:
        *lines, rest = (self._partial.get(digest, b"") + content).split(b"\n")
        self._partial[digest] = rest
        for line in lines:
            text = line.decode("utf-8", "replace").rstrip("\r").rsplit("\r", 1)[-1]
            self._keep(digest, text)

    def _keep(self, digest: str, text: str) -> None:
        self._tails.setdefault(digest, deque(maxlen=DETAIL_LINES)).append(text)
        self._log.write(f"  {text}\n")
        self._tell(BuildEvent("line", self._names.get(digest, digest), text))

    def _line_of_text(self, stream: str) -> None:
        for line in stream.splitlines():
            for flag in self._flags:
                line = line.replace(flag, "")
            step = re.match(r"(?i)(?:\[\d+/\d+\] )?step \d+/\d+ ?: (.*)", line)
            built = re.match(r"Successfully built ([0-9a-f]{12,64})", line) or re.fullmatch(
                r"([0-9a-f]{64})", line
            )
            if step:
                self._end_classic("done")
                self._classic = line.strip()
                self._names[self._classic] = self._classic
                self.failed_digest = self.failed_name = self._classic
                self._log.write(f"started: {self._classic}\n")
                if not re.match(r"(?i)(ARG|ENV|LABEL|USER|WORKDIR)\b", step[1]):  # done at once
                    self._tell(BuildEvent("started", self._classic))
            elif line.strip().lower().endswith("using cache") or line.startswith("--> Using cache"):
                self._end_classic("cached")
            elif built:
                self._end_classic("done")
                self.image_id = self.image_id or built[1]
            elif line.strip() and not line.startswith("Successfully tagged"):
                self._keep(self._classic or "build", line)

    def _end_classic(self, state: Literal["done", "cached"]) -> None:
        if self._classic and self._told.get(self._classic) is None:
            self._told[self._classic] = state
            self._tell(BuildEvent(state, self._classic))
            if state == "done" and re.search(r": (RUN|COPY|ADD)\b", self._classic):
                self.all_cached = False


_KINDS: dict[str, Literal["started", "done", "cached", "failed"]] = {
    "started": "started",
    "done": "done",
    "cached": "cached",
    "failed": "failed",
}


def _explain(report: _Report, dockerfile: str, declared: tuple[str, ...]) -> AstroError:
    error = re.sub(
        r"^(failed to solve[^:]*: |failed to create LLB definition: |rpc error: [^=]*=[^=]*= )+",
        "",
        report.error or "",
    )
    tail = report.tail()
    everything = "\n".join((error, *tail))
    if "no space left on device" in everything.lower():
        return AstroError(
            "the disk of the Docker engine is full",
            hint="free space, for example with `docker system prune`, then try again",
            details=tail or (error,),
        )
    said = [line.removeprefix("astro: ") for line in tail if line.startswith("astro: ")]
    if said:
        return ProjectError(said[-1], hint="correct the file and try again", details=tail[:-1])
    base = re.search(r"load metadata for (\S+)|FROM (\S+)$", report.failed_name)
    pulled = re.search(r"pull access denied for ([^\s,]+)|(?:manifest for|manifest unknown:) (\S+)", error)
    unreachable = re.search(r"failed to do request|failed to resolve|dial tcp|not found|denied", error)
    if (base and (unreachable or "load metadata" in report.failed_name)) or pulled:
        match = base or pulled
        name = next(group for group in match.groups() if group) if match else "?"
        name = name.removeprefix("docker.io/library/").removeprefix("docker.io/")
        return ProjectError(
            f"the base image `{name}` cannot be pulled",
            hint=f"check the name after FROM in the Dockerfile, and that `docker pull {name}` works",
            details=(error,),
        )
    parse = re.search(r"(?i)dockerfile parse error(?: on)? line (\d+): (.*)", error)
    if parse:
        above = dockerfile.splitlines()[: int(parse[1])]
        line = int(parse[1]) - sum(text in declared for text in above)
        return ProjectError(f"Dockerfile:{line}: {parse[2]}", hint="correct the line and try again")
    if tail or " RUN " in f" {report.failed_name}":
        step = re.sub(r"^(?:\[[^]]*\] )?(?:(?i:step) [^:]*: )?", "", report.failed_name).strip() or "a step"
        code = re.search(r"(?:exit|returned a non-zero) code:? (\d+)|exit status (\d+)", error)
        number = next((group for group in code.groups() if group), "") if code else ""
        return AstroError(
            f"a step of the Dockerfile failed{f' with exit code {number}' if number else ''}: `{step}`",
            hint="the last lines above say why; correct the Dockerfile or its files and try again",
            details=tail or (error,),
        )
    return AstroError(f"the image cannot be built: {error}", hint="see the build log")
