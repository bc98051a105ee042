"""What both engines read from the supervisor's status.json."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from astro_cli.domain.services import ServiceStatus

if TYPE_CHECKING:
    from collections.abc import Mapping


def service_status(name: str, told: Mapping[str, Any]) -> ServiceStatus:
    """One of the supervisor's services, as it last said (format: runtime/inside/supervisor.py).

    Args:
        name: of the service.
        told: the whole of status.json; empty when the supervisor has not written one yet.
    """
    entry: Mapping[str, Any] = (told.get("services") or {}).get(name) or {}
    code: int | None = entry.get("exit_code")
    if entry.get("signal"):
        code = -signal.Signals[str(entry["signal"])].value
    return ServiceStatus(
        name,
        str(entry.get("state", "starting")),
        health=str(entry.get("health") or "starting"),
        started_at=entry.get("started_at"),
        memory=entry.get("memory"),
        restarts=int(entry.get("restarts") or 0),
        exit_code=code,
        out_of_memory=bool(entry.get("oom")),
    )
