"""The workflows around runs of DAGs, over Airflow's REST API: trigger, follow, logs, backfill, looking why."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from astro_cli.airflow_api import ANY, AirflowApi, ConflictError, NotFoundError
from astro_cli.domain.dagrun import log_lines
from astro_cli.domain.services import base_url
from astro_cli.domain.why import Snapshot
from astro_cli.foundation.errors import AstroError, UnhealthyError, UsageError
from astro_cli.foundation.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from astro_cli.domain.dagrun import Backfill, Dag, DagFile, LogRequest, Run, Task, TaskLine
    from astro_cli.foundation.wait import Clock
    from astro_cli.runtime.engine import SandboxStatus

POLL_SECONDS = 0.7
PARSE_SECONDS = 60.0  # of files that were saved, or came with a start, a moment ago
CLOSING_SECONDS = 60.0  # Airflow looks every 30 s which backfills are over
PATIENCE_SECONDS = 60.0  # an api-server that restarts on a busy machine must not end a wait
LAST_LINES = 15
EXAMINED_TASKS = 8  # the API computes dependencies anew for each task
READ_BYTES = 1024 * 1024
_OF_A_DATE = re.compile(r"UndefinedError: '((?:prev_)?(?:ds|ts|logical_date|data_interval)\w*)' is undefined")
"""What only the templates of a run with a logical date know."""


class RunFailedError(AstroError):
    """A run that was waited for has failed; the details are the last lines of the task's log."""


@dataclass(frozen=True)
class Progress:
    """A run and its task instances at one moment."""

    run: Run
    tasks: tuple[Task, ...]


def connect(status: SandboxStatus) -> AirflowApi:
    """The API of a sandbox.

    Raises:
        AstroError: the sandbox does not run.
    """
    if status.state == "stopped" or not status.port:
        raise AstroError(
            f"the sandbox of `{status.project_name}` does not run", hint="start it with `astro airflow start`"
        )
    return AirflowApi(base_url(status.port))


# what the user typed


def parse_conf(text: str | None) -> dict[str, Any]:
    """The run configuration of `--conf`.

    Raises:
        UsageError: not a JSON object.
    """
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise UsageError(
            f"--conf is not valid JSON: {exc}", hint="""quote it for your shell: --conf '{"key": "value"}'"""
        ) from exc
    if not isinstance(value, dict):
        raise UsageError("--conf must be a JSON object", hint="""for example --conf '{"key": "value"}'""")
    return value


def parse_date(text: str, option: str) -> str:
    """A date or time in ISO 8601, UTC unless it says otherwise, or `now`, as the API wants it.

    Raises:
        UsageError: it is something else.
    """
    if text.strip().lower() == "now":
        return datetime.now(timezone.utc).isoformat()
    try:
        value = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
    except ValueError as exc:
        raise UsageError(
            f"{option}: {text!r} is not an ISO 8601 date or time",
            hint="for example 2026-11-22, 2026-11-22T18:30:00+01:00, or now",
        ) from exc
    return (value if value.tzinfo else value.replace(tzinfo=timezone.utc)).isoformat()


# finding


def find_dag(api: AirflowApi, dag_id: str) -> Dag:
    """The DAG of that id.

    Raises:
        AstroError: there is none; the hint has the id that was probably meant.
    """
    try:
        return api.dag(dag_id)
    except NotFoundError:
        pass
    known = [dag.dag_id for dag in api.dags()]
    faults = api.import_faults()
    near = get_close_matches(dag_id, known, n=1)
    if near:
        hint = f"did you mean `{near[0]}`?"
    elif faults:
        hint = f"dags/{faults[0].file} cannot be imported; `astro airflow why {dag_id}` says more"
    elif known:
        hint = f"the sandbox has {_listed(known)}; `astro airflow why {dag_id}` says more"
    else:
        hint = f"no DAG has been parsed yet; `astro airflow why {dag_id}` says more"
    raise AstroError(f"there is no DAG `{dag_id}`", hint=hint)


