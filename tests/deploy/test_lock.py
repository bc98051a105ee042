"""The lock of a deployment, on a real engine in swarm mode."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from astro_cli.deploy.lock import Holder, break_lock, hold_lock, lock_holder
from astro_cli.deploy.stack import Names
from astro_cli.deploy.swarm.api import SwarmApi
from astro_cli.deploy.swarm.lock import SwarmLockStore
from astro_cli.foundation.errors import LockedError
from astro_cli.runtime.docker_api import DockerApi
from astro_cli.runtime.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.deploy.host import Host

NAMES = Names("cafe", "locked", "prod")


@pytest.fixture
def store(host: Host) -> Iterator[SwarmLockStore]:
    with reached(host.docker_host) as store:
        yield store
        break_lock(store)


@contextmanager
def reached(docker_host: str) -> Iterator[SwarmLockStore]:
    """Where the lock lies on an engine, over a connection of its own."""
    docker = DockerApi(Endpoint(docker_host, "the test"))
    api = SwarmApi(docker, "the host")
    api.ensure_swarm()
    yield SwarmLockStore(api, NAMES)
    docker.client.close()


def holds(store: SwarmLockStore, wait: float = 0.0) -> str:
    """What the previous holder had begun; the lock is free again afterwards."""
    with hold_lock(store, "astro deploy", wait) as lock:
        return lock.unfinished.step if lock.unfinished else ""


def test_one_holds_it_and_the_other_is_told_who(store: SwarmLockStore) -> None:
    with hold_lock(store, "astro deploy", 0) as lock:
        lock.step("roll", release="7")
        with pytest.raises(LockedError, match=r"runs `astro deploy` since .*step: roll"):
            holds(store)
        assert "astro deploy" in lock_holder(store)
    assert lock_holder(store) == ""
    assert holds(store) == ""


def test_of_many_at_once_one_gets_it(store: SwarmLockStore, host: Host) -> None:
    begin, release = threading.Barrier(8), threading.Event()
    results: list[str] = []

    def race() -> None:
        with reached(host.docker_host) as store:
            begin.wait()
            try:
                with hold_lock(store, "astro deploy", 0):
                    results.append("got it")
                    release.wait(120)
            except LockedError:
                results.append("locked")
            if results.count("locked") == 7:
                release.set()

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(180)
    assert sorted(results) == ["got it", *["locked"] * 7]


def test_what_a_killed_holder_began_is_handed_on_at_once(store: SwarmLockStore, host: Host) -> None:
    code = (
        "import sys, os; from tests.deploy.test_lock import *\n"
        "with reached(sys.argv[1]) as store, hold_lock(store, 'astro deploy', 0) as lock:\n"
        "    lock.step('migrate', release='7', backup='b.dump'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, host.docker_host], cwd=Path(__file__).parents[2])
    with hold_lock(store, "astro deploy", 0) as lock:
        left = lock.unfinished
    assert left is not None
    assert (left.step, left.release, left.backup) == ("migrate", 7, "b.dump")


def test_a_holder_on_another_machine_is_not_judged_by_its_process_number(store: SwarmLockStore) -> None:
    """Many machines have one host name, and its process is of course not among ours."""
    there = replace(Holder.this_run("astro deploy"), machine="another", pid=2**22 - 1)
    uid = store.make(there)
    assert uid is not None
    with pytest.raises(LockedError):
        holds(store)
    store.remove(uid)


def test_a_holder_that_lost_it_stops_and_leaves_the_new_ones_alone(store: SwarmLockStore) -> None:
    with pytest.raises(LockedError, match="another run"), hold_lock(store, "one", 0) as lost:
        assert break_lock(store) is not None
        with hold_lock(store, "two", 0) as lock:
            lock.step("roll")
            try:
                lost.step("migrate")
            finally:
                assert "step: roll" in lock_holder(store)
    with hold_lock(store, "three", 0) as lock:
        assert lock.unfinished is None
