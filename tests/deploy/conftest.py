"""Tests in this folder deploy to a second host that is made on this machine; see `host.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.deploy import deployed
from tests.deploy.host import Host, missing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.deploy.deployed import Deployed


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the second host, so that `-m "not deploy"` leaves it out."""
    for item in items:
        names = getattr(item, "fixturenames", ())
        if "host" in names:
            item.add_marker(pytest.mark.deploy)
            if "engine_url" in names:
                item.add_marker(pytest.mark.engine)


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The second host of this run, with a blank engine at first; shared, because deploying to it takes time."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    host = Host(tmp_path_factory.mktemp("host"))
    yield host
    host.close()


@pytest.fixture(scope="session")
def live(host: Host, engine_url: str, tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    """A project in a git repository whose first version is deployed. Tests leave it healthy, in any version."""
    return deployed.first(tmp_path_factory.mktemp("deployed"), host, engine_url)
