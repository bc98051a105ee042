"""The workflow of `debug` against an engine that tells what a task would tell, and a hand-written API."""

from __future__ import annotations

import json
import os
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest

from astro_cli.foundation.errors import AstroError, Interrupted
from astro_cli.workflows import debugging
from astro_cli.workflows.debugging import DebugEvent, DebugRequest, debug_task
from tests.fake_runs import FakeRuns, InTurn, dag_body, run_body, task_body
from tests.free_port import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from astro_cli.domain.dagrun import Task
    from astro_cli.runtime.engine import Engine, ExecRequest

STOPPED = {"type": "stopped", "file": "/opt/airflow/dags/etl.py", "line": 7, "function": "clean"}
LISTENING = {"type": "listening", "map_index": -1}
WHOLE = ({"type": "armed"}, LISTENING, {"type": "attached"}, STOPPED, {"type": "ended"})


class TalkingEngine:
    """`wait` tells these lines; with `stays` it then goes on until somebody calls `end`."""

    def __init__(self, *lines: dict[str, Any], stays: bool = False) -> None:
        self.lines = lines
        self.stays = stays
        self.asked: list[Any] = []
        self.forwarded: list[int] = []
        self.ended = threading.Event()

    def exec(self, sandbox_id: str, request: ExecRequest) -> int:
        command = list(request.command)
        assert command[0] == "astro-debug"
        if command[1] == "end":
            self.ended.set()
            return 0
        self.asked.append(json.loads(command[2]))
        os.write(1, "".join(f"{json.dumps(line)}\n" for line in self.lines).encode())
        if self.stays:
            assert self.ended.wait(20)
        return 0

    @contextmanager
    def forward(self, sandbox_id: str, port: int) -> Iterator[None]:
        self.forwarded.append(port)
        yield

    def port_holder(self, port: int) -> str | None:
        return "container `grafana`"


def fake(**answers: Any) -> FakeRuns:
    """An API with the DAG `etl` of `extract` and `clean`, and its run `r1` in which `clean` has succeeded."""
    made = FakeRuns(dags={"etl": dag_body("etl")})
    run = "/dags/etl/dagRuns/r1"
    made.answers = {
        "/dags/etl/tasks": {"tasks": [{"task_id": "extract"}, {"task_id": "clean"}], "total_entries": 2},
        "POST /dags/etl/dagRuns": run_body("etl", "r1", "queued"),
        "POST /dags/etl/clearTaskInstances": {"task_instances": [], "total_entries": 0},
        run: run_body("etl", "r1", "running"),
        f"{run}/taskInstances": tasks("success", "success"),
        **answers,
    }
    return made


def tasks(extract: str | None, clean: str | None) -> dict[str, Any]:
    bodies = [task_body("extract", extract), task_body("clean", clean)]
    return {"task_instances": bodies, "total_entries": 2}


def debug(
    engine: TalkingEngine, runs: FakeRuns, *, task: str = "clean", **changes: Any
) -> tuple[Task, list[DebugEvent]]:
    events: list[DebugEvent] = []
    request = DebugRequest("etl", task, **{"port": free_port(), **changes})
    with runs.api() as api:
        return debug_task(cast("Engine", engine), "shop-1", api, request, events.append), events


def test_the_run_begins_only_when_somebody_waits_for_its_task_and_has_the_id_that_was_waited_for():
    engine, runs = TalkingEngine(*WHOLE), fake()
    instance, events = debug(engine, runs, conf={"day": 1})
    [(path, body)] = runs.called("POST")
    assert path == "/dags/etl/dagRuns"
    assert body["conf"] == {"day": 1}
    assert body["dag_run_id"].startswith("debug__")
    assert engine.asked[0]["run_id"] == body["dag_run_id"]
    assert (engine.asked[0]["task_id"], engine.asked[0]["map_index"]) == ("clean", None)
    assert [event.kind for event in events] == ["begun", "listening", "attached", "stopped"]
    assert engine.forwarded == [engine.asked[0]["port"]]
    assert (instance.task_id, instance.state) == ("clean", "success")


def test_a_run_that_is_named_has_that_task_cleared_alone():
    engine, runs = TalkingEngine(*WHOLE), fake()
    debug(engine, runs, run_id="r1")
    [(path, body)] = runs.called("POST")
    assert path == "/dags/etl/clearTaskInstances"
    assert (body["dag_run_id"], body["task_ids"], body["dry_run"]) == ("r1", ["clean"], False)


