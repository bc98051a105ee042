"""The notice of a newer release: off by default, once a day, for people alone, and no command waits for it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from astro_cli import __version__
from astro_cli.domain.updates import DAY_SECONDS, is_newer, look, notice
from astro_cli.foundation import paths
from tests.fakes import FakeAirflow, serve

URL = "http://127.0.0.1:9/astro"
DAY = {"ASTRO_UPDATES_URL": URL}


def tell(environ: dict[str, str], at: float = 1e9, *, terminal: bool = True) -> tuple[str | None, list[str]]:
    asked: list[str] = []
    return notice(environ, terminal=terminal, ask=asked.append, now=lambda: at), asked


def answered(version: str) -> None:
    file = paths.cache_dir() / "updates.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "newest": version}))


def test_by_default_nothing_is_asked_and_nothing_is_kept(home: Path):
    assert tell({}) == (None, [])
    assert list(home.iterdir()) == []


def test_it_is_asked_once_a_day_and_told_once_a_day():
    assert tell(DAY) == (None, [URL])
    assert tell(DAY, 1e9 + 60) == (None, [])
    answered("99.0.0")
    said, asked = tell(DAY, 1e9 + 120)
    assert said == f"astro 99.0.0 is out, this is {__version__}: `curl -fsSL {URL}/install.sh | bash`"
    assert asked == []
    assert tell(DAY, 1e9 + 180) == (None, [])
    said, asked = tell(DAY, 1e9 + 120 + DAY_SECONDS)
    assert said is not None
    assert asked == [URL]


@pytest.mark.parametrize("version", ["0.0.1", __version__, "99.0.0; rm -rf /", "", "\u0661.0.0"])
def test_only_a_later_version_is_worth_a_line(version: str):
    tell(DAY)
    answered(version)
    assert tell(DAY)[0] is None


def test_pipes_and_ci_are_left_alone_and_empty_is_off():
    assert tell(DAY, terminal=False) == (None, [])
    assert tell({**DAY, "CI": "true"}) == (None, [])
    assert tell({"ASTRO_UPDATES_URL": ""}) == (None, [])
    assert tell({"ASTRO_UPDATES_URL": "https://x/`rm`"}) == (None, [])


def test_versions_are_numbers():
    assert is_newer("0.10.0", "0.9.9")
    assert not is_newer(None, "0.1.0")


def test_the_release_folder_is_asked_for_one_small_file(tmp_path: Path):
    for body, expected in ((b"1.2.3\n", "1.2.3"), (b"<html>", None), (b"9" * 999, None)):
        file = tmp_path / f"{expected}.json"
        with serve(FakeAirflow({"/astro/VERSION": (200, body)})) as url:
            look(f"{url}/astro", file)
        assert paths.read_json(file).get("newest") == expected


def test_a_broken_settings_file_or_a_read_only_cache_costs_only_the_notice(monkeypatch: pytest.MonkeyPatch):
    file = paths.user_config_file()
    file.parent.mkdir(parents=True)
    file.write_text("{{{")
    assert tell({}) == (None, [])
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    assert tell(DAY) == (None, [])


def test_a_command_on_a_terminal_ends_with_it_and_does_not_wait(tmp_path: Path):
    """The server accepts and says nothing; only the process left behind may wait for it."""
    pty = pytest.importorskip("pty")
    with socket.create_server(("127.0.0.1", 0)) as server:
        environ = {
            name: value for name, value in os.environ.items() if name != "CI"
        } | {
            "ASTRO_UPDATES_URL": f"http://127.0.0.1:{server.getsockname()[1]}",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }  # fmt: skip
        here, there = pty.openpty()
        try:
            command = [sys.executable, "-m", "astro_cli", "config", "list"]
            began = time.monotonic()
            done = subprocess.run(command, env=environ, stdout=there, stderr=there, timeout=60)
            assert done.returncode == 0
            assert time.monotonic() - began < 9  # look() itself would wait for ten
            server.settimeout(30)
            connection, _ = server.accept()
            assert connection.recv(4096).startswith(b"GET /VERSION")
            connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n99.0.0\n")
            connection.close()
            file = paths.cache_dir() / "updates.json"
            deadline = time.monotonic() + 30
            while paths.read_json(file).get("newest") is None and time.monotonic() < deadline:
                time.sleep(0.05)
            subprocess.run(command, env=environ, stdout=there, stderr=there, timeout=60)
            assert b"astro 99.0.0 is out" in os.read(here, 4096)
        finally:
            os.close(here)
            os.close(there)
