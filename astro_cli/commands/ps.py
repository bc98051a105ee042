"""`astro airflow ps`."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from astro_cli.commands.options import obj, started

if TYPE_CHECKING:
    from astro_cli.domain.services import ServiceStatus
    from astro_cli.foundation.console import Console
    from astro_cli.runtime.engine import SandboxStatus

MIB = 1024 * 1024


def ps(ctx: typer.Context) -> None:
    """Show the services: state, health, uptime, memory, and where the web UI is."""
    app = obj(ctx)
    status = started(app, memory=True)
    app.console.result(
        {**asdict(status), "healthy": status.healthy, "url": url_of(status)},
        lambda: _show(app.console, status, time.time()),
    )


def url_of(status: SandboxStatus) -> str | None:
    """Where the web UI is, when it runs."""
    from astro_cli.domain.services import base_url

    return base_url(status.port) if status.port and status.state != "stopped" else None


def _show(console: Console, status: SandboxStatus, now: float) -> None:
    rows = [_row(service, now) for service in status.services]
    total = sum(service.memory or 0 for service in status.services)
    console.table(("SERVICE", "STATE", "HEALTH", "UP", "MEMORY", "RESTARTS", "PORT"), rows)
    console.note()
    console.note(
        f"{status.project_name} is {status.state}: {url_of(status) or 'start it with `astro airflow start`'}"
    )
    age = f", image {duration(now - status.image_created)} old" if status.image_created else ""
    memory = f", {total // MIB} MiB in all" if total else ""
    console.note(f"Airflow {status.airflow_version or 'unknown'}{age}{memory}")


def _row(service: ServiceStatus, now: float) -> tuple[str, ...]:
    state = service.state
    if service.died and service.exit_code:
        state = f"{state} ({'out of memory' if service.out_of_memory else service.exit_code})"
    return (
        service.name,
        state,
        service.health or "-",
        duration(now - service.started_at) if service.started_at and service.health else "-",
        f"{service.memory // MIB} MiB" if service.memory else "-",
        str(service.restarts),
        ", ".join(map(str, service.ports)) or "-",
    )


def duration(seconds: float) -> str:
    """A length of time in its largest fitting unit: `42s`, `7m`, `3h`, `12d`."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(int(seconds), 0)}s"
