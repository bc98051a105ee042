"""Celery on a real Kubernetes: workers run the tasks, hand out their logs, and are scaled, killed and replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.deploy.deployed import NAME
from tests.kubernetes.lab import STORAGE_CLASS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.kubernetes.live import Live

pytestmark = [pytest.mark.long, pytest.mark.engine, pytest.mark.deploy]

WORKERS = "executor: celery\n    workers: {worker: {count: 2, concurrency: 2}}"


@pytest.fixture(scope="module")
def celery(live: Live) -> Iterator[Live]:
    """The deployment with workers, whose logs no volume keeps; afterwards as it was before."""
    before = live.release()
    with (
        live.configured("executor: kubernetes", WORKERS),
        live.configured(f", logs: {STORAGE_CLASS}", ""),
    ):
        live.deploy("--wait", "600")
        yield live
    live.astro("deployment", "rollback", NAME, str(before))


def test_workers_on_both_nodes_run_the_tasks_and_their_logs_are_shown(celery: Live):
    rows = {each["name"]: each for each in celery.astro.json("deployment", "ps", NAME)["services"]}
    assert {"broker", "worker"} <= set(rows)
    assert (rows["worker"]["running"], rows["worker"]["wanted"]) == (2, 2)
    nodes = celery.kubectl(
        "get", "pods", "-l", "astro.service=worker", "-o", "jsonpath={.items[*].spec.nodeName}"
    )
    assert set(nodes.split()) == {"node1", "node2"}
    run = celery.trigger(seconds=5)
    assert celery.wait_for_run(run) == "success", celery.story(run)
    assert "sleeping 5" in celery.story(run)
    assert not celery.names("pods", "astro.kind=task")
    assert not celery.names("roles")


def test_a_task_whose_worker_is_killed_runs_again_on_the_other(celery: Live):
    run = celery.trigger(seconds=60)
    celery.wait_for_task(run, "running")
    address = celery.task(run)["hostname"]
    (pod,) = celery.kubectl(
        "get", "pods", "-l", "astro.service=worker", "-o",
        f"jsonpath={{.items[?(@.status.podIP=='{address}')].metadata.name}}",
    ).split()  # fmt: skip
    celery.kubectl("delete", "pod", pod, "--grace-period=0", "--force")
    assert celery.wait_for_run(run, seconds=420) == "success", celery.story(run)
    task = celery.task(run)
    assert task["try_number"] == 2
    assert task["hostname"] != address


def test_a_release_lets_workers_finish_what_they_run(celery: Live):
    run = celery.trigger(seconds=90)
    celery.wait_for_task(run, "running")
    celery.write_version("v2")
    celery.deploy("--wait", "600")
    assert celery.wait_for_run(run, seconds=300) == "success", celery.story(run)
    assert celery.task(run)["try_number"] == 1
    assert celery.run() == "v2 v2"


def test_the_broker_may_die(celery: Live):
    celery.kubectl("delete", "pod", "broker-0", "--grace-period=0", "--force")
    assert celery.run() == "v2 v2"
