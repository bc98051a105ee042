"""Whose files the tasks of a sandbox write, on engines of root's and of a user's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from astro_cli.domain.settings import load_settings
from astro_cli.runtime.docker import IMAGE_UID, DockerEngine
from tests.fake_engine import EMPTY_ENGINE, FakeEngine

OF_ROOT = {"SecurityOptions": ["name=seccomp,profile=default"], "Rootless": False}


@pytest.mark.parametrize(
    ("info", "is_rootless"),
    [
        (OF_ROOT, False),
        ({"SecurityOptions": None}, False),
        ({"SecurityOptions": ["name=seccomp,profile=default", "name=rootless"]}, True),  # Docker
        ({**OF_ROOT, "Rootless": True}, True),  # Podman 4.3
    ],
)
def test_tasks_are_the_owner_of_the_project_or_the_root_of_a_rootless_engine(
    info: dict[str, Any], is_rootless: bool, tmp_path: Path
):
    engine = FakeEngine(tmp_path / "engine.sock", {**EMPTY_ENGINE, "/info": info})
    try:
        found = DockerEngine({"DOCKER_HOST": engine.url}, lambda: load_settings({}, project_root=None))
        assert found._container_uid(tmp_path) == (0 if is_rootless else os.getuid() or IMAGE_UID)
    finally:
        engine.close()
