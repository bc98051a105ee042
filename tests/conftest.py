"""What every test needs: a home of its own, and the Docker engine of the run."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Read before any test changes the environment.
_ENGINE_URL = os.environ.get("DOCKER_HOST", "")
_NO_ENGINE = os.environ.get(
    "ASTRO_TEST_NO_ENGINE", "DOCKER_HOST is not set; scripts/test finds or brings an engine"
)

# A shell has what it runs in the background ignore Ctrl-C, and that would be handed on to every program we start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes is a matter of the machine and of what else runs on it, not of the code.
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The same examples in every run, or a change would be refused for what another one has done; `--long` searches.
settings.register_profile("repeat", settings.get_profile("search"), derandomize=True, database=None)

_CLEARED = ("ASTRO_", "XDG_", "DOCKER_", "AIRFLOW_")
_CLEARED_NAMES = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "SUDO_USER")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--long`: also the deploys that take minutes each."""
    parser.addoption("--long", action="store_true", help="also the tests that take minutes each")


def pytest_configure(config: pytest.Config) -> None:
    """`--long` also lets hypothesis look for examples that nobody has tried."""
    settings.load_profile("search" if config.getoption("--long") else "repeat")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without `--long`, skip those tests, and say so."""
    for item in items:
        if item.get_closest_marker("long") and not config.getoption("--long"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: ./scripts/test --long"))


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder: no test sees or changes the configuration of the user who runs it."""
    for name in list(os.environ):
        if name.startswith(_CLEARED) or name in _CLEARED_NAMES:
            monkeypatch.delenv(name)
    path = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(path))
    return path


@pytest.fixture(autouse=True)
def nothing_spawned_is_left() -> Iterator[None]:
    """A run of astro that a test has begun ends with it, however the test ends."""
    yield
    if "tests.engine.astro" in sys.modules:
        sys.modules["tests.engine.astro"].end_spawned()


@pytest.fixture(scope="session")
def engine_url() -> Iterator[str]:
    """The address of a Docker engine that answers; without one the test is skipped and says why."""
    if not _ENGINE_URL:
        pytest.skip(_NO_ENGINE)
    import docker

    client = docker.DockerClient(base_url=_ENGINE_URL, timeout=10)
    try:
        client.ping()
    except docker.errors.DockerException as exc:
        pytest.fail(f"the Docker engine at {_ENGINE_URL} does not answer: {exc}")
    finally:
        client.close()
    yield _ENGINE_URL


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the Airflow environments, Postgres and the database templates of this run are."""
    return tmp_path_factory.mktemp("cache")
