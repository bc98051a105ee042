"""When a service has come up, and when it is known that it will not."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from astro_cli.deploy.swarm.task_state import is_up, lost, of_release, places, takes_tasks

BEGAN = datetime(2026, 11, 23, 12, 0, 0, tzinfo=timezone.utc)
UNHEALTHY = "task: non-zero exit (137): dockerexec: unhealthy container"


def service(replicas: int = 1, update: str = "completed") -> dict[str, Any]:
    return {"Spec": {"Mode": {"Replicated": {"Replicas": replicas}}}, "UpdateStatus": {"State": update}}


def task(state: str, error: str = "", *, release: str = "7", minute: int = 1) -> dict[str, Any]:
    return {
        "CreatedAt": f"2026-11-23T12:{minute:02d}:00.5Z" if minute >= 0 else "2026-11-23T11:59:00.5Z",
        "DesiredState": "running" if state == "running" else "shutdown",
        "Status": {"State": state, "Err": error},
        "Spec": {"ContainerSpec": {"Labels": {"astro.release": release}}},
    }


def test_it_is_up_when_all_run_and_nothing_is_being_replaced():
    assert is_up(service(2), [task("running"), task("running")])
    assert not is_up(service(2), [task("running"), task("starting")])
    assert not is_up(service(1, "updating"), [task("running")])


def test_what_dies_three_times_will_not_come_up():
    assert lost(service(), [task("failed"), task("failed")], BEGAN) == ""
    assert lost(service(), [task("failed"), task("failed"), task("complete")], BEGAN) == "died 3 times"
    assert lost(service(), [task("failed", minute=-1)] * 3, BEGAN) == ""


def test_of_several_the_first_death_that_stops_the_engine_is_enough():
    assert lost(service(2, "paused"), [task("failed")], BEGAN) == "died 1 time"


def test_what_was_ill_for_all_of_its_time_is_not_waited_for_again():
    assert "was ill" in lost(service(), [task("failed", UNHEALTHY)], BEGAN)


@pytest.mark.parametrize(("release", "count"), [(7, 1), (8, 2), (None, 0)])
def test_tasks_of_other_releases_say_nothing(release: int | None, count: int):
    tasks = [task("running"), task("running", release="8"), task("failed", release="8")]

    assert len(of_release(tasks, release)) == count


def test_one_on_each_node_is_up_when_as_many_run_as_there_are_nodes():
    made = {"Spec": {"Mode": {"Global": {}}}, "ServiceStatus": {"DesiredTasks": 2}}
    assert not is_up(made, [task("running")])
    assert is_up(made, [task("running"), task("running")])


def test_a_node_that_is_lost_or_drained_gets_nothing_and_keeps_nobody_waiting():
    nodes = {
        name: {"Status": {"State": state}, "Spec": {"Availability": availability}}
        for name, state, availability in [
            ("a", "ready", "active"),
            ("b", "down", "active"),
            ("c", "ready", "drain"),
        ]
    }
    assert [name for name, node in nodes.items() if takes_tasks(node)] == ["a"]
    assert places([{**task("running"), "NodeID": "a"}, {**task("starting"), "NodeID": "b"}]) == {"a"}
