"""A project's services as containers beside Airflow's: what each is made from, and how it is."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from astro_cli.domain import airflow
from astro_cli.domain.project_services import HOSTED, fill, own_words
from astro_cli.domain.services import ServiceStatus
from astro_cli.foundation import labels
from astro_cli.runtime import service_health
from astro_cli.runtime.plan import ContainerSpec, Mount, PrivateFile
from astro_cli.runtime.stand_in_config import config, redis_options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from astro_cli.domain.project_services import PlacedService
    from astro_cli.domain.services import Stack

PROGRAMS = "/opt/standins"
WRITABLE = "/run/astro"
"""Folder of the project's image that any user of group 0 may write to, and so a new volume there."""
FOLDER = "services"
"""Folder of a project in which its programs may be, which Airflow does not see."""
CONFIG = "/run/astro/service.json"
DATA = "/data"
SEED = "/project"
"""The folder of the project that a stand-in reads."""
EVERYWHERE = "0.0.0.0"  # noqa: S104 - inside the container; published on loopback
METRICS_CONFIG = "/run/astro/metrics.json"
METRICS_PROGRAM = ("env", "-i", "python3", "/opt/astro/standins/metrics.py", METRICS_CONFIG)
"""Runs beside Airflow, without its environment, which holds secrets."""
STOP_SECONDS = 10
RESTARTS = 10
LATE_SECONDS = 60.0
"""One that does not answer after this time is not starting any more."""


def volume(stack: Stack, name: str) -> str:
    """The volume in which a service keeps its data."""
    return f"astro-{stack.sandbox_id}-service-{name}"


def keeps_data(each: PlacedService) -> bool:
    """Whether it has a volume."""
    return each.service.kind in ("s3", "mail", "redis") or each.service.data is not None


def marks(stack: Stack) -> dict[str, str]:
    """The label of the container in which Airflow runs: how to find the services again, and how to ask them."""
    if not stack.added:
        return {}
    return {labels.ADDED: json.dumps(service_health.marks(stack))}


def containers(
    stack: Stack, images: Mapping[str, str], *, project_image: str, user: int
) -> tuple[ContainerSpec, ...]:
    """The containers of the services that have one.

    Args:
        images: name of the service to the id of its image; those without one run in the project's.
        project_image: id of the project's image.
        user: who owns the project's files.
    """
    return tuple(
        _own(stack, each, images.get(each.name), project_image, user)
        if each.service.kind == "own"
        else _stand_in(stack, each, images[each.name], user)
        for each in stack.added
        if each.service.kind not in HOSTED
    )


def metrics_config(each: PlacedService, user: int) -> PrivateFile:
    """What `METRICS_PROGRAM` reads."""
    inside = {port: port for port in each.service.ports}
    told = config(each, host=EVERYWHERE, ports=inside, data="", read=None)
    return PrivateFile(METRICS_CONFIG, json.dumps(told), user)


def _stand_in(stack: Stack, each: PlacedService, image: str, user: int) -> ContainerSpec:
    service = each.service
    mounts = []
    files: tuple[PrivateFile, ...] = ()
    if keeps_data(each):
        mounts.append(Mount(volume(stack, each.name), DATA))
    if service.folder is not None:
        mounts.append(Mount(str(stack.root / service.folder), SEED, read_only=True))
    command: tuple[str, ...]
    if service.kind == "redis":
        command = ("redis-server", *redis_options(EVERYWHERE, service.ports[0], DATA))
    else:
        command = ("python", f"{PROGRAMS}/{service.kind.replace('-', '_')}.py", CONFIG)
        inside = {port: port for port in service.ports}
        read = SEED if service.folder is not None else None
        told = config(each, host=EVERYWHERE, ports=inside, data=DATA, read=read)
        files = (PrivateFile(CONFIG, json.dumps(told), user),)
    return ContainerSpec(
        name=each.name,
        image=image,
        command=command,
        user=f"{user}:0",
        environment={"PYTHONUNBUFFERED": "1"},
        mounts=tuple(mounts),
        ports=each.ports,
        files=files,
        stop_seconds=STOP_SECONDS,
        restarts=RESTARTS,
    )