def test_the_end_is_waited_for_until_airflow_knows_it():
    runs = fake()
    runs.answers["/dags/etl/dagRuns/r1/taskInstances"] = InTurn(
        tasks("success", "running"), tasks("success", "failed")
    )
    assert debug(TalkingEngine(*WHOLE), runs)[0].state == "failed"


def test_an_instance_of_a_mapped_task_is_named_by_its_index():
    assert DebugRequest("etl", "clean[2]").map_index == 2
    assert DebugRequest("etl", "clean[2]").task_id == "clean"
    assert DebugRequest("etl", "clean").map_index is None


@pytest.mark.parametrize(
    ("changes", "hint"),
    [({"task": "claen"}, "did you mean `clean`?"), ({"task": "zzz"}, "choose from: extract, clean")],
)
def test_an_unknown_task_is_refused_before_anything_begins(changes: dict[str, str], hint: str):
    engine, runs = TalkingEngine(), fake()
    with pytest.raises(AstroError) as raised:
        debug(engine, runs, **changes)
    assert raised.value.hint == hint
    assert not runs.called("POST")
    assert not engine.asked


def test_a_paused_dag_is_refused_and_nobody_goes_on_waiting():
    engine, runs = TalkingEngine({"type": "armed"}, stays=True), fake()
    runs.dags["etl"] = dag_body("etl", is_paused=True)
    with pytest.raises(AstroError, match="is paused"):
        debug(engine, runs)
    assert engine.ended.is_set()


def test_a_port_in_use_is_refused_with_its_holder():
    with socket.create_server(("127.0.0.1", 0)) as holder, pytest.raises(AstroError) as raised:
        debug(TalkingEngine(), fake(), port=holder.getsockname()[1])
    assert "already in use by container `grafana`" in raised.value.message
    assert "--port" in str(raised.value.hint)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"type": "busy"}, "another `astro airflow debug` waits"),
        ({"type": "unsupported", "reason": "this is Airflow 4"}, "this is Airflow 4"),
        ({"type": "failed", "message": "no debugpy"}, "no debugpy"),
        ({"type": "timeout"}, "no debugger was attached within 900 seconds"),
    ],
)
def test_what_ends_it_without_a_debugger_is_an_error(line: dict[str, str], message: str):
    with pytest.raises(AstroError, match=message):
        debug(TalkingEngine({"type": "armed"}, line), fake())


def test_a_command_that_breaks_off_is_an_error():
    with pytest.raises(AstroError, match="ended too early"):
        debug(TalkingEngine({"type": "armed"}), fake())


def test_a_task_that_cannot_begin_any_more_ends_the_waiting(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(debugging, "LOOK_SECONDS", 0.05)
    runs = fake()
    runs.answers["/dags/etl/dagRuns/r1/taskInstances"] = tasks("skipped", "skipped")
    engine = TalkingEngine({"type": "armed"}, stays=True)
    with pytest.raises(AstroError, match="`clean` ended without a debugger: skipped"):
        debug(engine, runs)
    assert engine.ended.is_set()


@pytest.mark.parametrize(("clean", "guilty"), [("upstream_failed", "extract"), ("failed", "clean")])
def test_the_failure_that_counts_is_what_stands_before_the_task_or_its_own(
    monkeypatch: pytest.MonkeyPatch, clean: str, guilty: str
):
    monkeypatch.setattr(debugging, "LOOK_SECONDS", 0.05)
    runs = fake()
    runs.answers["/dags/etl/dagRuns/r1/taskInstances"] = tasks("failed", clean)
    with pytest.raises(AstroError, match=f"failed in task `{guilty}`"):
        debug(TalkingEngine({"type": "armed"}, stays=True), runs)


def test_ctrl_c_says_that_the_run_goes_on_and_ends_the_waiting():
    engine = TalkingEngine({"type": "armed"}, LISTENING, stays=True)

    def interrupt(event: DebugEvent) -> None:
        if event.kind == "listening":
            raise KeyboardInterrupt

    with fake().api() as api, pytest.raises(Interrupted, match="run r1 goes on"):
        debug_task(
            cast("Engine", engine), "s", api, DebugRequest("etl", "clean", port=free_port()), interrupt
        )
    assert engine.ended.is_set()
