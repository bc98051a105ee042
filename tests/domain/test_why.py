"""The ranking behind `why`: one snapshot in, the answer out."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from astro_cli.domain.dagrun import Dag, Dependency, ImportFault, PoolUse, Run, Task
from astro_cli.domain.services import ServiceStatus
from astro_cli.domain.why import Snapshot, explain

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)
HEALTHY = dict.fromkeys(("metadatabase", "scheduler", "triggerer", "dag_processor"), "healthy")
DAG = Dag("etl", paused=False, file="etl.py", max_active_runs=1, max_active_tasks=2)
PAUSED = Dag("etl", paused=True, file="etl.py")
RUNNING = Run("etl", "r1", "running", run_after="2026-11-22T11:59:00Z")
QUEUED = Run("etl", "r1", "queued", run_after="2026-11-22T11:59:00Z")
FAILED = Run("etl", "r1", "failed")
FULL, FREE = PoolUse("default_pool", 2, 0), PoolUse("default_pool", 2, 2)


def task(task_id: str, state: str, **more: Any) -> Task:
    return Task("etl", "r1", task_id, state, **more)


def snapshot(**seen: Any) -> Snapshot:
    return Snapshot(**{"dag_id": "etl", "now": NOW, "dag": DAG, "health": HEALTHY, **seen})


def codes(**seen: Any) -> list[str]:
    return [finding.code for finding in explain(snapshot(**seen))]


@pytest.mark.parametrize(
    ("code", "seen"),
    [
        ("dead_component", {"services": (ServiceStatus("scheduler", "backoff", exit_code=1),)}),
        ("dead_component", {"services": (ServiceStatus("postgres", "missing"),)}),
        ("dead_component", {"health": {**HEALTHY, "scheduler": "unhealthy"}}),
        ("out_of_memory", {"services": (ServiceStatus("scheduler", "backoff", exit_code=-9, out_of_memory=True),)}),
        ("dag_processor", {"health": {**HEALTHY, "dag_processor": "unhealthy"}}),
        ("api", {"dag": None, "health": {}, "api_problem": "no answer"}),
        ("unknown", {"dag": None, "similar": ("elt",)}),
        ("not_parsed", {"dag": None, "mentioned_in": ("etl.py",)}),
        ("import_error", {"dag": None, "mentioned_in": ("a.py",), "faults": (ImportFault("a.py", "E"),)}),
        ("import_error", {"faults": (ImportFault("etl.py", "SyntaxError: x"),)}),
        ("gone", {"dag": Dag("etl", paused=False, stale=True, file="etl.py")}),
        ("paused", {"dag": PAUSED, "run": QUEUED}),
        ("no_run", {}),
        ("future_date", {"run": Run("etl", "r1", "running", logical_date="2027-01-01T00:00:00Z")}),
        ("future_date", {"run": Run("etl", "r1", "queued", run_after="2026-11-22T13:00:00Z")}),
        ("max_active_runs", {"run": QUEUED, "running_runs": 1}),
        (
            "max_active_tasks",
            {
                "run": RUNNING,
                "tasks": (task("a", "running"), task("b", "queued"), task("c", "scheduled")),
                "pools": (FREE,),
            },
        ),
        ("parallelism", {"run": RUNNING, "tasks": (task("a", "queued"),), "busy": 4, "parallelism": 4}),
        (
            "no_worker",
            {
                "run": RUNNING,
                "tasks": (task("a", "queued", queue="heavy"),),
                "served_queues": frozenset({"default"}),
            },
        ),
        ("pool_full", {"run": RUNNING, "tasks": (task("a", "scheduled"),), "pools": (FULL,)}),
        (
            "pool_too_small",
            {"run": RUNNING, "tasks": (task("a", "scheduled", pool_slots=3),), "pools": (FREE,)},
        ),
        ("missing_pool", {"run": RUNNING, "tasks": (task("a", "scheduled", pool="nope"),)}),
        ("running", {"run": RUNNING, "tasks": (task("a", "running", started_at="2026-11-22T11:59:30Z"),)}),
        ("retry", {"run": RUNNING, "tasks": (task("a", "up_for_retry", try_number=1, max_tries=1),)}),
        ("deferred", {"run": RUNNING, "tasks": (task("a", "deferred"),)}),
        (
            "dependencies",
            {
                "run": RUNNING,
                "tasks": (task("a", "none"),),
                "dependencies": {"a": (Dependency("Previous Dagrun State", "depends_on_past is true"),)},
            },
        ),
        ("starting", {"run": QUEUED}),
        ("finished", {"run": Run("etl", "r1", "success", ended_at="2026-11-22T11:00:00Z")}),
        ("missing_connection", {"failed_log": ("The conn_id `dwh` isn't defined",)}),
        ("missing_variable", {"failed_log": ("AirflowRuntimeError: Variable with key `x` not found",)}),
        ("out_of_memory", {"failed_log": ("Process terminated by signal. Likely out of memory error (OOM).",)}),
        ("missing_module", {"failed_log": ("ModuleNotFoundError: No module named 'pandas'",)}),
        ("failed", {"failed_log": ("ValueError: x",)}),
    ],
)  # fmt: skip
def test_each_cause_is_the_answer_when_it_is_the_only_one(code: str, seen: dict[str, Any]):
    if "failed_log" in seen:
        seen = {"run": FAILED, "failed_task": task("a", "failed"), **seen}
    assert codes(**seen)[0] == code


def test_what_stops_everything_comes_before_what_stops_one_dag_and_that_before_one_task():
    everything = {
        "services": (ServiceStatus("triggerer", "backoff", exit_code=1),),
        "health": {**HEALTHY, "dag_processor": "unhealthy"},
        "faults": (ImportFault("etl.py", "E"),),
        "dag": PAUSED,
        "run": RUNNING,
        "tasks": (task("a", "scheduled"),),
        "pools": (PoolUse("default_pool", 1, 0),),
    }
    assert codes(**everything) == ["dead_component", "dag_processor", "import_error", "paused", "pool_full"]


def test_of_a_failed_run_asked_for_by_name_its_failure_is_the_answer():
    seen = {"dag": PAUSED, "run": FAILED, "failed_task": task("a", "failed"), "failed_log": ("E",)}
    assert codes(**seen) == ["paused", "failed"]
    assert codes(**seen, run_named=True) == ["failed", "paused"]


def test_a_task_that_waits_for_another_one_does_not_wait_for_the_pool():
    waits = {"b": (Dependency("Trigger Rule", "upstream"), Dependency("Pool Slots Available", "0 open"))}
    found = codes(
        run=RUNNING,
        tasks=(task("a", "running"), task("b", "none")),
        dependencies=waits,
        pools=(PoolUse("default_pool", 1, 0),),
    )
    assert found == ["running", "dependencies"]


def test_a_pool_without_limit_is_never_full():
    assert codes(run=RUNNING, tasks=(task("a", "scheduled"),), pools=(PoolUse("default_pool", -1, -1),)) == [
        "starting"
    ]


def test_the_missing_connection_is_named_with_the_way_to_add_it():
    seen = {
        "run": FAILED,
        "failed_task": task("a", "failed"),
        "failed_log": ("The conn_id `dwh` isn't defined",),
    }
    (finding,) = explain(snapshot(**seen))
    assert "`dwh`" in finding.message
    assert "astro airflow object import" in str(finding.hint)


def test_the_next_run_of_the_schedule_is_told_with_its_distance():
    dag = Dag("etl", paused=False, schedule="@daily", next_run_after="2026-11-23T00:00:00Z")
    assert "2026-11-23 00:00 UTC (in 12 hours)" in explain(snapshot(dag=dag))[0].message
