"""The lock of a deployment, on a real engine in swarm mode."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from astro_cli.deploy import swarm_lock
from astro_cli.deploy.stack import Names
from astro_cli.deploy.swarm_api import SwarmApi
from astro_cli.foundation.errors import LockedError
from astro_cli.runtime.docker_api import DockerApi
from astro_cli.runtime.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.deploy.host import Host

NAMES = Names("cafe", "locked", "prod")


@pytest.fixture
def api(host: Host) -> Iterator[SwarmApi]:
    docker = DockerApi(Endpoint(host.docker_host, "the test"))
    api = SwarmApi(docker, "the host")
    api.ensure_swarm()
    yield api
    swarm_lock.release(api, NAMES)
    docker.client.close()


def holds(api: SwarmApi, wait: float = 0.0) -> str:
    """What the previous holder had begun; the lock is free again afterwards."""
    with swarm_lock.hold(api, NAMES, "astro deploy", wait) as lock:
        return lock.unfinished.step if lock.unfinished else ""


def test_one_holds_it_and_the_other_is_told_who(api: SwarmApi) -> None:
    with swarm_lock.hold(api, NAMES, "astro deploy", 0) as lock:
        lock.step("roll", release="7")
        with pytest.raises(LockedError, match=r"runs `astro deploy` since .*step: roll"):
            holds(api)
        assert "astro deploy" in swarm_lock.holder(api, NAMES)
    assert swarm_lock.holder(api, NAMES) == ""
    assert holds(api) == ""


def test_of_many_at_once_one_gets_it(api: SwarmApi, host: Host) -> None:
    begin, release = threading.Barrier(8), threading.Event()
    results: list[str] = []

    def race() -> None:
        docker = DockerApi(Endpoint(host.docker_host, "the test"))
        begin.wait()
        try:
            with swarm_lock.hold(SwarmApi(docker, "the host"), NAMES, "astro deploy", 0):
                results.append("got it")
                release.wait(120)
        except LockedError:
            results.append("locked")
        if results.count("locked") == 7:
            release.set()
        docker.client.close()

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(180)
    assert sorted(results) == ["got it", *["locked"] * 7]


def test_what_a_killed_holder_began_is_handed_on_at_once(api: SwarmApi, host: Host) -> None:
    code = (
        "import sys, os; from tests.deploy.test_lock import *\n"
        "api = SwarmApi(DockerApi(Endpoint(sys.argv[1], 'the test')), 'the host')\n"
        "with swarm_lock.hold(api, NAMES, 'astro deploy', 0) as lock:\n"
        "    lock.step('migrate', release='7', backup='b.dump'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, host.docker_host], cwd=Path(__file__).parents[2])
    with swarm_lock.hold(api, NAMES, "astro deploy", 0) as lock:
        left = lock.unfinished
    assert left is not None
    assert (left.step, left.release, left.backup) == ("migrate", 7, "b.dump")


def test_a_holder_on_another_machine_is_not_judged_by_its_process_number(api: SwarmApi) -> None:
    """Many machines have one host name, and its process is of course not among ours."""
    with swarm_lock.hold(api, NAMES, "astro deploy", 0):
        name = NAMES.of("lock")
        config = api.call("GET", f"/configs/{name}")
        who = json.loads(swarm_lock.config_text(config))
        api.forget("configs", name)
        other = {**who, "machine": "another", "pid": 2**22 - 1}
        api.store("configs", name, json.dumps(other), NAMES.labels)
        with pytest.raises(LockedError):
            holds(api)
        api.forget("configs", name)


def test_a_holder_that_lost_it_stops_and_leaves_the_new_ones_alone(api: SwarmApi) -> None:
    with pytest.raises(LockedError, match="another run"), swarm_lock.hold(api, NAMES, "one", 0) as lost:
        assert swarm_lock.release(api, NAMES) is not None
        with swarm_lock.hold(api, NAMES, "two", 0) as lock:
            lock.step("roll")
            try:
                lost.step("migrate")
            finally:
                assert "step: roll" in swarm_lock.holder(api, NAMES)
    with swarm_lock.hold(api, NAMES, "three", 0) as lock:
        assert lock.unfinished is None
