"""The workflows of the inner loop against an engine that says what a runner would say."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from astro_cli.foundation.errors import AstroError, UsageError
from astro_cli.workflows.inner_loop import InnerLoop, TestOptions, project_path

if TYPE_CHECKING:
    from astro_cli.domain.dag_test import TaskEvent
    from astro_cli.runtime.engine import Engine, ExecRequest


class TalkingEngine:
    """Writes these lines on standard output, as a command beside a service would."""

    def __init__(self, *lines: str, code: int = 0) -> None:
        self.lines = lines
        self.code = code
        self.requests: list[ExecRequest] = []

    def exec(self, sandbox_id: str, request: ExecRequest) -> int:
        self.requests.append(request)
        os.write(1, "".join(f"{line}\n" for line in self.lines).encode())
        return self.code


def loop(engine: TalkingEngine) -> InnerLoop:
    return InnerLoop(cast("Engine", engine), "shop-1")


def task(task_id: str, state: str, **more: Any) -> str:
    return json.dumps(
        {"type": "task", "task_id": task_id, "map_index": -1, "try_number": 1, "state": state, **more}
    )


def test_parse_reads_what_the_runner_writes():
    engine = TalkingEngine('{"type": "end", "files": 0, "seconds": 0.25}')
    report = loop(engine).parse(["dags/a.py"])
    assert report.seconds == 0.25
    assert engine.requests[0].command == ["astro-runner", "parse", "dags/a.py"]


def test_a_parse_that_breaks_off_is_an_error_with_what_was_said():
    engine = TalkingEngine("out of memory", code=137)
    with pytest.raises(AstroError, match="exit code 137") as raised:
        loop(engine).parse()
    assert raised.value.details == ("out of memory",)


def test_a_test_run_tells_each_change_and_keeps_the_last():
    engine = TalkingEngine(
        task("extract", "running"),
        task("extract", "success", seconds=0.5),
        task("load", "failed", seconds=0.1, log=["boom"]),
        '{"type": "end", "state": "failed", "run_id": "manual__1"}',
        code=1,
    )
    seen: list[TaskEvent] = []
    result = loop(engine).test(TestOptions("shop"), seen.append, lambda line: None)
    assert [(event.task, event.state) for event in seen] == [
        ("extract", "running"),
        ("extract", "success"),
        ("load", "failed"),
    ]
    assert (result.state, result.run_id, result.exit_code) == ("failed", "manual__1", 1)
    assert [(event.task, event.log) for event in result.tasks] == [("extract", ()), ("load", ("boom",))]


def test_the_plain_way_of_another_airflow_passes_its_words_and_exit_code_on():
    words: list[str] = []
    result = loop(TalkingEngine("INFO - running", code=0)).test(
        TestOptions("shop"), lambda event: None, words.append
    )
    assert words == ["INFO - running"]
    assert (result.state, result.exit_code) == ("success", 0)


def test_an_unknown_dag_is_named_together_with_the_broken_files():
    error = {"kind": "import", "message": "no module named x", "file": "dags/a.py", "line": 3}
    engine = TalkingEngine(json.dumps({"type": "unknown", "errors": [error]}), code=1)
    with pytest.raises(AstroError, match="no DAG `shop`") as raised:
        loop(engine).test(TestOptions("shop"), lambda event: None, lambda line: None)
    assert raised.value.details == ("dags/a.py:3: no module named x",)


def test_an_unknown_task_is_answered_with_those_there_are():
    engine = TalkingEngine('{"type": "unknown-task", "tasks": ["extract", "load"]}', code=1)
    with pytest.raises(AstroError, match="no task `extrct`") as raised:
        loop(engine).test(TestOptions("shop", task="extrct"), lambda event: None, lambda line: None)
    assert "extract, load" in (raised.value.hint or "")


def test_pytest_gets_its_arguments_and_gives_its_exit_code():
    engine = TalkingEngine(code=5)
    assert loop(engine).pytest(["-k", "orders"], {"NO_COLOR": "1"}, interactive=False) == 5
    assert engine.requests[0].command == ["astro-runner", "pytest", "-k", "orders"]
    assert engine.requests[0].environment == {"NO_COLOR": "1"}


def test_a_path_is_told_as_the_sandbox_knows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "dags/sub").mkdir(parents=True)
    (tmp_path / "dags/sub/a.py").touch()
    monkeypatch.chdir(tmp_path / "dags")
    assert project_path(tmp_path, Path("sub/a.py")) == "dags/sub/a.py"


def test_a_path_that_is_not_there_or_not_the_projects_is_refused(tmp_path: Path):
    (tmp_path / "shop/dags").mkdir(parents=True)
    (tmp_path / "elsewhere.py").touch()
    with pytest.raises(UsageError, match="does not exist"):
        project_path(tmp_path / "shop", tmp_path / "shop/dags/no.py")
    with pytest.raises(UsageError, match="none of the project's folders"):
        project_path(tmp_path / "shop", tmp_path / "elsewhere.py")
    with pytest.raises(UsageError, match="none of the project's folders"):
        project_path(tmp_path / "shop", tmp_path / "shop")
