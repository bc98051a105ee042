"""Tests in this folder deploy to second hosts that are made on this machine; see `host.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.deploy import clustered, deployed
from tests.deploy.host import Host, missing
from tests.deploy.lab import make_lab

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.deploy.clustered import Clustered
    from tests.deploy.deployed import Deployed
    from tests.deploy.lab import Lab


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the second host, so that `-m "not deploy"` leaves it out."""
    for item in items:
        names = getattr(item, "fixturenames", ())
        if {"host", "deployed_host", "lab"} & set(names):
            item.add_marker(pytest.mark.deploy)
            if "engine_url" in names:
                item.add_marker(pytest.mark.engine)


def make_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A second host, as long as the generator lives; where none can be made the test is skipped and says why."""
    if reason := missing():
        pytest.skip(reason)
    host = Host(tmp_path_factory.mktemp("host"))
    yield host
    host.close()


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A second host to which no project is deployed: tests may cut it off, fill its disk and restart its engine."""
    yield from make_host(tmp_path_factory)


@pytest.fixture(scope="session")
def deployed_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The host of `live` alone, so that nothing which other tests do or leave behind can matter to it."""
    yield from make_host(tmp_path_factory)


@pytest.fixture(scope="session")
def live(deployed_host: Host, engine_url: str, tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    """A project in a git repository whose first version is deployed. Tests leave it healthy, in any version."""
    return deployed.first(tmp_path_factory.mktemp("deployed"), deployed_host, engine_url)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Three hosts that reach each other, and a registry that they trust."""
    if reason := missing():
        pytest.skip(reason)
    with make_lab(tmp_path_factory.mktemp("lab")) as made:
        yield made


@pytest.fixture(scope="module")
def cluster(lab: Lab, engine_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clustered]:
    """A project that is deployed to a swarm of them. Tests leave it healthy, in any version."""
    made = clustered.first(tmp_path_factory.mktemp("clustered"), lab, engine_url)
    yield made
    made.sink.close()