def _own(
    stack: Stack, each: PlacedService, image: str | None, project_image: str, user: int
) -> ContainerSpec:
    service = each.service
    data = (service.data or DATA) if image else WRITABLE
    words = {**own_words(each, on_loopback=False), "host": EVERYWHERE, "data": data}
    mounts = [Mount(volume(stack, each.name), data)] if service.data else []
    environment = {name: fill(value, words) for name, value in service.environment.items()}
    if image is None:
        environment = {"PYTHONPATH": airflow.HOME, "PYTHONUNBUFFERED": "1", **environment}
        mounts += [Mount(str(stack.root / folder), f"{airflow.HOME}/{folder}") for folder in stack.folders]
        if (stack.root / FOLDER).is_dir():
            mounts.append(Mount(str(stack.root / FOLDER), f"{airflow.HOME}/{FOLDER}", read_only=True))
    return ContainerSpec(
        name=each.name,
        image=image or project_image,
        command=tuple(fill(word, words) for word in service.command),
        user=f"{user}:0" if image is None else "",
        environment=environment,
        mounts=tuple(mounts),
        ports=each.ports,
        files=(),
        stop_seconds=STOP_SECONDS,
        restarts=RESTARTS,
        strange=image is not None,
    )


def declared(marked: Mapping[str, str]) -> dict[str, Any]:
    """What `marks` wrote, from the labels of a container."""
    found: dict[str, Any] = json.loads(marked.get(labels.ADDED, "{}"))
    return found


def statuses(
    told: Mapping[str, Any],
    inspected: Mapping[str, Any],
    hosted: Mapping[str, ServiceStatus],
    measure: Callable[[str], int | None] | None,
) -> Iterable[ServiceStatus]:
    """How each service is.

    Args:
        told: see `declared`.
        inspected: name to what the engine says of the container.
        hosted: kind to how those are that are in another service's container.
        measure: gives the memory of a container; None where nobody asks for it.
    """
    plain = {
        name: hosted.get(entry["kind"]) or plain_status(name, inspected.get(name), measure)
        for name, entry in told.items()
    }
    well = service_health.look(told, [name for name, status in plain.items() if status.state == "running"])
    for name, entry in told.items():
        status = plain[name]
        if name in well:
            late = time.time() - (status.started_at or 0.0) > LATE_SECONDS
            status = replace(status, health="healthy" if well[name] else "unhealthy" if late else "starting")
        yield replace(status, ports=tuple(entry["ports"]))


def plain_status(
    name: str, container: Mapping[str, Any] | None, measure: Callable[[str], int | None] | None
) -> ServiceStatus:
    """How a container with one service in it is, as far as the engine knows."""
    if container is None:
        return ServiceStatus(name, "missing")
    state = container["State"]
    restarts = int(container.get("RestartCount", 0))
    out_of_memory = bool(state.get("OOMKilled"))
    if state.get("Restarting") or not state["Running"]:
        return ServiceStatus(
            name,
            "backoff" if state.get("Restarting") else "stopped",
            restarts=restarts,
            exit_code=state["ExitCode"],
            out_of_memory=out_of_memory,
        )
    return ServiceStatus(
        name,
        "running",
        health="starting",
        started_at=epoch(state["StartedAt"]),
        memory=measure(container["Id"]) if measure else None,
        restarts=restarts,
    )


def epoch(timestamp: str | None) -> float | None:
    """Seconds since the epoch of the engine's RFC 3339 time; None for its zero time."""
    if not timestamp or timestamp.startswith("0001-"):
        return None
    whole, _, fraction = timestamp.rstrip("Z").partition(".")
    digits = "".join(char for char in fraction if char.isdigit())[:6].ljust(6, "0")
    return datetime.fromisoformat(f"{whole}.{digits}+00:00").timestamp()
