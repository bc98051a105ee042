"""An image goes to the second host through SSH alone, runs there in a swarm, and only what changed goes again."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import docker
import pytest

from astro_cli.deploy.ssh import SshConnection
from astro_cli.deploy.swarm.api import SwarmApi
from astro_cli.deploy.transfer import transfer
from astro_cli.foundation.errors import AstroError, TargetError
from astro_cli.runtime.docker_api import DockerApi
from astro_cli.runtime.endpoint import Endpoint
from tests.deploy.fakes import RecordingReport
from tests.deploy.test_connection import connect, prod, working
from tests.deploy.test_push import layer, load_image

if TYPE_CHECKING:
    from tests.deploy.host import Host

NAME = "astro-test-transfer"
BASE = layer({"base": b"a line that compresses well\n" * 20_000 + os.urandom(200_000)})


@pytest.fixture
def local(engine_url: str) -> Iterator[DockerApi]:
    api = DockerApi(Endpoint(engine_url, "the test"))
    yield api
    for image in api.client.images("astro-test-transfer"):
        api.client.remove_image(image["Id"], force=True)
    api.client.close()


@pytest.fixture
def connection(host: Host) -> Iterator[SshConnection]:
    with connect(prod(host), working(host)) as opened:
        yield opened


@pytest.fixture
def remote(connection: SshConnection) -> Iterator[DockerApi]:
    api = DockerApi(Endpoint(f"unix://{connection.socket}", "the test"))
    yield api
    api.client.close()


@pytest.fixture(autouse=True)
def clean_host(host: Host) -> Iterator[None]:
    yield
    with host.engine() as engine:
        for image in engine.images.list(NAME):
            for container in engine.containers.list(all=True, filters={"ancestor": image.id}):
                container.remove(force=True)
            engine.images.remove(image.id, force=True)


def an_image(local: DockerApi, text: bytes, *, base: bytes = BASE) -> str:
    return load_image(
        local, f"astro-test-transfer:{text.decode().lower()}", [base, layer({"dags/a.py": text})]
    )


def sent(report: RecordingReport) -> int:
    (line,) = [line for line in report.details if line.startswith("sent ")]
    return int(re.match(r"sent (\d+) bytes", line).group(1))  # type: ignore[union-attr]


def test_only_the_changed_layer_travels_on_a_second_deploy(local, remote, connection):
    first, second = RecordingReport(), RecordingReport()
    old = transfer(local, an_image(local, b"A"), remote, connection, NAME, first)
    new = transfer(local, an_image(local, b"B"), remote, connection, NAME, second)
    assert old != new
    print(f"sent {sent(first)} bytes, then {sent(second)}")
    assert sent(first) > len(BASE)
    assert sent(second) < 10_000 + len(layer({"dags/a.py": b"B"}))
    layers = [each.client.inspect_image(new)["RootFS"]["Layers"] for each in (local, remote)]
    assert layers[0] == layers[1]


def test_the_host_keeps_the_image_under_a_name_of_its_own_and_none_of_ours(local, remote, connection):
    image = transfer(local, an_image(local, b"A"), remote, connection, NAME, RecordingReport())
    known: dict[str, Any] = remote.client.inspect_image(image)
    assert known["RepoTags"] == [f"{NAME}:{image.removeprefix('sha256:')[:12]}"]
    assert known["RepoDigests"] == []


def test_an_image_that_is_there_already_is_not_even_saved(local, remote, connection):
    image = an_image(local, b"A")
    transfer(local, image, remote, connection, NAME, RecordingReport())
    report = RecordingReport()
    assert transfer(local, image, remote, connection, NAME, report) == image
    assert report.details == []


def test_the_swarm_of_the_host_runs_the_image_by_its_id_without_any_registry(host, local, remote, connection):
    image = load_image(local, "astro-test-transfer:run", [layer({"busybox": static_program()})])
    reference = transfer(local, image, remote, connection, NAME, RecordingReport())
    with host.engine() as engine:
        SwarmApi(remote, host.url).ensure_swarm()
        service = engine.services.create(
            reference,
            command=["/busybox", "sleep", "1000"],
            name="astro-test-transfer",
            mode=docker.types.ServiceMode("replicated", replicas=1),
        )
        try:
            deadline = time.monotonic() + 180
            while not (tasks := [t["Status"] for t in service.tasks() if t["Status"]["State"] == "running"]):
                assert time.monotonic() < deadline, [t["Status"] for t in service.tasks()]
                time.sleep(0.3)
            container = tasks[0]["ContainerStatus"]["ContainerID"]
            assert engine.containers.get(container).image.id == reference
        finally:
            service.remove()


def static_program() -> bytes:
    """A program that needs no libraries."""
    from pathlib import Path

    for path in ("/usr/bin/busybox", "/bin/busybox"):
        if Path(path).exists():
            return Path(path).read_bytes()
    pytest.skip("the program busybox is missing: apt-get install busybox-static")


def test_a_full_disk_of_the_host_is_said_and_the_next_try_works(host, local, remote, connection):
    image = an_image(local, b"F", base=layer({"large": os.urandom(8_000_000)}))
    host.fill_disk()
    try:
        with pytest.raises(AstroError, match="the host's disk is full") as caught:
            transfer(local, image, remote, connection, NAME, RecordingReport())
        assert "docker system df" in str(caught.value.hint)
    finally:
        host.free_disk()
    assert transfer(local, image, remote, connection, NAME, RecordingReport()) == image


def test_a_connection_that_breaks_in_the_middle_is_said_and_the_next_one_finishes(host, local):
    image = an_image(local, b"C", base=layer({"large": os.urandom(60_000_000)}))

    class Cutting(RecordingReport):
        def detail(self, text: str) -> None:
            super().detail(text)
            if "Downloading" in text and not cut.is_set():
                cut.set()
                host.drop_sessions()

    cut = threading.Event()
    began = time.monotonic()
    with pytest.raises(TargetError):
        send(host, local, image, Cutting())
    assert cut.is_set()
    assert time.monotonic() - began < 180
    assert send(host, local, image, RecordingReport()) == image


def send(host: Host, local: DockerApi, image: str, report: RecordingReport) -> str:
    """Transfer through a connection of its own."""
    with connect(prod(host), working(host)) as connection:
        remote = DockerApi(Endpoint(f"unix://{connection.socket}", "the test"))
        try:
            return transfer(local, image, remote, connection, NAME, report)
        finally:
            remote.client.close()
