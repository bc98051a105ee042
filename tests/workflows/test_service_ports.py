from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from astro_cli.domain.project_services import ProjectService
from astro_cli.domain.services import ServiceStatus
from astro_cli.foundation.errors import ProjectError
from astro_cli.runtime.engine import SandboxStatus
from astro_cli.workflows.service_ports import Ports, remembered
from tests.fakes import SilentReport

if TYPE_CHECKING:
    from collections.abc import Iterator

REDIS = ProjectService("redis", "redis", (6379,), line=7)


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield int(server.getsockname()[1])


def chooser(known: dict[str, int] | None = None, running: SandboxStatus | None = None) -> Ports:
    return Ports(known or {}, running, lambda port: f"holder of {port}")


def ports_of(chosen: Ports, service: ProjectService = REDIS, **options: object) -> list[int]:
    given: dict[str, object] = {"database_port": None, "avoid": (), "report": SilentReport(), **options}
    (placed,) = chosen.place([service], Path("/"), **given)  # type: ignore[arg-type]
    return list(placed.ports.values())


def test_a_port_that_is_taken_gives_way_to_the_next(taken: int):
    (found,) = ports_of(chooser({"redis:6379": taken}))
    assert found > taken


def test_a_running_services_own_port_stays(taken: int):
    running = SandboxStatus(
        "id", "shop", "/", "running", 8080, (ServiceStatus("redis", "running", ports=(taken,)),)
    )
    assert ports_of(chooser({"redis:6379": taken}, running)) == [taken]


def test_a_port_that_the_project_insists_on_is_an_error_when_it_is_taken(taken: int):
    insists = ProjectService("redis", "redis", (6379,), fixed={6379: taken}, line=7)
    with pytest.raises(ProjectError, match=f"config.yaml:7: port {taken} .* by holder of {taken}"):
        ports_of(chooser(), insists)


def test_the_warehouse_is_where_the_user_publishes_postgres():
    assert ports_of(chooser(), ProjectService("warehouse", "warehouse", (5442,)), database_port=5999) == [
        5999
    ]


def test_two_services_never_get_the_same_port():
    own = [ProjectService(name, "own", (9000,)) for name in ("a", "b")]
    placed = chooser().place(own, Path("/"), database_port=None, avoid=(), report=SilentReport())
    assert len({port for each in placed for port in each.ports.values()}) == 2
    assert set(remembered(placed)) == {"a:9000", "b:9000"}