def await_dag(
    api: AirflowApi, dag_id: str, dags: Path, tell: Callable[[str], None], clock: Clock = time
) -> None:
    """Wait for a DAG that Airflow does not know yet: after a start, or a moment after its file was saved.

    Nobody waits for an id that stands in no file while others are known, nor when its file was read since it was
    saved, or cannot be.

    Args:
        dags: the project's folder, whose files are searched for the id.
        tell: hears what it waits for.
    """
    told = False

    def look() -> bool | None:
        nonlocal told
        with suppress(NotFoundError):
            api.dag(dag_id)
            return True
        broken, known, files = (
            {fault.file for fault in api.import_faults()},
            api.dag_files(),
            mentions(dags, dag_id),
        )
        unread = [file for file in files if file not in broken and not _is_read(dags / file, known.get(file))]
        if not unread and (files or known or broken):
            return False
        if not told:
            told = True
            tell(f"waiting until Airflow has read dags/{unread[0] if unread else ''}")
            if known:  # whatever is asked for, the folder is searched for new files
                api.reparse(next(iter(known.values())).token)
        return None

    wait_until(look, seconds=PARSE_SECONDS, clock=clock, pause=POLL_SECONDS)


def _is_read(path: Path, known: DagFile | None) -> bool:
    try:
        return known is not None and known.parsed_at >= path.stat().st_mtime
    except OSError:  # it is gone
        return True


def find_run(api: AirflowApi, dag_id: str, run_id: str | None) -> Run:
    """The run of that id, or the latest.

    Raises:
        AstroError: there is none; the hint has the one that was probably meant.
    """
    if run_id is None:
        find_dag(api, dag_id)
        latest = api.runs(dag_id, limit=1)
        if not latest:
            raise AstroError(
                f"`{dag_id}` has no run yet", hint=f"start one with `astro airflow trigger {dag_id}`"
            )
        return latest[0]
    try:
        return api.run(dag_id, run_id)
    except NotFoundError:
        pass
    find_dag(api, dag_id)
    known = [run.run_id for run in api.runs(dag_id)]
    near = get_close_matches(run_id, known, n=1, cutoff=0.8)
    hint = f"did you mean `{near[0]}`?" if near else f"see `astro airflow runs {dag_id}`"
    raise AstroError(f"`{dag_id}` has no run `{run_id}`", hint=hint)


