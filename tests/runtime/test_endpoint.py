from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from astro_cli.foundation.errors import EngineError
from astro_cli.runtime.endpoint import find_endpoint


def add_context(home: Path, name: str, host: str) -> None:
    folder = home / ".docker/contexts/meta" / hashlib.sha256(name.encode()).hexdigest()
    folder.mkdir(parents=True)
    meta = {"Name": name, "Endpoints": {"docker": {"Host": host}}}
    (folder / "meta.json").write_text(json.dumps(meta))


def test_docker_host_wins_over_everything(tmp_path: Path):
    add_context(tmp_path, "colima", "unix:///colima.sock")
    environ = {"DOCKER_HOST": "tcp://10.0.0.1:2375", "DOCKER_CONTEXT": "colima"}
    found = find_endpoint(environ, home=tmp_path, uid=1000)
    assert found is not None
    assert (found.url, found.source) == ("tcp://10.0.0.1:2375", "DOCKER_HOST")


def test_the_context_named_in_the_environment_wins_over_the_current_one(tmp_path: Path):
    add_context(tmp_path, "colima", "unix:///colima.sock")
    add_context(tmp_path, "orbstack", "unix:///orb.sock")
    (tmp_path / ".docker/config.json").write_text('{"currentContext": "orbstack"}')
    found = find_endpoint({"DOCKER_CONTEXT": "colima"}, home=tmp_path, uid=1000)
    assert found is not None
    assert found.url == "unix:///colima.sock"


def test_the_current_context_is_followed(tmp_path: Path):
    add_context(tmp_path, "orbstack", "unix:///orb.sock")
    (tmp_path / ".docker/config.json").write_text('{"currentContext": "orbstack"}')
    found = find_endpoint({}, home=tmp_path, uid=1000)
    assert found is not None
    assert (found.url, str(found.socket)) == ("unix:///orb.sock", "/orb.sock")


def test_a_context_that_does_not_exist_is_an_error_that_names_it(tmp_path: Path):
    with pytest.raises(EngineError, match="`nowhere`"):
        find_endpoint({"DOCKER_CONTEXT": "nowhere"}, home=tmp_path, uid=1000)


def test_a_broken_context_file_is_an_error_and_no_traceback(tmp_path: Path):
    add_context(tmp_path, "broken", "unix:///x")
    for meta in tmp_path.rglob("meta.json"):
        meta.write_text("[1, 2")
    with pytest.raises(EngineError, match="`broken`"):
        find_endpoint({"DOCKER_CONTEXT": "broken"}, home=tmp_path, uid=1000)


@pytest.mark.parametrize(
    "place",
    [
        ".docker/run/docker.sock",
        ".docker/desktop/docker.sock",
        ".orbstack/run/docker.sock",
        ".colima/default/docker.sock",
        ".rd/docker.sock",
    ],
)
def test_the_usual_sockets_below_home_are_found(tmp_path: Path, place: str):
    socket = tmp_path / place
    socket.parent.mkdir(parents=True)
    socket.touch()
    found = find_endpoint({"XDG_RUNTIME_DIR": str(tmp_path / "run")}, home=tmp_path, uid=1000)
    assert found is not None
    assert found.url in (f"unix://{socket}", "unix:///var/run/docker.sock")


def test_rootless_docker_and_podman_are_found_in_the_runtime_folder(tmp_path: Path):
    socket = tmp_path / "run/podman/podman.sock"
    socket.parent.mkdir(parents=True)
    socket.touch()
    found = find_endpoint({"XDG_RUNTIME_DIR": str(tmp_path / "run")}, home=tmp_path, uid=1000)
    assert found is not None
    assert found.url in (f"unix://{socket}", "unix:///var/run/docker.sock")
