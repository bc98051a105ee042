"""Decides why nothing is running: a snapshot of a sandbox in, ranked findings out. Pure; `runs.snapshot` gathers.

Each check knows one cause. Their order is the ranking: what stops everything comes before what stops one DAG,
that before what stops one task, and what merely takes its time comes last. The first finding is the answer.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from astro_cli.domain.dagrun import NOT_STARTED, moment, seconds_between
from astro_cli.domain.diagnosis import describe_death, suggest_fix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from astro_cli.domain.dagrun import Dag, Dependency, ImportFault, PoolUse, Run, Task
    from astro_cli.domain.services import ServiceStatus

COMPONENT_SERVICES = {
    "metadatabase": "postgres",
    "scheduler": "scheduler",
    "triggerer": "triggerer",
    "dag_processor": "dag-processor",
}
"""The components as the health endpoint names them, and the services that they are."""

# Said of every task that waits, or found by a check of its own.
_NOT_A_CAUSE = (
    "Task Instance State",
    "Dagrun Running",
    "Dag Not Paused",
    "Pool Slots Available",
    "Task Instance Slots Available",
    "Not In Retry Period",
)
_WAITING = (NOT_STARTED, "scheduled", "queued", "up_for_reschedule")
_SOON = timedelta(seconds=2)

_MISSING_CONNECTION = re.compile(r"[Tt]he conn_id [`'\"]([^`'\"]+)[`'\"] isn't defined")
_MISSING_VARIABLE = re.compile(
    r"[Vv]ariable[: `'\"]*(?:with key )?[`'\"]?([\w.-]+)[`'\"]? (?:does not exist|not found)"
)
_MISSING_MODULE = re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'")
_OUT_OF_MEMORY = re.compile(r"out of memory|SIGKILL|signal -?9\b|MemoryError", re.IGNORECASE)


@dataclass(frozen=True)
class Snapshot:
    """What was seen at one moment of one DAG and the sandbox around it.

    Attributes:
        dag: None when Airflow does not know it.
        similar: ids that look like the one asked for.
        mentioned_in: the project's DAG files in which the id stands, below the DAGs folder.
        run: the run in question, by default the latest; None when there is none.
        run_named: whether the user asked for that very run.
        dependencies: of tasks that wait, by their label.
        running_runs: how many runs of the DAG are running.
        busy: how many task instances of all DAGs run or are handed to the executor.
        parallelism: how many may, or None when unknown.
        failed_task: the task whose failure made the run fail, and the last lines of its log.
        served_queues: that Celery workers listen to; None where tasks run beside the scheduler.
        api_problem: why the API could not be asked, which leaves everything but the services empty.
    """

    dag_id: str
    now: datetime
    dag: Dag | None = None
    similar: tuple[str, ...] = ()
    mentioned_in: tuple[str, ...] = ()
    faults: tuple[ImportFault, ...] = ()
    health: Mapping[str, str] = field(default_factory=dict)
    services: tuple[ServiceStatus, ...] = ()
    run: Run | None = None
    run_named: bool = False
    tasks: tuple[Task, ...] = ()
    dependencies: Mapping[str, tuple[Dependency, ...]] = field(default_factory=dict)
    pools: tuple[PoolUse, ...] = ()
    running_runs: int = 0
    busy: int = 0
    parallelism: int | None = None
    failed_task: Task | None = None
    failed_log: tuple[str, ...] = ()
    served_queues: frozenset[str] | None = None
    api_problem: str | None = None


@dataclass(frozen=True)
class Finding:
    """One reason: a steady code for programs, a sentence, and what to do about it."""

    code: str
    message: str
    hint: str | None = None
    details: tuple[str, ...] = ()


def explain(snapshot: Snapshot) -> tuple[Finding, ...]:
    """The reasons found, the most important one first; never empty."""
    checks: list[Callable[[Snapshot], Iterator[Finding]]] = [_services, _api, _components]
    if snapshot.dag is None:
        checks.append(_unknown)
    else:
        checks += [_import_error, _stale]
        # Of a run that was asked for by name and has failed, its failure is what matters.
        failed_and_named = snapshot.run_named and snapshot.run is not None and snapshot.run.state == "failed"
        checks += [_failure, _paused] if failed_and_named else [_paused, _failure]
        checks += [
            _future,
            _run_limit,
            _pools,
            _queues,
            _limits,
            _running,
            _retry,
            _deferred,
            _dependencies,
            _no_run,
        ]
    found = tuple(finding for check in checks for finding in check(snapshot))
    return found or (_nothing_wrong(snapshot),)


# what stops everything


def _services(s: Snapshot) -> Iterator[Finding]:
    for service in s.services:
        if service.died or service.state == "missing":
            what = describe_death(service) if service.died else "is missing"
            again = ", and is started again" if service.state == "backoff" else ""
            yield Finding(
                "out_of_memory" if service.out_of_memory else "dead_component",
                f"`{service.name}` {what}{again}",
                suggest_fix(service, ()) if service.died else "run `astro airflow start`",
            )


def _api(s: Snapshot) -> Iterator[Finding]:
    if s.api_problem:
        yield Finding("api", s.api_problem, "see `astro airflow logs api-server`")


def _components(s: Snapshot) -> Iterator[Finding]:
    dead = {service.name for service in s.services if service.died}
    for component, status in s.health.items():
        name = COMPONENT_SERVICES.get(component, component)
        if status == "healthy" or name in dead:
            continue
        restart = f"`astro airflow restart {name}` starts it anew; its log: `astro airflow logs {name}`"
        if component == "dag_processor":
            text = "the dag-processor gives no heartbeat: files are not parsed, so new and changed DAGs stay unseen"
            yield Finding("dag_processor", text, restart)
        else:
            yield Finding("dead_component", f"`{name}` gives no heartbeat", restart)


# what stops one DAG


def _unknown(s: Snapshot) -> Iterator[Finding]:
    if s.api_problem:
        return
    guilty = [fault for fault in s.faults if fault.file in s.mentioned_in]
    for fault in guilty:
        yield _fault(fault, f"`{s.dag_id}` is in dags/{fault.file}, which cannot be imported")
    if guilty:
        return
    if s.mentioned_in:
        yield Finding(
            "not_parsed",
            f"`{s.dag_id}` stands in dags/{s.mentioned_in[0]}, but Airflow knows no DAG of that name (yet)",
            "a new file is seen within seconds; else look that the file says `airflow` and `dag`, calls its "
            "@dag function, and is not in .airflowignore",
        )
        return
    near = f"did you mean `{s.similar[0]}`?" if s.similar else "see `astro airflow run dags list`"
    yield Finding("unknown", f"there is no DAG `{s.dag_id}`", near)
    for fault in s.faults:
        yield _fault(fault, f"dags/{fault.file} cannot be imported")


def _fault(fault: ImportFault, text: str) -> Finding:
    return Finding(
        "import_error",
        f"{text}: {fault.reason}",
        "correct the file; it is parsed again as soon as it is saved",
        tuple(fault.trace.splitlines()[-10:]),
    )


def _import_error(s: Snapshot) -> Iterator[Finding]:
    assert s.dag is not None
    for fault in s.faults:
        if fault.file == s.dag.file:
            yield _fault(fault, f"dags/{fault.file} cannot be imported, so the last good version is used")


def _stale(s: Snapshot) -> Iterator[Finding]:
    if s.dag is not None and s.dag.stale and not any(fault.file == s.dag.file for fault in s.faults):
        yield Finding(
            "gone",
            f"dags/{s.dag.file} does not define `{s.dag_id}` any more",
            "bring it back, or start the DAG that has taken its place",
        )


def _paused(s: Snapshot) -> Iterator[Finding]:
    if s.dag is not None and s.dag.paused:
        runs = " and its runs stay queued" if s.run is not None and s.run.state == "queued" else ""
        yield Finding(
            "paused",
            f"`{s.dag_id}` is paused: nothing of it is scheduled{runs}",
            f"the switch in the web UI, or `astro airflow run dags unpause {s.dag_id}`",
        )


def _no_run(s: Snapshot) -> Iterator[Finding]:
    if s.dag is None or s.run is not None:
        return
    due = moment(s.dag.next_run_after)
    if due is None:
        text = f"`{s.dag_id}` has no run, and its schedule ({s.dag.schedule or 'none'}) makes none by itself"
    elif due > s.now:
        text = f"`{s.dag_id}` has no run yet: its schedule ({s.dag.schedule}) makes one {_when(due, s.now)}"
    else:
        text = f"`{s.dag_id}` has no run yet; one is due since {due:%Y-%m-%d %H:%M} UTC"
    yield Finding("no_run", text, f"`astro airflow trigger {s.dag_id}` starts one now")


def _future(s: Snapshot) -> Iterator[Finding]:
    if s.run is None or s.run.finished:
        return
    for what, text in (("starts", s.run.run_after), ("has its logical date", s.run.logical_date)):
        due = moment(text)
        if due is not None and due > s.now + _SOON:
            yield Finding(
                "future_date",
                f"run {s.run.run_id} {what} in the future: {_when(due, s.now)}",
                f"wait, or start a run for now: `astro airflow trigger {s.dag_id}`",
            )
            return


def _run_limit(s: Snapshot) -> Iterator[Finding]:
    limit = s.dag.max_active_runs if s.dag else None
    if s.run is not None and s.run.state == "queued" and limit and s.running_runs >= limit:
        yield Finding(
            "max_active_runs",
            f"run {s.run.run_id} waits: {s.running_runs} of at most {limit} runs of `{s.dag_id}` are running "
            "(max_active_runs)",
            f"wait for them (`astro airflow runs {s.dag_id}`), or raise max_active_runs in dags/"
            f"{s.dag.file if s.dag else ''}",
        )


# what stops one task


def _pools(s: Snapshot) -> Iterator[Finding]:
    pools = {pool.name: pool for pool in s.pools}
    waiting = [task for task in s.tasks if task.state in (NOT_STARTED, "scheduled")]
    # Only what has come as far as asking for a slot; a task that waits for others does not.
    asking = [task for task in waiting if task.state == "scheduled" or _lacks_slots(s, task)]
    for name, tasks in _by_pool(asking).items():
        pool = pools.get(name)
        labels = _names(tasks)
        if pool is None:
            yield Finding(
                "missing_pool",
                f"{labels} {_verb('ask', tasks)} for the pool `{name}`, which does not exist",
                "add it to airflow_settings.yaml, then `astro airflow object import`",
            )
        elif 0 <= pool.slots < min(task.pool_slots for task in tasks):
            yield Finding(
                "pool_too_small",
                f"{labels} {_verb('need', tasks)} more slots than the pool `{name}` has at all ({pool.slots})",
                "raise the pool's slots, or lower pool_slots of the task",
            )
        elif pool.slots >= 0 and pool.open_slots < min(task.pool_slots for task in tasks):
            yield Finding(
                "pool_full",
                f"{labels} {_verb('wait', tasks)} for the pool `{name}`: {max(pool.open_slots, 0)} of its "
                f"{pool.slots} slots are free",
                f"wait, or give `{name}` more slots in airflow_settings.yaml, then `astro airflow object import`",
            )


def _lacks_slots(s: Snapshot, task: Task) -> bool:
    named = [each.name for each in s.dependencies.get(task.label, ())]
    return "Pool Slots Available" in named and "Trigger Rule" not in named


def _by_pool(tasks: list[Task]) -> dict[str, list[Task]]:
    return {
        name: [task for task in tasks if task.pool == name] for name in dict.fromkeys(t.pool for t in tasks)
    }


def _queues(s: Snapshot) -> Iterator[Finding]:
    for task in s.tasks:
        if task.state == "queued" and s.served_queues is not None and task.queue not in s.served_queues:
            yield Finding(
                "no_worker",
                f"`{task.label}` waits in the queue `{task.queue}`, which no worker serves",
                "write it to the `queues` of a group below `workers:` in .astro/config.yaml, "
                "then `astro airflow start`",
            )


def _limits(s: Snapshot) -> Iterator[Finding]:
    states = Counter(task.state for task in s.tasks)
    active = states["running"] + states["queued"]
    limit = s.dag.max_active_tasks if s.dag else None
    if states["scheduled"] and limit and active >= limit:
        yield Finding(
            "max_active_tasks",
            f"{active} of at most {limit} tasks of this run are running (max_active_tasks); "
            f"{states['scheduled']} wait",
            f"wait, or raise max_active_tasks in dags/{s.dag.file if s.dag else ''}",
        )
    elif states["queued"] + states["scheduled"] and s.parallelism and s.busy >= s.parallelism:
        yield Finding(
            "parallelism",
            f"all {s.parallelism} places for tasks of this sandbox are taken",
            "wait, or raise sandbox.parallelism in .astro/config.yaml",
        )


def _failure(s: Snapshot) -> Iterator[Finding]:
    task = s.failed_task
    if task is None or s.run is None:
        return
    text, look = "\n".join(s.failed_log), f"`astro airflow logs --dag {s.dag_id} --run {s.run.run_id}`"
    subject = f"`{task.label}` of run {s.run.run_id}"
    last = tuple(s.failed_log[-10:])
    if found := _MISSING_CONNECTION.search(text):
        name = found.group(1)
        message = f"{subject} failed: the connection `{name}` is missing"
        hint = f"add `{name}` to airflow_settings.yaml, `astro airflow object import`, then trigger it again"
        yield Finding("missing_connection", message, hint)
    elif found := _MISSING_VARIABLE.search(text):
        name = found.group(1)
        hint = f"add `{name}` to airflow_settings.yaml, `astro airflow object import`, then trigger it again"
        yield Finding("missing_variable", f"{subject} failed: the variable `{name}` is missing", hint)
    elif _OUT_OF_MEMORY.search(text):
        message = f"{subject} was killed, most likely because memory ran out"
        yield Finding(
            "out_of_memory", message, "let the task take less, or give the engine more memory", last
        )
    elif found := _MISSING_MODULE.search(text):
        package = found.group(1).partition(".")[0]
        hint = f"add the package of `{package}` to requirements.txt, then `astro airflow start`"
        yield Finding("missing_module", f"{subject} failed: `{package}` is not installed", hint)
    else:
        yield Finding("failed", f"{subject} failed", f"the whole log: {look}", last)


def _running(s: Snapshot) -> Iterator[Finding]:
    active = [task for task in s.tasks if task.state in ("running", "restarting")]
    if active and s.run is not None:
        done = sum(task.finished for task in s.tasks)
        oldest = max(seconds_between(task.started_at, None, s.now) or 0 for task in active)
        yield Finding(
            "running",
            f"it is running: {_names(active)} since {oldest:.0f} seconds; {done} of {len(s.tasks)} tasks are done",
            f"follow it with `astro airflow logs --dag {s.dag_id} --run {s.run.run_id} -f`",
        )


def _retry(s: Snapshot) -> Iterator[Finding]:
    for task in s.tasks:
        if task.state == "up_for_retry" and s.run is not None:
            reasons = tuple(each.reason for each in s.dependencies.get(task.label, ()))
            yield Finding(
                "retry",
                f"`{task.label}` failed in try {task.try_number} of {task.max_tries + 1} and waits for the next",
                f"`astro airflow logs --dag {s.dag_id} --run {s.run.run_id} --task {task.task_id}` shows why",
                reasons,
            )


def _deferred(s: Snapshot) -> Iterator[Finding]:
    if tasks := [task for task in s.tasks if task.state == "deferred"]:
        yield Finding(
            "deferred",
            f"{_names(tasks)} {_verb('wait', tasks)} in the triggerer for what was asked for there",
            "see `astro airflow logs triggerer`",
        )


def _dependencies(s: Snapshot) -> Iterator[Finding]:
    for task in s.tasks:
        if task.state not in _WAITING or s.run is None or s.run.state != "running":
            continue
        reasons = tuple(
            each.reason
            for each in s.dependencies.get(task.label, ())
            if each.name not in _NOT_A_CAUSE and "is in the future" not in each.reason
        )
        if reasons:
            yield Finding(
                "dependencies", f"`{task.label}` cannot start: {reasons[0].rstrip('.')}", None, reasons[1:]
            )


def _nothing_wrong(s: Snapshot) -> Finding:
    run = s.run
    if run is None:
        return Finding("nothing", "nothing stands in the way that Airflow's API would tell")
    if run.finished:
        again = f"`astro airflow trigger {s.dag_id}` starts another"
        ended = moment(run.ended_at)
        when = f" {_when(ended, s.now)}" if ended else ""
        word = "succeeded" if run.state == "success" else "failed"
        return Finding("finished", f"the latest run, {run.run_id}, {word}{when}; nothing else is due", again)
    return Finding(
        "starting",
        f"run {run.run_id} is {run.state}, and nothing stands in its way: the scheduler takes it next",
        "if it stays so, look at `astro airflow logs scheduler`",
    )


def _names(tasks: list[Task]) -> str:
    """A few labels: `` `a[0]` and 2 more``."""
    more = f" and {len(tasks) - 1} more" if len(tasks) > 1 else ""
    return f"`{tasks[0].label}`{more}"


def _verb(word: str, tasks: list[Task]) -> str:
    return word if len(tasks) > 1 else f"{word}s"


def _when(moment_: datetime, now: datetime) -> str:
    """A moment near and far: `2026-11-22 18:42 UTC (in 3 hours)`."""
    seconds = (moment_ - now).total_seconds()
    size, unit = next(
        (
            (size, unit)
            for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60))
            if abs(seconds) >= size
        ),
        (1, "second"),
    )
    number = int(abs(seconds) // size)
    words = f"{number} {unit}{'' if number == 1 else 's'}"
    return f"{moment_:%Y-%m-%d %H:%M} UTC ({f'in {words}' if seconds > 0 else f'{words} ago'})"
