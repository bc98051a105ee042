"""astro is killed at random moments of a deploy: the next command works, and nothing is lost or left over."""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import replace

import pytest

from tests.deploy.deployed import NAME, SECRET, SECRET_NAME, Deployed
from tests.deploy.host import poll
from tests.deploy.test_failures import wait_for_no_ssh
from tests.engine.astro import Astro

SEED = int(os.environ.get("TEST_SEED") or time.time_ns() % 1_000_000)
ROUNDS = 6
KILLED = (("deploy", NAME), ("deploy", NAME), ("deploy", NAME, "--dags"), ("deployment", "backup", NAME))
"""The commands, the likelier ones more than once."""
PATIENT = ("--wait", "1200")
NEXT = (("deploy", NAME, *PATIENT), ("deploy", NAME, *PATIENT), ("deployment", "rollback"))
KEPT_RELEASES = 5
JOBS = ("-migrate", "-backup", "-restore", "-heads")


@pytest.fixture
def settled(live: Deployed) -> Deployed:
    """The deployment, with the project as it is now running on it."""
    live.take_back()
    live.deploy(*PATIENT)
    return live


def with_secret(live: Deployed, value: str) -> Deployed:
    environ = {**live.astro.environ, SECRET_NAME: value}
    return replace(live, astro=Astro(live.astro.folder, environ))


def killed_at_random(live: Deployed, chance: random.Random, words: tuple[str, ...], seconds: float) -> float:
    """Begin a command and kill astro, but nothing that it began, within the time that it takes."""
    moment = chance.uniform(0.3, seconds)
    process = live.astro.spawn(*words)
    time.sleep(moment)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    return moment


def left_over(live: Deployed) -> set[str]:
    """What is on the host's engine and belongs to no service and no release that can be returned to."""
    kept = [each for each in live.releases() if each["result"] == "live"][-KEPT_RELEASES:]
    with live.host.engine() as engine:
        containers = engine.containers.list(all=True, ignore_removed=True)
        services = {each.name for each in engine.services.list()}
        known = {each["image"] for each in kept} | {
            image for each in kept for image in each["companions"].values()
        }
        known |= {str(each.attrs["Image"]) for each in containers}
        found = {f"image {image.id} {image.tags}" for image in engine.images.list() if image.id not in known}
        found |= {
            f"container {each.name}"
            for each in containers
            if each.labels.get("astro.service") != "proxy"
            and each.labels.get("com.docker.swarm.service.name") not in services
        }
        needed = {name for each in kept for name in each["secrets"].values()}
        found |= {f"secret {each.name}" for each in engine.secrets.list() if each.name not in needed}
        found |= {f"config {each.name}" for each in engine.configs.list() if each.name.endswith("-lock")}
        found |= {f"service {name}" for name in services if name.endswith(JOBS)}
    return found


@pytest.mark.long
def test_whatever_was_killed_the_next_deploy_works_and_nothing_is_lost(settled: Deployed) -> None:
    chance = random.Random(SEED)
    told = [f"TEST_SEED={SEED}"]
    settled.write_version("measured")
    began = time.monotonic()
    settled.deploy(*PATIENT)
    seconds = time.monotonic() - began
    runs = settled.request("GET", "/api/v2/dags/slow/dagRuns")["total_entries"]
    records = [each["id"] for each in settled.releases()]
    try:
        for number in range(ROUNDS):
            version = f"round {number}"
            live = with_secret(settled, f"{SECRET}-{number}")
            live.write_version(version)
            words, follows = chance.choice(KILLED), chance.choice(NEXT)
            moment = killed_at_random(live, chance, words, seconds)
            told.append(f"{words} killed after {moment:.2f} of {seconds:.1f} s, then {follows}")
            assert not wait_for_no_ssh(live.host)
            live.astro("deployment", "ps", NAME, code=None)
            live.astro(*follows)
            assert live.step() == "", "the lock is free"
            assert len(live.images()) == 1
            result = live.run()
            runs += 1
            if follows[0] == "deploy":
                assert result == f"{version} {version}"
            assert live.request("GET", "/api/v2/dags/slow/dagRuns")["total_entries"] == runs
            known = [each["id"] for each in live.releases()]
            assert known[: len(records)] == records, "every release is still written down"
            assert len(known) == len(set(known))
            records = known
        settled.write_version("last")
        settled.deploy(*PATIENT)
        settled.astro("deployment", "backup", NAME)
        assert left_over(settled) == set()
    finally:
        print("\n".join(told))


@pytest.mark.long
def test_what_a_killed_deploy_has_brought_goes_with_the_next(settled: Deployed) -> None:
    settled.write_version("never")
    with settled.host.engine() as engine:
        before = {image.id for image in engine.images.list()}
        process = settled.astro.spawn("deploy", NAME)
        poll(lambda: {image.id for image in engine.images.list()} > before, "the image", seconds=600)
        process.kill()
        process.communicate(timeout=60)
        # As a kill leaves it while a volume is looked into.
        marks = settled.services()["scheduler"]["Labels"]
        engine.containers.create(settled.images().pop(), "true", labels=marks)
    assert {what.split()[0] for what in left_over(settled)} >= {"image", "container"}
    settled.write_version("next")
    settled.deploy(*PATIENT)
    assert left_over(settled) == set()
    assert settled.run() == "next next"
