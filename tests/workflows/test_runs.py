"""The workflows around runs, against a hand-written API."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from astro_cli.airflow_api import COMPONENTS, AirflowApi
from astro_cli.domain.dagrun import LogRequest, Run
from astro_cli.domain.why import explain
from astro_cli.foundation.errors import AstroError, UnhealthyError, UsageError
from astro_cli.runtime.engine import SandboxStatus
from astro_cli.workflows import runs
from tests.fake_runs import NOW, FakeClock, FakeRuns, InTurn, dag_body, run_body, task_body

RUN = "/dags/etl/dagRuns/r1"
TASKS = f"{RUN}/taskInstances"


def fake(**answers: Any) -> FakeRuns:
    made = FakeRuns(dags={"etl": dag_body("etl")})
    made.answers |= answers
    return made


def tasks(*bodies: dict[str, Any]) -> dict[str, Any]:
    return {"task_instances": list(bodies), "total_entries": len(bodies)}


def listed(*bodies: dict[str, Any]) -> dict[str, Any]:
    return {"dag_runs": list(bodies), "total_entries": len(bodies)}


def log(*events: str) -> dict[str, Any]:
    return {"content": [{"event": event, "level": "info", "timestamp": NOW} for event in events]}


def run_of(body: dict[str, Any]) -> Run:
    return Run.from_api(body)


# what the user typed


def test_conf_is_a_json_object():
    assert runs.parse_conf('{"a": [1, "é"]}') == {"a": [1, "é"]}
    assert runs.parse_conf(None) == {}


@pytest.mark.parametrize("text", ["{x}", "", "[1]", '"a"', "1", "null", "[" * 100_000])
def test_any_other_conf_is_refused(text: str):
    with pytest.raises(UsageError, match="--conf"):
        runs.parse_conf(text)


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("2026-01-02", "2026-01-02T00:00:00+00:00"),
        ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05+00:00"),
        ("2026-01-02 03:04:05+01:00", "2026-01-02T03:04:05+01:00"),
    ],
)
def test_dates_are_utc_unless_they_say_otherwise(text: str, date: str):
    assert runs.parse_date(text, "--date") == date


@pytest.mark.parametrize("text", ["", "tomorrow", "2026-13-01", "22.11.2026"])
def test_what_is_no_iso_date_is_refused(text: str):
    with pytest.raises(UsageError, match="--date"):
        runs.parse_date(text, "--date")


def test_a_sandbox_that_does_not_run_says_how_to_start_it():
    status = SandboxStatus("id", "shop", "/shop", "stopped", 8080, ())
    with pytest.raises(AstroError, match="does not run") as told:
        runs.connect(status)
    assert told.value.hint == "start it with `astro airflow start`"


# finding


def test_an_unknown_dag_brings_the_one_that_was_meant():
    with fake().api() as api, pytest.raises(AstroError, match="no DAG `elt`") as told:
        runs.find_dag(api, "elt")
    assert told.value.hint == "did you mean `etl`?"


def test_an_unknown_dag_beside_a_broken_file_names_the_file():
    faults = {"import_errors": [{"filename": "new.py", "stack_trace": "E"}], "total_entries": 1}
    with fake(**{"/importErrors": faults}).api() as api, pytest.raises(AstroError) as told:
        runs.find_dag(api, "zzz")
    assert "dags/new.py" in str(told.value.hint)


def test_dag_ids_with_odd_characters_stay_one_part_of_the_path():
    made = fake()
    with made.api() as api, pytest.raises(AstroError):
        runs.find_dag(api, "a/../b c?d")
    assert made.calls[0][1] == "/dags/a/../b c?d"


def test_an_unknown_run_brings_the_one_that_was_meant():
    made = fake(**{"/dags/etl/dagRuns": listed(run_body("etl", "manual__2026-11-22", "success"))})
    with made.api() as api, pytest.raises(AstroError, match="no run") as told:
        runs.find_run(api, "etl", "manual__2026-11-23")
    assert told.value.hint == "did you mean `manual__2026-11-22`?"


def test_a_dag_without_runs_says_how_to_start_one():
    made = fake(**{"/dags/etl/dagRuns": listed()})
    with made.api() as api, pytest.raises(AstroError, match="no run yet") as told:
        runs.find_run(api, "etl", None)
    assert "trigger etl" in str(told.value.hint)


def test_tasks_come_in_the_order_of_their_start_and_by_name_or_instance():
    later, never = (
        task_body("a", "running", start_date="2026-11-22T12:00:05Z"),
        task_body("c", None, start_date=None),
    )
    mapped = task_body("b", "success", map_index=3)
    made = fake(**{TASKS: tasks(never, later, mapped)})
    run = run_of(run_body("etl", "r1", "running"))
    with made.api() as api:
        assert [task.label for task in runs.tasks_of(api, run)] == ["b[3]", "a", "c"]
        assert [task.label for task in runs.tasks_of(api, run, "b")] == ["b[3]"]
        assert [task.label for task in runs.tasks_of(api, run, "b[3]")] == ["b[3]"]
        with pytest.raises(AstroError, match="no task `b\\[4\\]`"):
            runs.tasks_of(api, run, "b[4]")


def test_collections_are_read_to_their_last_page():
    many = [run_body("etl", f"r{i}", "success") for i in range(250)]

    def page(request: httpx.Request) -> httpx.Response:
        offset, limit = int(request.url.params["offset"]), int(request.url.params["limit"])
        return httpx.Response(200, json={"dag_runs": many[offset : offset + limit], "total_entries": 250})

    with AirflowApi("http://fake", transport=httpx.MockTransport(page)) as api:
        assert len(api.runs("etl", limit=1000)) == 250
        assert len(api.runs("etl", limit=120)) == 120


# an API in trouble


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (httpx.ReadTimeout("slow"), "did not answer within 10 seconds"),
        (httpx.ConnectError("refused"), "no connection"),
        (httpx.Response(500, json={"detail": "boom"}), "failed: boom"),
        (httpx.Response(503, text="<html>"), "failed: HTTP 503"),
        (httpx.Response(200, text="<html>"), "not Airflow's API"),
    ],
)
def test_an_api_in_trouble_is_one_sentence_and_exit_code_5(answer: Any, words: str):
    with fake(**{"/dags/etl": answer}).api() as api, pytest.raises(UnhealthyError, match=words) as told:
        runs.find_dag(api, "etl")
    assert told.value.exit_code == 5
    assert told.value.hint


# a DAG that Airflow will know in a moment


NOT_YET = httpx.Response(404, json={"detail": "no such DAG"})


def awaited(made: FakeRuns, dags: Path) -> tuple[float, list[str]]:
    """For how long it was waited, and what was said meanwhile."""
    clock, said = FakeClock(), list[str]()
    with made.api() as api:
        runs.await_dag(api, "new", dags, said.append, clock)
    return clock.now, said


@pytest.fixture
def dags(tmp_path: Path) -> Path:
    (tmp_path / "new.py").write_text("dag_id = 'new'")
    return tmp_path


def test_a_dag_is_waited_for_until_its_file_is_read(dags: Path):
    made = fake(**{"/dags/new": InTurn(NOT_YET, NOT_YET, dag_body("new"))})
    seconds, said = awaited(made, dags)
    assert 0 < seconds < 5
    assert said == ["waiting until Airflow has read dags/new.py"]
    assert [path for path, _ in made.called("PUT")] == ["/parseDagFile/token"]


def test_the_wait_for_a_dag_ends(dags: Path):
    assert awaited(fake(), dags)[0] == pytest.approx(runs.PARSE_SECONDS, abs=runs.POLL_SECONDS)


def test_after_a_start_any_dag_may_still_come(tmp_path: Path):
    made = FakeRuns(answers={"/dags/new": InTurn(NOT_YET, dag_body("new"))})
    assert awaited(made, tmp_path) == (runs.POLL_SECONDS, ["waiting until Airflow has read dags/"])


def test_nobody_waits_for_a_dag_that_cannot_come(dags: Path):
    fault = {
        "import_error_id": 1,
        "filename": "new.py",
        "stack_trace": "no",
        "timestamp": NOW,
        "bundle_name": "d",
    }
    broken = fake(**{"/importErrors": {"import_errors": [fault], "total_entries": 1}})
    assert awaited(broken, dags) == (0, [])
    read = fake()
    read.dags["other"] = dag_body("other", relative_fileloc="new.py", last_parsed_time="2999-01-01T00:00:00Z")
    assert awaited(read, dags) == (0, [])
    (dags / "new.py").unlink()
    assert awaited(fake(), dags) == (0, [])


# trigger


def start(made: FakeRuns, **options: Any) -> Any:
    with made.api() as api:
        return runs.start_run(
            api, "etl", **{"conf": {}, "logical_date": None, "unpause": False, "wait": False, **options}
        )


def test_a_trigger_hands_conf_and_date_on():
    made = fake(**{"POST /dags/etl/dagRuns": run_body("etl", "r1", "queued")})
    run, paused = start(made, conf={"a": 1}, logical_date="2026-01-01T00:00:00+00:00")
    assert (run.run_id, paused) == ("r1", False)
    assert made.called("POST") == [
        ("/dags/etl/dagRuns", {"logical_date": "2026-01-01T00:00:00+00:00", "conf": {"a": 1}})
    ]


def test_a_paused_dag_is_refused_if_the_run_is_waited_for_and_said_otherwise():
    made = fake(**{"POST /dags/etl/dagRuns": run_body("etl", "r1", "queued"), "PATCH /dags/etl": {}})
    made.dags["etl"]["is_paused"] = True
    with pytest.raises(AstroError, match="paused") as told:
        start(made, wait=True)
    assert "--unpause" in str(told.value.hint)
    assert not made.called("POST")
    assert start(made)[1] is True
    assert start(made, wait=True, unpause=True)[1] is False
    assert made.called("PATCH") == [("/dags/etl", {"is_paused": False})]


def test_a_second_run_for_a_date_is_refused_in_words():
    conflict = httpx.Response(409, json={"detail": {"reason": "Unique constraint violation"}})
    with pytest.raises(AstroError, match="has a run for 2026-01-01 already"):
        start(fake(**{"POST /dags/etl/dagRuns": conflict}), logical_date="2026-01-01")


# following


def test_a_run_is_followed_until_it_ends_and_through_a_restart_of_the_api():
    states = [run_body("etl", "r1", "running"), httpx.ConnectError("down"), run_body("etl", "r1", "success")]
    made = fake(**{RUN: InTurn(*states), TASKS: tasks(task_body("a", "success"))})
    with made.api() as api:
        seen = list(runs.follow_run(api, run_of(states[0]), clock=FakeClock()))
    assert [progress.run.state for progress in seen] == ["running", "success"]


def test_an_api_that_stays_away_ends_the_wait():
    made = fake(**{RUN: httpx.ConnectError("down")})
    with made.api() as api, pytest.raises(UnhealthyError):
        list(runs.follow_run(api, run_of(run_body("etl", "r1", "running")), clock=FakeClock()))


def test_a_wait_that_is_too_short_says_that_the_run_goes_on():
    made = fake(**{RUN: run_body("etl", "r1", "running"), TASKS: tasks()})
    with made.api() as api, pytest.raises(AstroError, match="not finished after 3 seconds") as told:
        list(runs.follow_run(api, run_of(run_body("etl", "r1", "running")), seconds=3, clock=FakeClock()))
    assert "goes on" in str(told.value.hint)


def test_a_failed_run_names_the_task_that_failed_first_and_shows_its_log():
    first = task_body("first", "failed", end_date="2026-11-22T12:00:01Z", try_number=2)
    second = task_body("second", "failed", end_date="2026-11-22T12:00:02Z")
    made = fake(**{f"{TASKS}/first/logs/2": log("one", "two")})
    progress = runs.Progress(
        run_of(run_body("etl", "r1", "failed")),
        tuple(
            runs_task for runs_task in map(as_task, (second, first, task_body("third", "upstream_failed")))
        ),
    )
    with made.api() as api:
        told = runs.failure_of(api, progress)
    assert told.message == "run r1 of `etl` failed in task `first`, try 2"
    assert told.details == ("one", "two")
    assert told.exit_code == 1


@pytest.mark.parametrize("name", ["ds", "ts_nodash", "logical_date", "data_interval_start", "prev_ds"])
def test_a_template_that_wants_the_date_of_a_run_without_one_is_told_how_to_give_one(name: str):
    made = fake(**{f"{TASKS}/a/logs/1": log("Traceback", f"UndefinedError: '{name}' is undefined")})
    failed = (as_task(task_body("a", "failed")),)
    for date, hint in (
        (None, f"no `{name}`: `astro airflow trigger etl --date now`"),
        (NOW, "the whole log"),
    ):
        progress = runs.Progress(run_of(run_body("etl", "r1", "failed", logical_date=date)), failed)
        with made.api() as api:
            assert hint in str(runs.failure_of(api, progress).hint)


def test_a_run_without_a_task_is_no_silent_success():
    nothing = runs.Progress(run_of(run_body("etl", "r1", "success", logical_date=NOW)), ())
    assert runs.unrun(nothing) == f"no task of `etl` ran: is {NOW} before its start date?"
    assert runs.unrun(replace(nothing, tasks=(as_task(task_body("a", "success")),))) == ""


def test_now_is_a_date():
    assert datetime.fromisoformat(runs.parse_date("now", "--date")).tzinfo is not None


def as_task(body: dict[str, Any]) -> Any:
    from astro_cli.domain.dagrun import Task

    return Task.from_api(body)


# logs


def test_logs_are_those_of_the_latest_failure():
    made = fake(
        **{
            "/dags/etl/dagRuns/~/taskInstances": tasks(task_body("b", "failed")),
            RUN: run_body("etl", "r1", "failed"),
            TASKS: tasks(task_body("a", "success"), task_body("b", "failed")),
        }
    )
    with made.api() as api:
        run, chosen = runs.choose_tasks(api, LogRequest("etl"), follow=False)
    assert (run.run_id, [task.label for task in chosen]) == ("r1", ["b"])


def test_without_a_failure_logs_are_those_of_the_latest_run():
    made = fake(
        **{
            "/dags/etl/dagRuns/~/taskInstances": tasks(),
            "/dags/etl/dagRuns": listed(run_body("etl", "r1", "running")),
            TASKS: tasks(task_body("a", "success"), task_body("b", None, try_number=0, start_date=None)),
        }
    )
    with made.api() as api:
        _, chosen = runs.choose_tasks(api, LogRequest("etl"), follow=False)
    assert [task.label for task in chosen] == ["a"]


def test_a_try_that_never_was_names_those_that_were():
    with fake().api() as api, pytest.raises(AstroError, match="no try 3") as told:
        runs.task_log(api, as_task(task_body("a", "success", try_number=2)), 3)
    assert told.value.hint == "its tries: 1 to 2"


def test_following_shows_each_line_once_and_goes_on_with_the_next_try():
    run = run_body("etl", "r1", "running")
    made = fake(
        **{
            RUN: InTurn(run, run, run_body("etl", "r1", "success")),
            TASKS: InTurn(
                tasks(task_body("a", "running")),
                tasks(task_body("a", "up_for_retry")),
                tasks(task_body("a", "success", try_number=2)),
            ),
            f"{TASKS}/a/logs/1": InTurn(
                log("old", "1a"), log("old", "1a", "1b"), log("old", "1a", "1b", "1c")
            ),
            f"{TASKS}/a/logs/2": log("2a"),
        }
    )
    with made.api() as api:
        seen = list(runs.follow_logs(api, run_of(run), LogRequest("etl"), tail=1, clock=FakeClock()))
    assert [(number, line.text) for _, number, line in seen] == [(1, "1a"), (1, "1b"), (1, "1c"), (2, "2a")]


# backfill


REQUEST = runs.BackfillRequest("etl", "2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00")


def test_a_backfill_needs_a_schedule_and_dates_in_order():
    with fake().api() as api, pytest.raises(AstroError, match="no schedule"):
        runs.backfill_dates(api, REQUEST)
    wrong = runs.BackfillRequest("etl", "2026-01-02T00:00:00+00:00", "2026-01-01T00:00:00+00:00")
    with fake().api() as api, pytest.raises(UsageError, match="--from is later"):
        runs.backfill_dates(api, wrong)


def test_a_backfill_waits_until_airflow_has_noticed_the_end_of_the_last_one_but_not_for_a_running_one():
    refused = httpx.Response(409, json={"detail": "There is already a running backfill for dag etl"})
    begun = {"id": 8, "dag_id": "etl", "completed_at": None}
    active = InTurn(listed(), listed(), listed(run_body("etl", "b1", "running")))
    made = fake(**{"POST /backfills": InTurn(refused, refused, begun, refused), "/dags/etl/dagRuns": active})
    told: list[str] = []
    clock = FakeClock()
    start = {"unpause": False, "wait": True, "tell": told.append, "clock": clock}
    with made.api() as api:
        assert runs.start_backfill(api, REQUEST, **start).backfill_id == 8
        assert len(told) == 1
        assert clock.now > 0
        with pytest.raises(AstroError, match="already a running backfill"):
            runs.start_backfill(api, REQUEST, **start)
    made = fake(**{"POST /backfills": refused, "/dags/etl/dagRuns": listed()})
    with made.api() as api, pytest.raises(AstroError, match="for a running one"):
        runs.start_backfill(api, REQUEST, **start)


def test_a_backfill_has_finished_when_every_date_has_a_run_that_has():
    dates = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z")
    one, two = (run_body("etl", f"b{i}", "success", logical_date=date) for i, date in enumerate(dates))
    other = run_body("etl", "x", "running", logical_date="2026-01-01T12:00:00Z")
    made = fake(
        **{
            "/backfills/7": {"id": 7, "dag_id": "etl", "completed_at": None},
            "/dags/etl/dagRuns": InTurn(listed(other, one), listed(other, one, two)),
        }
    )
    with made.api() as api:
        backfill = api.backfill(7)
        seen = list(runs.follow_backfill(api, backfill, dates, clock=FakeClock()))
    assert [progress.states for progress in seen] == [{"success": 1, "none": 1}, {"success": 2, "none": 0}]


# why


def test_a_snapshot_of_an_unknown_dag_finds_the_broken_file_that_has_it(tmp_path: Path):
    (tmp_path / "dags/sub").mkdir(parents=True)
    (tmp_path / "dags/sub/new.py").write_text("@dag(dag_id='brand_new')")
    made = fake(
        **{
            "/monitor/health": {name: {"status": "healthy"} for name in COMPONENTS},
            "/importErrors": {
                "import_errors": [{"filename": "sub/new.py", "stack_trace": "Traceback\nNameError: dag"}],
                "total_entries": 1,
            },
        }
    )
    status = SandboxStatus("id", "shop", "/shop", "running", 8080, ())
    with made.api() as api:
        first = explain(runs.snapshot(api, status, "brand_new", None, project=tmp_path))[0]
    assert first.code == "import_error"
    assert "NameError: dag" in first.message


def test_a_snapshot_without_an_api_still_has_an_answer(tmp_path: Path):
    status = SandboxStatus("id", "shop", "/shop", "partial", 8080, ())
    with fake(**{"/monitor/health": httpx.ConnectError("down")}).api() as api:
        found = explain(runs.snapshot(api, status, "etl", None, project=tmp_path))
    assert [each.code for each in found] == ["api"]
