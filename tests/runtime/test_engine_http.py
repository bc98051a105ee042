from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from astro_cli.foundation.errors import EngineError
from astro_cli.runtime.endpoint import Endpoint
from astro_cli.runtime.engine_http import EngineReader, NotFound, unreachable
from tests.fake_engine import EMPTY_ENGINE, FakeEngine, SilentEngine


def reader(url: str, **options: object) -> EngineReader:
    return EngineReader(Endpoint(url, "DOCKER_HOST"), **options)  # type: ignore[arg-type]


def test_an_engine_says_what_it_is(tmp_path: Path):
    engine = FakeEngine(tmp_path / "docker.sock")
    try:
        info = reader(engine.url).info()
    finally:
        engine.close()
    assert (info.name, info.version, info.platform) == ("Docker", "99.0", "linux/amd64")


def test_podman_is_called_by_its_name(tmp_path: Path):
    version = {"Version": "4.3.1", "Components": [{"Name": "Podman Engine"}]}
    engine = FakeEngine(tmp_path / "podman.sock", {**EMPTY_ENGINE, "/version": version})
    try:
        assert reader(engine.url).info().name == "Podman"
    finally:
        engine.close()


def test_a_name_with_any_character_is_asked_for_as_it_is(tmp_path: Path):
    engine = FakeEngine(tmp_path / "docker.sock")
    try:
        with pytest.raises(NotFound):
            reader(engine.url).json("/images/a b?c#d%e/ünï/json")
    finally:
        engine.close()
    assert engine.asked == ["/images/a b?c#d%e/ünï/json"]


def test_an_engine_that_never_answers_is_given_up(tmp_path: Path):
    engine = SilentEngine(tmp_path / "docker.sock")
    began = time.monotonic()
    try:
        with pytest.raises(EngineError, match="does not answer") as caught:
            reader(engine.url, patience=0.2).info()
    finally:
        engine.close()
    assert time.monotonic() - began < 30
    assert caught.value.hint


@pytest.mark.parametrize("answer", [b"<html>hello</html>", b"", b"\xff\xfe", b"{"])
def test_something_else_that_answers_is_not_taken_for_an_engine(tmp_path: Path, answer: bytes):
    engine = FakeEngine(tmp_path / "other.sock", {"/version": answer})
    try:
        with pytest.raises(EngineError, match="is not a Docker engine"):
            reader(engine.url).info()
    finally:
        engine.close()


def test_an_engine_that_hangs_up_in_the_middle_is_one_error(tmp_path: Path):
    door = socket.socket(socket.AF_UNIX)
    door.bind(str(tmp_path / "docker.sock"))
    door.listen()

    def half_an_answer() -> None:
        connection, _ = door.accept()
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
        connection.close()

    thread = threading.Thread(target=half_an_answer)
    thread.start()
    try:
        with pytest.raises(EngineError):
            reader(f"unix://{tmp_path / 'docker.sock'}").info()
    finally:
        thread.join()
        door.close()


@pytest.mark.parametrize(
    "url",
    [
        "nonsense", "ssh://me@host", "tcp://", "tcp://host:port", "tcp://[bad", "npipe:////./pipe/docker",
        "fd://", "http://", "unix:///" + "x" * 200, "unix:///nowhere/docker.sock", "unix://", "tcp://127.0.0.1:1",
        "tcp://no-such-host.invalid:2375",
    ],
)  # fmt: skip
def test_an_address_that_leads_nowhere_is_one_error_with_a_way_out(url: str):
    with pytest.raises(EngineError) as caught:
        reader(url).info()
    assert url in caught.value.message
    assert caught.value.hint


def test_missing_tls_files_are_named(tmp_path: Path):
    endpoint = Endpoint("tcp://127.0.0.1:2376", "DOCKER_HOST", tmp_path)
    with pytest.raises(EngineError, match=str(tmp_path)):
        EngineReader(endpoint).info()


def test_permission_refused_says_how_to_get_it():
    error = unreachable(
        Endpoint("unix:///var/run/docker.sock", "the usual sockets"), PermissionError(13, "no")
    )
    assert "no permission" in error.message
    assert "usermod -aG docker" in str(error.hint)
