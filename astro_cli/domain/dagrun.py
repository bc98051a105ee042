"""What Airflow's API tells of DAGs, runs and task instances, as values, and how their logs read as lines. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

RUN_FINISHED = ("success", "failed")
TASK_FAILED = ("failed", "upstream_failed")
TASK_FINISHED = ("success", *TASK_FAILED, "skipped", "removed")
NOT_STARTED = "none"
"""Our word for a task instance to which the API gives no state: nothing has looked at it yet."""

_SOURCES = "::group::Log message source details"
_AIRFLOW_FRAME = "/site-packages/airflow/"
_LOUD_LEVELS = ("warning", "error", "critical")


@dataclass(frozen=True)
class Dag:
    """One DAG as Airflow knows it. Times are ISO 8601 as the API gives them.

    Attributes:
        stale: its file is gone, or no longer defines it.
        file: path below the DAGs folder.
        next_run_after: when the schedule makes the next run.
    """

    dag_id: str
    paused: bool
    stale: bool = False
    file: str = ""
    schedule: str | None = None
    max_active_runs: int | None = None
    max_active_tasks: int | None = None
    next_run_after: str | None = None

    @classmethod
    def from_api(cls, body: Mapping[str, Any]) -> Dag:
        """From a `DAGResponse`."""
        return cls(
            dag_id=body["dag_id"],
            paused=body["is_paused"],
            stale=body["is_stale"],
            file=body["relative_fileloc"] or body["fileloc"],
            schedule=body["timetable_summary"],
            max_active_runs=body["max_active_runs"],
            max_active_tasks=body["max_active_tasks"],
            next_run_after=body["next_dagrun_run_after"],
        )


@dataclass(frozen=True)
class DagFile:
    """One DAG file as Airflow knows it.

    Attributes:
        token: by which a parse of it is asked for.
        parsed_at: when its last parse began, in seconds since the epoch; 0 before the first.
        parse_seconds: how long that took.
    """

    token: str
    parsed_at: float
    parse_seconds: float = 0.0

    @classmethod
    def from_api(cls, body: Mapping[str, Any]) -> DagFile:
        """From the `DAGResponse` of one of its DAGs."""
        ended = moment(body["last_parsed_time"])
        seconds = float(body["last_parse_duration"] or 0.0)
        return cls(str(body["file_token"]), ended.timestamp() - seconds if ended else 0.0, seconds)


@dataclass(frozen=True)
class Run:
    """One run of a DAG. `state` is `queued`, `running`, `success` or `failed`; `kind` such as `manual`."""

    dag_id: str
    run_id: str
    state: str
    kind: str = "manual"
    logical_date: str | None = None
    run_after: str | None = None
    queued_at: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    conf: Mapping[str, Any] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen in it by itself."""
        return self.state in RUN_FINISHED

    @classmethod
    def from_api(cls, body: Mapping[str, Any]) -> Run:
        """From a `DAGRunResponse`."""
        return cls(
            dag_id=body["dag_id"],
            run_id=body["dag_run_id"],
            state=body["state"],
            kind=body["run_type"],
            logical_date=body["logical_date"],
            run_after=body["run_after"],
            queued_at=body["queued_at"],
            started_at=body["start_date"],
            ended_at=body["end_date"],
            conf=body["conf"] or {},
        )


@dataclass(frozen=True)
class Task:
    """One task instance.

    Attributes:
        map_index: -1 unless the task is mapped.
        state: Airflow's word, or `none` while it has none.
        try_number: the present or last try, 1-based; 0 before the first.
        pool_slots: how many of the pool's slots it takes.
    """

    dag_id: str
    run_id: str
    task_id: str
    state: str
    map_index: int = -1
    try_number: int = 0
    max_tries: int = 0
    started_at: str | None = None
    ended_at: str | None = None
    operator: str | None = None
    pool: str = "default_pool"
    pool_slots: int = 1
    queue: str = "default"

    @property
    def label(self) -> str:
        """How it is called on the terminal: `clean`, or `clean[2]` for a mapped one."""
        return self.task_id if self.map_index < 0 else f"{self.task_id}[{self.map_index}]"

    @property
    def finished(self) -> bool:
        """Whether it will not run any more by itself."""
        return self.state in TASK_FINISHED

    @classmethod
    def from_api(cls, body: Mapping[str, Any]) -> Task:
        """From a `TaskInstanceResponse`."""
        return cls(
            dag_id=body["dag_id"],
            run_id=body["dag_run_id"],
            task_id=body["task_id"],
            state=body["state"] or NOT_STARTED,
            map_index=body["map_index"],
            try_number=body["try_number"],
            max_tries=body["max_tries"],
            started_at=body["start_date"],
            ended_at=body["end_date"],
            operator=body["operator_name"] or body["operator"],
            pool=body["pool"],
            pool_slots=body["pool_slots"],
            queue=body.get("queue") or "default",
        )


