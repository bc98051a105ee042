"""What the tasks of a service say about how it does: a task is one container that the engine made for it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from astro_cli.deploy.swarm.api import parse_time
from astro_cli.foundation import labels

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    Task = Mapping[str, Any]

DEATHS = 3
"""A service that died this often will not come up."""


def release_of(task: Task) -> str | None:
    """The release that a task belongs to; None for a service that no release replaces."""
    found: str | None = (task["Spec"]["ContainerSpec"].get("Labels") or {}).get(labels.RELEASE)
    return found


def of_release(tasks: Iterable[Task], release: int | None) -> list[Task]:
    """The tasks of one release."""
    return [task for task in tasks if release_of(task) == (str(release) if release is not None else None)]


def container_of(task: Task) -> str:
    """The id of a task's container; empty before there is one."""
    return (task["Status"].get("ContainerStatus") or {}).get("ContainerID") or ""


def lost(service: Mapping[str, Any], tasks: Sequence[Task], began: datetime) -> str:
    """Why a service will not come up, such as `died 3 times`; empty while it may.

    Args:
        tasks: those of the release that is to come up.
        began: when that was asked for.
    """
    dead = [
        task
        for task in tasks
        if task["Status"]["State"] in ("failed", "rejected", "complete")
        and parse_time(task["CreatedAt"]) >= began
    ]
    if any("unhealthy" in (task["Status"].get("Err") or "") for task in dead):
        return "was ill for as long as it may take to start"  # and would be again
    # A single one is started again and may come up; of several, a paused update would replace no other.
    paused = wanted(service) > 1 and _update(service) == "paused"
    if len(dead) >= (1 if paused else DEATHS):
        return f"died {len(dead)} time{'s' if len(dead) > 1 else ''}"
    return ""


def places(tasks: Iterable[Task]) -> set[str]:
    """Ids of the nodes on which tasks run."""
    return {task["NodeID"] for task in tasks if _runs(task)}


def takes_tasks(node: Mapping[str, Any]) -> bool:
    """Whether a node gets a task of every service that is on each."""
    return bool(node["Status"]["State"] == "ready" and node["Spec"]["Availability"] == "active")


def _runs(task: Task) -> bool:
    return bool(task["Status"]["State"] == "running" and task["DesiredState"] == "running")


def is_up(service: Mapping[str, Any], tasks: Sequence[Task]) -> bool:
    """Whether all that a service shall have run, and the engine has ended replacing."""
    return sum(map(_runs, tasks)) >= wanted(service) and _update(service) != "updating"


def wanted(service: Mapping[str, Any]) -> int:
    """How many tasks a service shall have; one on each node counts as many as there are nodes."""
    mode = service["Spec"]["Mode"]
    if "Replicated" in mode:
        return int(mode["Replicated"]["Replicas"])
    return int((service.get("ServiceStatus") or {}).get("DesiredTasks") or 0)


def _update(service: Mapping[str, Any]) -> str:
    return (service.get("UpdateStatus") or {}).get("State") or ""
