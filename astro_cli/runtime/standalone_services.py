"""A project's services as local processes beside Airflow's: what each runs, in which environment, and how it is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import astro_cli
from astro_cli.domain.project_services import METRICS, WAREHOUSE, fill, own_words
from astro_cli.foundation.ports import LOOPBACK
from astro_cli.runtime import service_health
from astro_cli.runtime.stand_in_config import config, redis_options

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from astro_cli.domain.project_services import PlacedService
    from astro_cli.domain.services import ServiceStatus, Stack
    from astro_cli.runtime.engine import Report
    from astro_cli.runtime.venv import Workshop

STAND_INS = Path(astro_cli.__file__).parent / "runtime/inside/standins"
FOLDER = "services"
"""Folder of a sandbox's folder in which each service has one of its own: its files, and `data`."""


def check(services: Iterable[PlacedService]) -> None:
    """Raise a ProjectError for what cannot run without Docker."""
    for each in services:
        if each.service.kind == "own" and not each.service.command:
            raise each.service.error(
                f"the service {each.name} is an image, which needs Docker",
                hint="give it a `command` as well, or add `--engine docker`",
            )


def programs(
    stack: Stack,
    folder: Path,
    workshop: Workshop,
    *,
    python: str,
    environment: Mapping[str, str],
    report: Report,
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """What the supervisor must run, and the files that it needs.

    Args:
        folder: of the sandbox.
        workshop: has or makes what the services run in.
        python: of the sandbox's environment.
        environment: of a program of the user's, without any secret.
        report: is told when something is installed.

    Returns:
        name to argument list, and file name (relative to `folder`) to content.
    """
    argvs: dict[str, list[str]] = {}
    files: dict[str, str] = {}
    for each in stack.added:
        if each.service.kind == WAREHOUSE:
            continue
        place = folder / FOLDER / each.name
        launch: dict[str, Any]
        if each.service.kind == "own":
            words = {**own_words(each, on_loopback=True), "host": LOOPBACK, "data": str(place / "data")}
            own = {name: fill(value, words) for name, value in each.service.environment.items()}
            command = [fill(word, words) for word in each.service.command]
            launch = {"command": command, "folder": str(stack.root), "environment": {**environment, **own}}
        else:
            file = place / "config.json"
            command = _command(each, place / "data", file, workshop, Path(python), report)
            launch = {"command": command, "folder": str(place), "environment": _plain(environment)}
            read = str(stack.root / each.service.folder) if each.service.folder is not None else None
            told = config(each, host=LOOPBACK, ports=each.ports, data=str(place / "data"), read=read)
            files[f"{FOLDER}/{each.name}/config.json"] = json.dumps(told)
        files[f"{FOLDER}/{each.name}/launch.json"] = json.dumps(launch)
        argvs[each.name] = [python, "-I", str(STAND_INS / "launch.py"), str(place / "launch.json")]
    return argvs, files


def _command(
    each: PlacedService, data: Path, file: Path, workshop: Workshop, python: Path, report: Report
) -> list[str]:
    if each.service.kind == "redis":
        port = each.ports[each.service.ports[0]]
        return [str(workshop.redis(python, report)), *redis_options(LOOPBACK, port, str(data))]
    program = STAND_INS / f"{each.service.kind.replace('-', '_')}.py"
    interpreter = python if each.service.kind == METRICS else workshop.stand_ins(python, report)
    return [str(interpreter), "-Es", str(program), str(file)]


def _plain(environment: Mapping[str, str]) -> dict[str, str]:
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ")
    return {"PYTHONUNBUFFERED": "1", **{name: environment[name] for name in kept if name in environment}}


def make_folders(stack: Stack, folder: Path) -> None:
    """Have each service's folder. Those of services that the project no longer has stay until `kill`."""
    for each in stack.added:
        (folder / FOLDER / each.name / "data").mkdir(mode=0o700, parents=True, exist_ok=True)


def statuses(
    marked: Mapping[str, Any], known: Mapping[str, ServiceStatus], postgres: ServiceStatus | None
) -> Iterable[ServiceStatus]:
    """How each service is.

    Args:
        marked: see `service_health.marks`.
        known: what the supervisor says of each.
        postgres: the server in which the warehouse lives.
    """
    well = service_health.look(marked, [name for name in marked if known[name].state == "running"])
    for name, entry in marked.items():
        status = known[name]
        if entry["kind"] == WAREHOUSE and postgres is not None:
            status = replace(postgres, name=name, memory=None)
        elif name in well and not well[name]:
            status = replace(status, health="starting")
        yield replace(status, ports=tuple(entry["ports"]))