@dataclass(frozen=True)
class Dependency:
    """Something that keeps a task instance from running, in Airflow's words."""

    name: str
    reason: str


@dataclass(frozen=True)
class PoolUse:
    """How full a pool is; -1 slots means unlimited."""

    name: str
    slots: int
    open_slots: int


@dataclass(frozen=True)
class ImportFault:
    """A DAG file that cannot be imported; `file` is below the DAGs folder."""

    file: str
    trace: str

    @property
    def reason(self) -> str:
        """The last line of the trace: the exception."""
        lines = [line for line in self.trace.splitlines() if line.strip()]
        return lines[-1].strip() if lines else "no reason given"


@dataclass(frozen=True)
class Backfill:
    """A backfill that was begun; `completed_at` is set when Airflow makes no more runs for it."""

    backfill_id: int
    dag_id: str
    completed_at: str | None


@dataclass(frozen=True)
class TaskLine:
    """One line of a task's log; `timestamp` is ISO 8601, empty where the log has none."""

    timestamp: str
    level: str
    text: str


@dataclass(frozen=True)
class LogRequest:
    """Which task logs: of a DAG, a run (default: by what happened), a task, a try (default: the last)."""

    dag_id: str
    run_id: str | None = None
    task_id: str | None = None
    try_number: int | None = None


def log_lines(messages: Iterable[str | Mapping[str, Any]], *, brief: bool = False) -> tuple[TaskLine, ...]:
    """The lines of a task's log, tracebacks written out.

    Args:
        messages: what the API's log call has in `content`.
        brief: only what the user's code led to, without Airflow's preparations and its frames in tracebacks.
    """
    found: list[TaskLine] = []
    hidden = False
    for message in messages:
        text = message if isinstance(message, str) else str(message.get("event", ""))
        if text.startswith("::group::"):
            # Where the log lies is no line of the log; what Airflow does before the task is its own business.
            hidden = brief or text == _SOURCES
        elif text.startswith("::endgroup::"):
            hidden = False
        elif not hidden or (not isinstance(message, str) and message.get("level") in _LOUD_LEVELS):
            found += _message_lines(message, brief=brief)
    return tuple(found)


def _message_lines(message: str | Mapping[str, Any], *, brief: bool) -> Iterator[TaskLine]:
    if isinstance(message, str):
        message = {"event": message}
    text = str(message.get("event", ""))
    when, level = str(message.get("timestamp") or ""), str(message.get("level") or "")
    prefix = f"{level.upper()} - " if level in _LOUD_LEVELS else ""
    for line in f"{prefix}{text}".splitlines() or [""]:
        yield TaskLine(when, level, line)
    for line in _traceback(message.get("error_detail") or (), brief=brief):
        yield TaskLine(when, level, line)


def _traceback(stacks: Iterable[Mapping[str, Any]], *, brief: bool) -> Iterator[str]:
    """As Python writes it: causes first, the exception last; the API has them the other way round."""
    ordered = list(reversed(list(stacks)))
    for number, stack in enumerate(ordered):
        yield "Traceback (most recent call last):"
        frames = stack.get("frames") or []
        own = [frame for frame in frames if _AIRFLOW_FRAME not in str(frame.get("filename"))]
        if brief and own and len(own) < len(frames):
            hidden = len(frames) - len(own)
            yield f"  … {hidden} frame{'' if hidden == 1 else 's'} inside Airflow"
            frames = own
        for frame in frames:
            yield f'  File "{frame.get("filename")}", line {frame.get("lineno")}, in {frame.get("name")}'
        value = str(stack.get("exc_value") or "")
        yield from f"{stack.get('exc_type')}{': ' if value else ''}{value}".splitlines()
        for note in stack.get("exc_notes") or ():
            yield from str(note).splitlines()
        if number < len(ordered) - 1:
            how = "was the direct cause of" if stack.get("is_cause") else "came up before"
            yield f"The exception above {how} the following one:"


def moment(text: str | None) -> datetime | None:
    """An ISO 8601 time of the API; None stays None. Without an offset it is UTC, as in Airflow."""
    if not text:
        return None
    parsed = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)


def seconds_between(start: str | None, end: str | None, now: datetime) -> float | None:
    """The length of something that began at `start` and ended at `end`, or goes on now."""
    begun = moment(start)
    return ((moment(end) or now) - begun).total_seconds() if begun else None
