"""How a sandbox is doing at one moment: signs of life, what waits and runs, tasks a minute, parsing, slots.

All of that is asked of Airflow's API, so it is there in every shape of a sandbox and costs nothing until somebody
looks. What only Airflow's own metrics tell is added where they are collected (`start --metrics`).
"""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from astro_cli.domain.dagrun import moment
from astro_cli.domain.project_services import METRICS
from astro_cli.foundation.ports import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from astro_cli.airflow_api import AirflowApi
    from astro_cli.domain.dagrun import PoolUse
    from astro_cli.runtime.engine import SandboxStatus

STATES = ("running", "queued", "scheduled", "deferred", "up_for_retry")
WINDOW = timedelta(minutes=1)
METRICS_SECONDS = 2.0
TIMERS = {
    "scheduler loop": {"takes": "airflow.scheduler.scheduler_loop_duration"},
    "a task": {
        "is scheduled for": "airflow.task.scheduled_duration",
        "queued for": "airflow.task.queued_duration",
        "runs for": "airflow.task.duration",
    },
}
"""Heading to what is measured, and Airflow's name for it."""
FREE = "airflow.executor.open_slots"
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
        metrics: what the service `metrics` tells, see its module; None where there is none.
        metrics_url: where Prometheus finds the same.
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
    metrics: Mapping[str, Any] | None = None
    metrics_url: str | None = None


def read(api: AirflowApi, status: SandboxStatus, now: datetime) -> Reading:
    """Ask a running sandbox."""
    since = (now - WINDOW).isoformat()
    port = next((each.ports[0] for each in status.services if each.name == METRICS and each.ports), None)
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
        metrics=_collected(port) if port is not None else None,
        metrics_url=f"http://localhost:{port}/metrics" if port is not None else None,
    )


def _collected(port: int) -> dict[str, Any] | None:
    """What the service `metrics` tells; None while it does not answer, which is no reason to see nothing."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=METRICS_SECONDS)
    try:
        connection.request("GET", "/metrics.json")
        told = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return told if isinstance(told, dict) else None


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
        *_of_metrics(reading),
    )


def _of_metrics(reading: Reading) -> Iterator[tuple[str, str]]:
    if reading.metrics_url is None:
        return
    told = reading.metrics
    if told is None:
        yield "metrics", f"no answer at {reading.metrics_url}"
        return
    for heading, names in TIMERS.items():
        spans = {word: _span(told["timers"], name) for word, name in names.items()}
        yield f"{heading} *", ", ".join(f"{word} {span}" for word, span in spans.items() if span) or "none"
    free = (f"{each['value']:.0f} of {_executor(each)}" for each in told["gauges"] if each["name"] == FREE)
    yield "free slots", ", ".join(free) or "-"
    series = sum(len(told[kind]) for kind in ("counters", "gauges", "timers"))
    yield "metrics", f"{series} series at {reading.metrics_url}  (* of the last minute)"


def _span(timers: Sequence[Mapping[str, Any]], name: str) -> str:
    """What one timer, whatever its tags, measured in the last minute."""
    found = [each["last_minute"] for each in timers if each["name"] == name and each["last_minute"]["count"]]
    count = sum(each["count"] for each in found)
    if not count:
        return ""
    mean = sum(each["mean"] * each["count"] for each in found) / count
    return f"{mean:.2f} s (at most {max(each['max'] for each in found):.2f} s)"


def _executor(gauge: Mapping[str, Any]) -> str:
    return str(gauge["tags"].get("executor_class_name", "the executor"))


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
