"""What a builder's messages become: decoded traces, events, results and errors; with a hand-written client."""

from __future__ import annotations

import base64
import io
import json
from typing import IO, TYPE_CHECKING

import pytest

from astro_cli.domain.host_settings import HostSettings
from astro_cli.foundation.errors import AstroError, EngineError, ProjectError
from astro_cli.runtime import build as building
from astro_cli.runtime.build import BuildEvent, BuildRequest
from astro_cli.runtime.buildkit import Log, Vertex, decode_trace

if TYPE_CHECKING:
    from collections.abc import Iterator


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def entry(number: int, value: bytes | str | int) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def moment(seconds: int, nanos: int = 0) -> bytes:
    return entry(1, seconds) + entry(2, nanos)


def vertex(digest: str, name: str, *rest: bytes) -> bytes:
    return entry(1, entry(1, digest) + entry(2, "sha256:in") + entry(3, name) + b"".join(rest))


STARTED, COMPLETED = entry(5, moment(100)), entry(6, moment(102, 500_000_000))


def log(digest: str, text: str) -> bytes:
    return entry(3, entry(1, digest) + entry(2, moment(1)) + entry(3, 1) + entry(4, text))


def trace(*parts: bytes) -> dict[str, object]:
    return {"id": "moby.buildkit.trace", "aux": base64.b64encode(b"".join(parts)).decode()}


IMAGE: dict[str, object] = {"id": "moby.image.id", "aux": {"ID": "sha256:abc"}}


SETTINGS_ID = "sha256:" + "5" * 64


class FakeResponse:
    def __init__(self, body: list[bytes], status: int = 200, cut: bool = False) -> None:
        self.status_code = status
        self._body = body
        self._cut = cut

    def iter_content(self, chunk_size: int | None) -> Iterator[bytes]:
        yield from self._body
        if self._cut:
            raise ConnectionResetError("gone")

    def json(self) -> object:
        return json.loads(b"".join(self._body))

    def close(self) -> None:
        pass


class FakeEngine:
    """Answers each build with the next list of messages."""

    base_url = "http://engine"
    api_version = "1.41"

    def __init__(self, *builds: list[dict[str, object]], cut: bool = False, status: int = 200) -> None:
        self._builds = list(builds)
        self._cut = cut
        self._status = status
        self.asked: list[str] = []

    def post(self, url: str, data: IO[bytes], **options: object) -> FakeResponse:
        self.asked.append(url.removeprefix("http://engine/v1.41"))
        if not url.endswith("/build"):
            return FakeResponse([json.dumps({"status": SETTINGS_ID}).encode()])
        text = "".join(json.dumps(message) + "\r\n" for message in self._builds.pop(0)).encode()
        chunks = [text[start : start + 7] for start in range(0, len(text), 7)]
        return FakeResponse(chunks, self._status, self._cut)

    def delete(self, url: str, **options: object) -> FakeResponse:
        self.asked.append("DELETE " + url.removeprefix("http://engine/v1.41"))
        return FakeResponse([])


REQUEST = BuildRequest("FROM x\nRUN a\n", (), ("t",))


def run(
    engine: FakeEngine, request: BuildRequest = REQUEST
) -> tuple[building.BuildResult, list[BuildEvent], str]:
    events: list[BuildEvent] = []
    text = io.StringIO()
    return building.build(engine, request, log=text, on_event=events.append), events, text.getvalue()


def failure(*messages: dict[str, object], cut: bool = False) -> AstroError:
    with pytest.raises(AstroError) as caught:
        run(FakeEngine(list(messages), cut=cut))
    return caught.value


def failed_step(name: str, error: str, *lines: str) -> tuple[dict[str, object], ...]:
    return (
        trace(vertex("d", name, STARTED), *(log("d", line + "\n") for line in lines)),
        trace(vertex("d", name, STARTED, COMPLETED, entry(7, error))),
        {"errorDetail": {"message": error}, "error": error},
    )


def test_a_trace_is_decoded_and_unknown_fields_are_skipped() -> None:
    status = entry(2, entry(1, "layer") + entry(2, "d") + entry(4, 300) + entry(5, 70_000))
    step = vertex("d", "step", entry(4, 1), STARTED, COMPLETED, entry(99, "new"))

    decoded = decode_trace(step + status + log("d", "é") + entry(9, 1))

    assert decoded.vertexes == (Vertex("d", "step", True, 100.0, 102.5),)
    assert decoded.logs == (Log("d", "é".encode()),)


def test_a_cut_off_trace_is_an_error() -> None:
    with pytest.raises(ValueError, match="cut off"):
        decode_trace(vertex("d", "step")[:-2])


