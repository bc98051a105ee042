"""A disk without room: the first start says so in a sentence, leaves nothing half made, and the next one works."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.engine.astro import Astro
from tests.free_port import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 40 MB."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root on Linux can make a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_is_one_sentence_and_with_room_the_next_start_works(
    disk: Path, user: dict[str, str], tmp_path: Path
):
    Astro(tmp_path, user)("airflow", "init", "full")
    project = Astro(
        tmp_path / "full",
        {
            **user,
            "XDG_CACHE_HOME": str(disk),
            "ASTRO_ENGINE": "standalone",
            "ASTRO_SANDBOX_PORT": str(free_port()),
        },
    )

    refused = project("airflow", "start", "--no-browser", code=1).stderr

    assert "error: the disk is full: there is no room in " in refused
    assert "hint: free some space" in refused
    assert "Traceback" not in refused
    assert not list(disk.rglob("complete.json"))

    subprocess.run(["mount", "-o", "remount,size=2g", disk], check=True)
    try:
        assert project.start()["url"]
    finally:
        project("airflow", "kill", "--yes", "--no-snapshot")
