"""How a sandbox is doing at one moment: signs of life, what waits and runs, tasks a minute, parsing, slots.

All of it is asked of Airflow's API: it is there in every shape of a sandbox, and costs nothing while nobody looks.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from astro_cli.dagrun import moment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from astro_cli.airflow_api import AirflowApi
    from astro_cli.dagrun import PoolUse
    from astro_cli.runtime.engine import SandboxStatus

STATES = ("running", "queued", "scheduled", "deferred", "up_for_retry")
WINDOW = timedelta(minutes=1)
SHOWN = 3
"""Of files and workers, so that a reading stays on one screen."""


@dataclass(frozen=True)
class Reading:
    """What was seen at one moment.

    Attributes:
        heartbeats: seconds since the last sign of life of each component; None before the first.
        tasks: how many task instances are in each of `STATES`.
        succeeded: task instances that ended well within the last minute, and `failed` those that did not.
        parsing: how long the last parse of each DAG file took, in seconds.
        import_errors: the DAG files that cannot be imported.
        services: health of every service of the sandbox, Celery's workers among them.
    """

    time: str
    heartbeats: Mapping[str, float | None]
    tasks: Mapping[str, int]
    succeeded: int
    failed: int
    parsing: Mapping[str, float]
    import_errors: tuple[str, ...]
    pools: tuple[PoolUse, ...]
    services: Mapping[str, str | None]


def read(api: AirflowApi, status: SandboxStatus, now: datetime) -> Reading:
    """Ask a running sandbox."""
    since = (now - WINDOW).isoformat()
    return Reading(
        time=now.isoformat(timespec="seconds"),
        heartbeats={name: _ago(sign, now) for name, sign in api.heartbeats().items()},
        tasks={state: api.count_tasks(state) for state in STATES},
        succeeded=api.count_tasks("success", end_date_gte=since),
        failed=api.count_tasks("failed", end_date_gte=since),
        parsing={path: file.parse_seconds for path, file in sorted(api.dag_files().items())},
        import_errors=tuple(fault.file for fault in api.import_faults()),
        pools=api.pool_uses(),
        services={service.name: service.health for service in status.services},
    )


def _ago(sign: str | None, now: datetime) -> float | None:
    when = moment(sign)
    return None if when is None else round(max((now - when).total_seconds(), 0.0), 1)


def as_lines(reading: Reading) -> tuple[tuple[str, str], ...]:
    """The reading for people: a heading and what there is to say below it."""
    return (
        ("heartbeats", ", ".join(_heartbeat(*each) for each in reading.heartbeats.items())),
        ("tasks", ", ".join(f"{count} {state}" for state, count in reading.tasks.items())),
        ("last minute", f"{reading.succeeded + reading.failed} tasks ended, {reading.failed} of them failed"),
        ("parsing", _parsing(reading.parsing)),
        ("import errors", _several(reading.import_errors) or "none"),
        ("slots in use", _several([_pool(pool) for pool in reading.pools])),
        ("services", _services(reading.services)),
    )


def _heartbeat(name: str, ago: float | None) -> str:
    return f"{name.replace('_', '-')} {'never' if ago is None else f'{ago:.0f} s ago'}"


def _parsing(files: Mapping[str, float]) -> str:
    if not files:
        return "no DAG file yet"
    slowest = max(files, key=lambda path: files[path])
    return f"{len(files)} files in {sum(files.values()):.2f} s, {slowest} alone {files[slowest]:.2f} s"


def _pool(pool: PoolUse) -> str:
    if pool.slots < 0:
        return f"{pool.name} without bound"
    return f"{pool.name} {pool.slots - pool.open_slots} of {pool.slots}"


def _services(services: Mapping[str, str | None]) -> str:
    sick = [f"{name} {health or 'down'}" for name, health in services.items() if health != "healthy"]
    well = f"{len(services) - len(sick)} of {len(services)} healthy"
    return f"{well}; {_several(sick)}" if sick else well


def _several(words: tuple[str, ...] | list[str]) -> str:
    more = len(words) - SHOWN
    return ", ".join([*words[:SHOWN], *([f"{more} more"] if more > 0 else [])])