def tasks_of(api: AirflowApi, run: Run, task_id: str | None = None) -> tuple[Task, ...]:
    """The task instances of a run in the order of their start; those of one task if it is named.

    Args:
        task_id: `clean` for all of its instances, `clean[2]` for one of a mapped task.

    Raises:
        AstroError: the run has no such task.
    """
    tasks = sorted(api.tasks(run.dag_id, run.run_id), key=_by_start)
    if task_id is None:
        return tuple(tasks)
    chosen = tuple(task for task in tasks if task_id in (task.task_id, task.label))
    if not chosen:
        known = list(dict.fromkeys(task.task_id for task in tasks))
        near = get_close_matches(task_id, known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"its tasks: {_listed(known)}" if known else None
        raise AstroError(f"run {run.run_id} of `{run.dag_id}` has no task `{task_id}`", hint=hint)
    return chosen


def _by_start(task: Task) -> tuple[bool, str, str, int]:
    return task.started_at is None, task.started_at or "", task.task_id, task.map_index


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")


# trigger


def start_run(
    api: AirflowApi,
    dag_id: str,
    *,
    conf: Mapping[str, Any],
    logical_date: str | None,
    unpause: bool,
    wait: bool,
    run_id: str | None = None,
) -> tuple[Run, bool]:
    """Make a run; returns it, and whether the DAG is paused, so that the run stays queued.

    Args:
        logical_date: ISO 8601, or None for a run without one, as the web UI makes it.
        unpause: unpause the DAG, if it is paused.
        wait: whether the caller will wait for the run, which a paused DAG would never end.
        run_id: an id of the caller's choice instead of Airflow's.

    Raises:
        AstroError: no such DAG, a run for that date exists, or the DAG is paused and `wait` is asked for.
    """
    dag = find_dag(api, dag_id)
    allow_run(api, dag, unpause=unpause, wait=wait)
    try:
        run = api.trigger(dag_id, logical_date=logical_date, conf=conf, run_id=run_id)
    except ConflictError as exc:
        raise AstroError(
            f"`{dag_id}` has a run for {logical_date} already" if logical_date else exc.message,
            hint=f"give another --date, or none; `astro airflow runs {dag_id}` shows the runs",
        ) from exc
    return run, dag.paused and not unpause


def allow_run(api: AirflowApi, dag: Dag, *, unpause: bool, wait: bool) -> None:
    """Make sure that a run of the DAG can begin."""
    if dag.stale:
        raise AstroError(
            f"dags/{dag.file} does not define `{dag.dag_id}` any more",
            hint="bring it back, or start the DAG that has taken its place",
        )
    if dag.paused and unpause:
        api.unpause(dag.dag_id)
    elif dag.paused and wait:
        raise AstroError(
            f"`{dag.dag_id}` is paused: a run would wait for ever", hint="add `--unpause`, or do not wait"
        )


def follow_run(
    api: AirflowApi, run: Run, *, seconds: float | None = None, clock: Clock = time
) -> Iterator[Progress]:
    """The run again and again, until it has finished; the last one is the end.

    Args:
        seconds: how long to wait at most; None for as long as it takes.

    Raises:
        AstroError: the time was up; the run goes on.
    """

    def look() -> Progress:
        now = api.run(run.dag_id, run.run_id)
        return Progress(now, tasks_of(api, now))

    yield from _follow(
        look,
        lambda progress: progress.run.finished,
        seconds=seconds,
        clock=clock,
        what=f"run {run.run_id}",
        hint=f"it goes on: `astro airflow tasks {run.dag_id} {run.run_id}`; if nothing moves, "
        f"`astro airflow why {run.dag_id}`",
    )


def _follow(
    look: Callable[[], Any],
    done: Callable[[Any], bool],
    *,
    seconds: float | None,
    clock: Clock,
    what: str,
    hint: str,
) -> Iterator[Any]:
    """What `look` sees until `done`; an API that is away for a while is waited for."""
    end = None if seconds is None else clock.monotonic() + seconds
    answered = clock.monotonic()
    while True:
        try:
            seen = look()
        except UnhealthyError:
            if clock.monotonic() - answered > PATIENCE_SECONDS:
                raise
        else:
            answered = clock.monotonic()
            yield seen
            if done(seen):
                return
        if end is not None and clock.monotonic() >= end:
            raise AstroError(f"{what} has not finished after {seconds:g} seconds", hint=hint)
        clock.sleep(POLL_SECONDS)


def failure_of(api: AirflowApi, progress: Progress) -> RunFailedError:
    """The words for a run that failed: the task that made it fail, and the end of that task's log."""
    run = progress.run
    task = guilty_task(progress.tasks)
    if task is None:
        return RunFailedError(
            f"run {run.run_id} of `{run.dag_id}` failed", hint=f"see `astro airflow tasks {run.dag_id}`"
        )
    lines = _last_lines(api, task)
    hint = f"the whole log: `astro airflow logs --dag {run.dag_id} --run {run.run_id} --task {task.label}`"
    if run.logical_date is None and (missing := _OF_A_DATE.search("\n".join(lines))):
        hint = f"a run without a date has no `{missing[1]}`: `astro airflow trigger {run.dag_id} --date now`"
    return RunFailedError(
        f"run {run.run_id} of `{run.dag_id}` failed in task `{task.label}`, try {task.try_number}",
        hint=hint,
        details=lines,
    )


def unrun(progress: Progress) -> str:
    """That a run succeeded only for want of tasks, as a sentence; empty for one that had some."""
    run = progress.run
    if progress.tasks:
        return ""
    why = f": is {run.logical_date} before its start date?" if run.logical_date else ""
    return f"no task of `{run.dag_id}` ran{why}"


def guilty_task(tasks: tuple[Task, ...]) -> Task | None:
    """The task whose failure came first; what failed because of it does not count."""
    failed = [task for task in tasks if task.state == "failed"]
    return min(failed, key=lambda task: task.ended_at or "~", default=None)


def _last_lines(api: AirflowApi, task: Task) -> tuple[str, ...]:
    try:
        messages = api.log(task, task.try_number)
    except AstroError:
        return ()
    return tuple(line.text for line in log_lines(messages, brief=True)[-LAST_LINES:])


# task logs


def choose_tasks(api: AirflowApi, request: LogRequest, *, follow: bool) -> tuple[Run, tuple[Task, ...]]:
    """The task instances whose logs are meant, and their run.

    Without a run: that of the DAG's latest failure, else the latest. In a run: the task that is named, else
    those that failed, else all that began. To follow, the latest run counts, and every task in it.
    """
    if request.run_id is None and not follow:
        find_dag(api, request.dag_id)
        filters = {} if request.task_id is None else {"task_id": request.task_id.partition("[")[0]}
        failed = api.tasks(request.dag_id, ANY, limit=1, state="failed", order_by="-end_date", **filters)
        run = find_run(api, request.dag_id, failed[0].run_id if failed else None)
    else:
        run = find_run(api, request.dag_id, request.run_id)
    tasks = tasks_of(api, run, request.task_id)
    if request.task_id is None and not follow:
        begun = tuple(task for task in tasks if task.try_number)
        tasks = tuple(task for task in begun if task.state == "failed") or begun
        if not tasks:
            raise AstroError(
                f"no task of run {run.run_id} has begun", hint=f"see `astro airflow why {run.dag_id}`"
            )
    return run, tasks


def task_log(api: AirflowApi, task: Task, try_number: int | None = None) -> tuple[TaskLine, ...]:
    """The lines of one try, by default the latest.

    Raises:
        AstroError: there was no such try.
    """
    number = task.try_number if try_number is None else try_number
    if number > task.try_number or number < 1:
        tries = f"its tries: 1 to {task.try_number}" if task.try_number else "it has not begun"
        raise AstroError(f"`{task.label}` in run {task.run_id} has no try {number}", hint=tries)
    return log_lines(api.log(task, number))


def follow_logs(
    api: AirflowApi, run: Run, request: LogRequest, *, tail: int | None = None, clock: Clock = time
) -> Iterator[tuple[Task, int, TaskLine]]:
    """New lines of a run's tasks as they come, with task and try, until all of them have finished.

    Args:
        tail: how many of the lines that are there at the first look; None for all.
    """
    shown: Counter[tuple[str, int]] = Counter()
    first = True

    def look() -> tuple[Run, tuple[Task, ...]]:
        now = api.run(run.dag_id, run.run_id)  # first, so that its end is never older than the logs
        return now, tasks_of(api, now, request.task_id)

    def done(seen: tuple[Run, tuple[Task, ...]]) -> bool:
        return seen[0].finished or (request.task_id is not None and all(task.finished for task in seen[1]))

    for _, tasks in _follow(
        look, done, seconds=None, clock=clock, what=run.run_id, hint="look with `astro airflow runs`"
    ):
        for task in tasks:
            newest = request.try_number or task.try_number
            for number in range(request.try_number or 1, newest + 1):
                key = (task.label, number)
                # An older try, or a task that has finished, cannot get new lines once they were read.
                if shown[key] < 0:
                    continue
                settled = task.finished or number < task.try_number
                new = _new_lines(api, task, number, shown[key])
                shown[key] = -1 if settled else shown[key] + len(new)
                for line in new[max(len(new) - tail, 0) :] if first and tail is not None else new:
                    yield task, number, line
        first = False


def _new_lines(api: AirflowApi, task: Task, number: int, known: int) -> tuple[TaskLine, ...]:
    try:
        return log_lines(api.log(task, number))[known:]
    except NotFoundError:  # handed to the executor, and not begun
        return ()


# backfill


@dataclass(frozen=True)
class BackfillRequest:
    """Which dates to run, as the API takes them; `reprocess` is `none`, `failed` or `completed`."""

    dag_id: str
    from_date: str
    to_date: str
    max_active_runs: int = 10
    reprocess: str = "none"
    backwards: bool = False
    conf: Mapping[str, Any] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """As `BackfillPostBody`."""
        return {
            "dag_id": self.dag_id,
            "from_date": self.from_date,
            "to_date": self.to_date,
            "max_active_runs": self.max_active_runs,
            "reprocess_behavior": self.reprocess,
            "run_backwards": self.backwards,
            "dag_run_conf": dict(self.conf),
        }


@dataclass(frozen=True)
class BackfillProgress:
    """How far a backfill is: how many of its dates are in which state."""

    backfill: Backfill
    dates: tuple[str, ...]
    runs: tuple[Run, ...]

    @property
    def states(self) -> dict[str, int]:
        """Runs by state; dates without a run yet are `none`."""
        found = Counter(run.state for run in self.runs)
        return {**found, "none": max(len(self.dates) - len(self.runs), 0)}

    @property
    def finished(self) -> bool:
        """Whether Airflow makes no more runs for it, and each has finished."""
        all_begun = len(self.runs) >= len(self.dates) or self.backfill.completed_at is not None
        return all_begun and all(run.finished for run in self.runs)


def backfill_dates(api: AirflowApi, request: BackfillRequest) -> tuple[str, ...]:
    """The logical dates that a backfill would run now.

    Raises:
        UsageError: the end lies before the beginning.
        AstroError: no such DAG, or one that cannot be backfilled.
    """
    if datetime.fromisoformat(request.from_date) > datetime.fromisoformat(request.to_date):
        raise UsageError("--from is later than --to", hint="exchange them")
    dag = find_dag(api, request.dag_id)
    if dag.schedule is None:
        raise AstroError(
            f"`{dag.dag_id}` has no schedule, so there are no dates to run it for",
            hint=f"give it a schedule, or start single runs: `astro airflow trigger {dag.dag_id} --date …`",
        )
    return api.backfill_dates(request.body())


def start_backfill(
    api: AirflowApi,
    request: BackfillRequest,
    *,
    unpause: bool,
    wait: bool,
    tell: Callable[[str], None],
    clock: Clock = time,
) -> Backfill:
    """Begin a backfill; `tell` hears what it waits for.

    Raises:
        AstroError: the DAG is paused and nothing would happen, or it has a backfill that goes on.
    """
    allow_run(api, find_dag(api, request.dag_id), unpause=unpause, wait=wait)
    begun = _create_backfill(api, request)
    if begun is None:
        tell(f"the last backfill of {request.dag_id} is over; waiting until Airflow has noticed")
        begun = wait_until(
            lambda: _create_backfill(api, request), seconds=CLOSING_SECONDS, clock=clock, pause=POLL_SECONDS
        )
    if begun is None:
        raise AstroError(
            f"Airflow takes the last backfill of `{request.dag_id}` for a running one",
            hint="see `astro airflow logs scheduler`, or cancel it in the web UI",
        )
    return begun


def _create_backfill(api: AirflowApi, request: BackfillRequest) -> Backfill | None:
    """A new backfill; None when Airflow has not noticed yet that all runs of the last one are over."""
    try:
        return api.create_backfill(request.body())
    except ConflictError as exc:
        if api.runs(request.dag_id, limit=1, run_type="backfill", state=("queued", "running")):
            raise AstroError(exc.message, hint="wait until it is done, or cancel it in the web UI") from exc
        return None


def follow_backfill(
    api: AirflowApi,
    backfill: Backfill,
    dates: tuple[str, ...],
    *,
    seconds: float | None = None,
    clock: Clock = time,
) -> Iterator[BackfillProgress]:
    """The backfill again and again, until all its runs have finished.

    Raises:
        AstroError: the time was up; the backfill goes on.
    """
    wanted = {datetime.fromisoformat(date.replace("Z", "+00:00")) for date in dates}

    def look() -> BackfillProgress:
        now = api.backfill(backfill.backfill_id)
        found = api.runs(
            backfill.dag_id,
            limit=1_000_000,
            logical_date_gte=min(dates),
            logical_date_lte=max(dates),
        )
        mine = tuple(run for run in found if _date_of(run) in wanted)
        return BackfillProgress(now, dates, mine)

    yield from _follow(
        look,
        lambda progress: progress.finished,
        seconds=seconds,
        clock=clock,
        what=f"backfill {backfill.backfill_id} of `{backfill.dag_id}`",
        hint=f"it goes on: `astro airflow runs {backfill.dag_id}`",
    )


def _date_of(run: Run) -> datetime | None:
    return datetime.fromisoformat(run.logical_date.replace("Z", "+00:00")) if run.logical_date else None


# why


def snapshot(
    api: AirflowApi,
    status: SandboxStatus,
    dag_id: str,
    run_id: str | None,
    *,
    project: Path,
    now: datetime | None = None,
) -> Snapshot:
    """What `why.explain` needs to know, seen now.

    Args:
        project: the project's folder, whose DAG files are searched for an unknown id.

    Raises:
        AstroError: `run_id` is given, and the DAG has no such run.
    """
    seen = Snapshot(dag_id=dag_id, now=now or datetime.now(timezone.utc), services=status.services)
    try:
        return _ask(api, seen, run_id, project)
    except UnhealthyError as exc:
        return replace(seen, api_problem=exc.message)


def _ask(api: AirflowApi, seen: Snapshot, run_id: str | None, project: Path) -> Snapshot:
    dag_id = seen.dag_id
    seen = replace(seen, health=api.health(), faults=api.import_faults())
    try:
        dag = api.dag(dag_id)
    except NotFoundError:
        known = [each.dag_id for each in api.dags()]
        similar = tuple(get_close_matches(dag_id, known, n=3))
        return replace(seen, similar=similar, mentioned_in=mentions(project / "dags", dag_id))
    seen = replace(seen, dag=dag, run_named=run_id is not None)
    latest = api.runs(dag_id, limit=1)
    run = find_run(api, dag_id, run_id) if run_id else latest[0] if latest else None
    if run is None:
        return seen
    tasks = tasks_of(api, run)
    waiting = [task for task in tasks if not task.finished and task.state not in ("running", "deferred")]
    failed = guilty_task(tasks) if run.state == "failed" else None
    parallelism = api.option("core", "parallelism")
    return replace(
        seen,
        run=run,
        tasks=tasks,
        dependencies={task.label: api.dependencies(task) for task in waiting[:EXAMINED_TASKS]},
        pools=api.pool_uses(),
        running_runs=len(api.runs(dag_id, state="running")),
        busy=api.count_tasks("running") + api.count_tasks("queued"),
        parallelism=int(parallelism) if parallelism and parallelism.isdigit() else None,
        failed_task=failed,
        failed_log=_last_lines(api, failed) if failed else (),
    )


def mentions(dags: Path, dag_id: str) -> tuple[str, ...]:
    """The Python files below `dags` in which the id stands as a word of its own, as paths below it."""
    found = []
    word = re.compile(rb"(?<![\w.-])" + re.escape(dag_id.encode()) + rb"(?![\w.-])")
    for path in sorted(dags.rglob("*.py")):
        try:
            with path.open("rb") as stream:
                text = stream.read(READ_BYTES)
        except OSError:
            continue
        if word.search(text):
            found.append(path.relative_to(dags).as_posix())
    return tuple(found)
