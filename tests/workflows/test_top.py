"""`top`: one reading from what the API says, with and without metrics, and how it is shown."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest
from typer.testing import CliRunner

from astro_cli.cli import build_app
from astro_cli.domain.services import ServiceStatus
from astro_cli.runtime.engine import SandboxStatus
from astro_cli.workflows.top import Reading, as_lines, read
from tests.fake_runs import FakeRuns, dag_body
from tests.fakes import FakeAirflow, serve

NOW = datetime(2026, 11, 22, 12, 0, 10, tzinfo=timezone.utc)
METRICS = {
    "counters": [],
    "gauges": [
        {
            "name": "airflow.executor.open_slots",
            "tags": {"executor_class_name": "LocalExecutor"},
            "value": 3.0,
        }
    ],
    "timers": [
        {
            "name": "airflow.task.duration",
            "tags": {"task_id": name},
            "count": 9,
            "sum": 9.0,
            "last_minute": {"count": count, "mean": mean, "max": mean},
        }
        for name, count, mean in (("a", 1, 4.0), ("b", 3, 2.0), ("c", 0, None))
    ],
    "dropped": 0,
}


def status(*services: ServiceStatus) -> SandboxStatus:
    return SandboxStatus("0123456789", "shop", "/shop", "running", 8080, services)


def airflow(**counts: int) -> FakeRuns:
    fake = FakeRuns({name: dag_body(name, last_parse_duration=2.5) for name in ("etl", "report")})
    signs = {"latest_scheduler_heartbeat": "2026-11-22T12:00:08Z"}
    fake.answers = {
        "/monitor/health": {
            "metadatabase": {"status": "healthy"},
            "scheduler": {"status": "healthy", **signs},
            "triggerer": {"status": None, "latest_triggerer_heartbeat": None},
            "dag_processor": {"status": "healthy", "latest_dag_processor_heartbeat": "2026-11-22T12:00:10Z"},
        },
        "/dags/~/dagRuns/~/taskInstances": {"task_instances": [], "total_entries": counts.get("each", 0)},
        "/importErrors": {
            "import_errors": [{"filename": "bad.py", "stack_trace": "boom"}],
            "total_entries": 1,
        },
        "/pools": {
            "pools": [
                {"name": "default_pool", "slots": 128, "open_slots": 120},
                {"name": "free", "slots": -1, "open_slots": -1},
            ],
            "total_entries": 2,
        },
    }
    return fake


def test_a_reading_holds_what_the_api_says():
    fake = airflow(each=7)
    with fake.api() as api:
        reading = read(api, status(ServiceStatus("scheduler", "running", health="healthy")), NOW)
    assert reading.heartbeats == {"scheduler": 2.0, "triggerer": None, "dag_processor": 0.0}
    assert reading.tasks["queued"] == 7
    assert reading.parsing == {"etl.py": 2.5, "report.py": 2.5}
    assert reading.import_errors == ("bad.py",)
    assert reading.metrics is None


def test_what_ended_in_the_last_minute_is_counted_from_a_minute_ago():
    asked: list[str] = []

    class Api:
        def heartbeats(self) -> dict[str, str | None]:
            return {}

        def count_tasks(self, state: str, **filters: str) -> int:
            asked.extend(f"{state} {since}" for since in filters.values())
            return 0

        def dag_files(self) -> dict[str, Any]:
            return {}

        def import_faults(self) -> tuple[Any, ...]:
            return ()

        pool_uses = import_faults

    read(Api(), status(), NOW)  # type: ignore[arg-type]
    assert asked == [f"{state} 2026-11-22T11:59:10+00:00" for state in ("success", "failed")]


def lines(reading: Reading) -> dict[str, str]:
    return dict(as_lines(reading))


def test_it_is_shown_in_words():
    with airflow(each=2).api() as api:
        sick = ServiceStatus("triggerer", "backoff")
        said = lines(read(api, status(ServiceStatus("scheduler", "running", health="healthy"), sick), NOW))
    assert said == {
        "heartbeats": "scheduler 2 s ago, triggerer never, dag-processor 0 s ago",
        "tasks": "2 running, 2 queued, 2 scheduled, 2 deferred, 2 up_for_retry",
        "last minute": "4 tasks ended, 2 of them failed",
        "parsing": "2 files in 5.00 s, etl.py alone 2.50 s",
        "import errors": "bad.py",
        "slots in use": "default_pool 8 of 128, free without bound",
        "services": "1 of 2 healthy; triggerer down",
    }


def test_what_metrics_tell_is_added():
    with serve(FakeAirflow({"/metrics.json": METRICS})) as url, airflow().api() as api:
        port = int(url.rpartition(":")[2])
        reading = read(api, status(ServiceStatus("metrics", "running", ports=(port,))), NOW)
    said = lines(reading)
    assert reading.metrics == METRICS
    assert said["a task *"] == "runs for 2.50 s (at most 4.00 s)"
    assert said["scheduler loop *"] == "none"
    assert said["free slots"] == "3 of LocalExecutor"
    assert f"4 series at http://localhost:{port}/metrics" in said["metrics"]


@pytest.mark.parametrize("answer", [(500, b"oops"), (200, b"[]"), (200, b"<html>")])
def test_metrics_that_do_not_answer_take_nothing_else_away(answer: tuple[int, bytes]):
    with serve(FakeAirflow({"/metrics.json": answer})) as url, airflow().api() as api:
        port = int(url.rpartition(":")[2])
        said = lines(read(api, status(ServiceStatus("metrics", "running", ports=(port,))), NOW))
    assert said["metrics"].startswith("no answer at")
    assert "scheduler" in said["heartbeats"]


def test_without_a_sandbox_it_says_how_to_make_one(tmp_path, monkeypatch: pytest.MonkeyPatch):
    assert CliRunner().invoke(build_app(), ["airflow", "init", str(tmp_path / "shop")]).exit_code == 0
    monkeypatch.chdir(tmp_path / "shop")
    monkeypatch.setenv("DOCKER_HOST", "unix:///none.sock")
    done = CliRunner().invoke(build_app(), ["airflow", "top"])
    assert done.exit_code == 1
    assert "astro airflow start" in done.stderr
