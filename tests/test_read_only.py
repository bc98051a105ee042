"""A home or a project that cannot be written to: every command works without, or says so in one sentence."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fake_engine import FakeEngine

ROOT = Path(__file__).parent.parent
SEALED = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
LOOKS = [
    "version",
    "doctor",
    "config list",
    "airflow ps",
    "airflow list",
    "airflow snapshot list",
    "clean --yes",
]
CHANGES = [
    "config set sandbox.port 9000",
    "config set --user sandbox.port 9000",
    "airflow init",
    "start --no-browser",
]


def sealed(folder: Path) -> list[str]:
    """What a command must stand behind for the folder to be read-only to it, also for root."""
    if os.getuid() != 0:
        for path in (folder, *folder.rglob("*")):
            path.chmod(path.stat().st_mode & ~0o222)
        return []
    if sys.platform != "linux" or shutil.which("unshare") is None:
        pytest.skip("root may write anywhere here")
    return ["unshare", "--mount", "sh", "-c", SEALED, str(folder)]


@pytest.mark.parametrize("which", ["home", "project"])
def test_a_folder_that_cannot_be_written_to_is_one_sentence_at_most(which: str, home: Path, tmp_path: Path):
    engine = FakeEngine(tmp_path / "engine.sock")
    project = tmp_path / "shop"
    environ = {**os.environ, "DOCKER_HOST": engine.url, "PYTHONPATH": str(ROOT), "ASTRO_ENGINE": "docker"}

    def astro(*words: str, wall: list[str], cwd: Path = project) -> subprocess.CompletedProcess[str]:
        command = [*wall, sys.executable, "-m", "astro_cli", *words]
        return subprocess.run(
            command, cwd=cwd, env=environ, text=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=300
        )  # fmt: skip

    assert astro("airflow", "init", "shop", wall=[], cwd=tmp_path).returncode == 0
    folder = home if which == "home" else project
    wall = sealed(folder)
    try:
        for line in (*LOOKS, *CHANGES):
            done = astro(*line.split(), wall=wall)
            told = f"{line}: {done.returncode}\n{done.stdout}\n{done.stderr}"
            assert "Traceback" not in done.stderr, told
            assert "bug in astro" not in done.stderr, told
            assert done.stderr.count("error: ") <= 1, told
            assert done.returncode == 0 or done.stderr or "problem" in done.stdout, told
            if line in ("version", "config list", "airflow list", "airflow snapshot list"):
                assert done.returncode == 0, told
        assert not list(folder.rglob(".*.yaml.*")), "something was written after all"
    finally:
        engine.close()
        for path in (folder, *folder.rglob("*")):
            path.chmod(path.stat().st_mode | 0o200)