def test_a_build_tells_steps_and_whole_lines_in_order() -> None:
    name = "[1/1] RUN --mount=type=cache,id=astro-build,target=/run/build-cache,mode=0777 a"
    engine = FakeEngine(
        [
            trace(vertex("i", "[internal] load", STARTED, COMPLETED)),
            trace(vertex("d", name, STARTED), log("d", "one\ntw")),
            trace(log("d", "o\r\nlast")),
            trace(vertex("d", name, STARTED, COMPLETED)),
            IMAGE,
        ]
    )

    result, events, text = run(engine)

    step = "[1/1] RUN a"
    assert events == [
        BuildEvent("started", step),
        BuildEvent("line", step, "one"),
        BuildEvent("line", step, "two"),
        BuildEvent("line", step, "last"),
        BuildEvent("done", step, seconds=2.5),
    ]
    assert (result.image_id, result.cached) == ("sha256:abc", False)
    assert "  two\n" in text


def test_settings_are_brought_before_a_build_and_removed_by_id_after_it_with_forgotten_ones() -> None:
    engine = FakeEngine([IMAGE])
    settings = HostSettings(ca_bundle=b"x")

    run(engine, BuildRequest("FROM x\n", (), ("t",), settings=settings))

    assert engine.asked == ["/images/create", "/build", f"DELETE /images/{SETTINGS_ID}", "/images/prune"]


def test_the_helpers_last_line_is_the_message() -> None:
    said = 'astro: requirement "x==9" (line 3 of requirements.txt) cannot be installed: x was not found'
    error = failure(*failed_step("[2/2] RUN install-requirements r", "exit code: 1", "uv says", said))

    assert isinstance(error, ProjectError)
    assert error.message == said.removeprefix("astro: ")
    assert error.details == ("uv says",)


def test_a_base_image_that_needs_a_login_is_a_base_image_that_cannot_be_pulled() -> None:
    error = failure(*failed_step("[internal] load metadata for docker.io/library/x:1", "pull access denied"))

    assert error.message == "the base image `x:1` cannot be pulled"


def test_a_full_disk_is_recognised_in_the_error_itself() -> None:
    error = failure(*failed_step("exporting to image", "write /var/lib/docker: no space left on device"))

    assert "disk" in error.message


@pytest.mark.parametrize("cut", [True, False])
def test_a_build_that_ends_without_a_result_means_that_the_engine_went_away(cut: bool) -> None:
    error = failure(trace(vertex("d", "[1/1] RUN a", STARTED)), cut=cut)

    assert isinstance(error, EngineError)
    assert "went away" in error.message


def test_the_text_of_another_builder_is_understood() -> None:
    engine = FakeEngine(
        [
            {"stream": "STEP 1/2: FROM x\n"},
            {"stream": "STEP 2/2: RUN a\n"},
            {"stream": "hello\n"},
            {"stream": "Successfully built 0123456789ab\n"},
        ]
    )

    result, events, _ = run(engine)

    assert [(event.kind, event.step, event.text) for event in events] == [
        ("started", "STEP 1/2: FROM x", ""),
        ("done", "STEP 1/2: FROM x", ""),
        ("started", "STEP 2/2: RUN a", ""),
        ("line", "STEP 2/2: RUN a", "hello"),
        ("done", "STEP 2/2: RUN a", ""),
    ]
    assert result.image_id == "0123456789ab"


def test_a_step_that_fails_on_podman_is_not_taken_for_missing_settings() -> None:
    step = "RUN --mount=type=bind,from=localhost/astro/build-settings:1,target=/run/build false"
    told = f'building at STEP "{step}": while running runtime: exit status 1'
    engine = FakeEngine(
        [
            {"stream": "[1/2] STEP 1/2: FROM x\n"},
            {"stream": "[1/2] STEP 2/2: RUN false\n"},
            {"stream": "the reason\n"},
            {"errorDetail": {"message": told}, "error": told},
        ]
    )

    with pytest.raises(AstroError) as caught:
        run(engine)

    assert engine.asked == ["/build"]
    assert caught.value.message == "a step of the Dockerfile failed with exit code 1: `RUN false`"
    assert caught.value.details == ("the reason",)


def test_a_builder_without_mounts_is_asked_again_without_them() -> None:
    refused = "the --mount option requires BuildKit. Refer to the documentation"
    engine = FakeEngine([{"errorDetail": {"message": refused}, "error": refused}], [IMAGE])

    result, _, _ = run(engine)

    assert engine.asked == ["/build", "/build"]
    assert result.image_id == "sha256:abc"


def test_an_engine_that_refuses_the_request_is_quoted() -> None:
    with pytest.raises(AstroError, match="invalid reference format"):
        run(FakeEngine([{"message": "invalid reference format"}], status=400))
