"""Tests in this folder run real sandboxes without Docker; one environment, made by the first, serves them all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.engine.astro import Astro, environment
from tests.free_port import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Read before any test changes the environment: what uv has downloaded once need not be downloaded again.
UV_CACHE = os.environ.get("UV_CACHE_DIR") or str(
    Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "uv"
)
NO_DOCKER = "unix:///nowhere/docker.sock"


@pytest.fixture(scope="session")
def user(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> dict[str, str]:
    """The environment of a user on a machine without Docker."""
    home = tmp_path_factory.mktemp("home")
    return {
        **environment(home, NO_DOCKER),
        "XDG_CACHE_HOME": str(shared_cache),
        "UV_CACHE_DIR": UV_CACHE,
    }


@pytest.fixture(scope="module", params=["standalone", pytest.param("docker", marks=pytest.mark.engine)])
def engine(request: pytest.FixtureRequest) -> str:
    """For the suites that hold on every engine."""
    return str(request.param)


@pytest.fixture(scope="module")
def on_engine(
    engine: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """The environment of a user whose sandboxes run on `engine`."""
    if engine == "docker":
        environ = environment(tmp_path_factory.mktemp("home"), request.getfixturevalue("engine_url"))
    else:
        environ = request.getfixturevalue("user")
    return {**environ, "ASTRO_ENGINE": engine, "ASTRO_SANDBOX_PORT": str(free_port())}


@pytest.fixture
def make_project(user: dict[str, str], tmp_path: Path) -> Iterator[Callable[[str], Astro]]:
    """Makes projects of the default template, and ends their sandboxes afterwards."""
    made: list[Astro] = []

    def make(name: str) -> Astro:
        Astro(tmp_path, user)("airflow", "init", name)
        made.append(Astro(tmp_path / name, {**user, "ASTRO_SANDBOX_PORT": str(free_port())}))
        return made[-1]

    yield make
    for astro in made:
        astro("airflow", "kill", "--yes", "--no-snapshot", code=None)
