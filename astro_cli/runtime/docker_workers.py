"""Celery as containers of a sandbox: the broker, and the workers from the project's own image."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from astro_cli.domain import airflow
from astro_cli.domain.workers import member_number
from astro_cli.foundation import labels
from astro_cli.runtime.docker_services import plain_status
from astro_cli.runtime.plan import ContainerSpec, PrivateFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from astro_cli.domain.services import ServiceStatus, Stack
    from astro_cli.domain.workers import WorkerGroup

RUN_DIR = "/run/astro"
EXEC = ("python", "/opt/astro/supervisor.py", "exec", RUN_DIR, "--")
WORKER = ("python", "/opt/astro/worker.py", RUN_DIR, "celery", "worker")
ENVIRONMENT = f"{RUN_DIR}/environment.json"
BROKER_CONFIG = f"{RUN_DIR}/redis.conf"
STOP_SECONDS = 10
"""For tasks to end when the sandbox stops; `scale` waits as long as they take."""
RESTARTS = 10
LATE_SECONDS = 60.0
"""A worker that takes no tasks after this time is not starting any more."""


def containers(
    stack: Stack, airflow_container: ContainerSpec, broker_image: str
) -> tuple[ContainerSpec, ...]:
    """The broker and every worker.

    Args:
        airflow_container: the one in which Airflow's other services run. A worker sees the same folders; task logs
            are among them, so the api-server reads a worker's as its own.
    """
    uid = int(airflow_container.user.partition(":")[0])
    broker = ContainerSpec(
        name=airflow.BROKER,
        image=broker_image,
        command=("redis-server", BROKER_CONFIG),
        user=airflow_container.user,
        environment={},
        mounts=(),
        ports={},
        files=(PrivateFile(BROKER_CONFIG, airflow.broker_config(stack.broker_password), uid),),
        stop_seconds=STOP_SECONDS,
        restarts=RESTARTS,
    )
    workers = (
        ContainerSpec(
            name=member,
            image=airflow_container.image,
            command=(*EXEC, *WORKER, *_options(group)),
            user=airflow_container.user,
            environment={**airflow_container.environment, **airflow.worker_environment()},
            mounts=airflow_container.mounts,
            ports={},
            files=(PrivateFile(ENVIRONMENT, json.dumps(dict(stack.private)), uid),),
            stop_seconds=STOP_SECONDS,
            marks={labels.WORKERS: group.name},
            restarts=RESTARTS,
        )
        for group in stack.workers
        for member in group.members
    )
    return (broker, *workers)


def _options(group: WorkerGroup) -> tuple[str, ...]:
    """Nobody asks the workers to know each other; their logs lie where the api-server reads them."""
    queues = ("--queues", ",".join(group.queues)) if group.queues else ()
    return (
        *("--concurrency", str(group.concurrency)),
        *queues,
        *("--skip-serve-logs", "--without-mingle", "--without-gossip"),
    )


def _groups(inspected: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The group of each container that is a worker."""
    marks = {name: container["Config"]["Labels"] for name, container in inspected.items()}
    return {name: str(found[labels.WORKERS]) for name, found in marks.items() if labels.WORKERS in found}


def names(inspected: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """The containers that must run besides those of every sandbox."""
    found = _groups(inspected)
    return (airflow.BROKER, *found) if found else ()


def statuses(
    inspected: Mapping[str, Mapping[str, Any]],
    told: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    measure: Callable[[str], int | None] | None,
) -> Iterator[ServiceStatus]:
    """How the broker and each worker is.

    Args:
        inspected: name to what the engine says of the container.
        told: gives what a container wrote in its status file, in its present life.
        measure: gives the memory of a container; None where nobody asks for it.
    """
    found = _groups(inspected)
    if not found and airflow.BROKER not in inspected:
        return
    broker = plain_status(airflow.BROKER, inspected.get(airflow.BROKER), measure)
    yield replace(broker, health="healthy") if broker.state == "running" else broker
    for name in sorted(found, key=lambda name: (found[name], member_number(name, found[name]))):
        status = replace(plain_status(name, inspected[name], measure), group=found[name])
        if status.state == "running":
            late = time.time() - (status.started_at or 0.0) > LATE_SECONDS
            ready = told(inspected[name]).get("state") == "ready"
            status = replace(status, health="healthy" if ready else "unhealthy" if late else "starting")
        yield status
