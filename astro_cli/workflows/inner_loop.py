"""The inner loop: parse, test and pytest of a project inside its running sandbox, through the warm runner."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from astro_cli.domain.airflow import PROJECT_FOLDERS
from astro_cli.domain.dag_test import read_line, task_event
from astro_cli.domain.parse_report import read_report
from astro_cli.foundation.errors import AstroError, UsageError
from astro_cli.runtime.capture import capture_lines
from astro_cli.runtime.engine import ExecRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from astro_cli.domain.dag_test import TaskEvent
    from astro_cli.domain.parse_report import ParseReport
    from astro_cli.runtime.engine import Engine

RUNNER = "astro-runner"
"""The supervisor's `exec` knows this word on every engine (runtime/inside/runner.py)."""


@dataclass(frozen=True)
class TestOptions:
    """One test run of a DAG.

    Attributes:
        date: the logical date, ISO 8601; None is now.
        conf: the run's configuration.
        task: only this task, without the others.
        mark_success: a pattern; tasks whose whole id matches succeed without being run.
        logs: also the logs of tasks that succeed.
    """

    __test__ = False  # no test class, whatever pytest makes of the name

    dag_id: str
    date: str | None = None
    conf: dict[str, Any] | None = None
    task: str | None = None
    mark_success: str | None = None
    logs: bool = False


@dataclass(frozen=True)
class TestResult:
    """How a test run ended: Airflow's word for the run and the last event of each task."""

    __test__ = False

    state: str
    run_id: str | None
    logical_date: str | None
    tasks: tuple[TaskEvent, ...]
    exit_code: int


class InnerLoop:
    """What the runner of one sandbox can do."""

    def __init__(self, engine: Engine, sandbox_id: str) -> None:
        self._engine = engine
        self._sandbox_id = sandbox_id

    def parse(self, paths: Sequence[str] = ()) -> ParseReport:
        """Parse DAG files.

        Args:
            paths: files or folders relative to the project, with `/`; none means all of `dags`.

        Raises:
            AstroError: the sandbox does not run, or the runner ended in the middle.
        """
        lines: list[str] = []
        code = self._run(["parse", *paths], lines.append)
        try:
            return read_report(lines)
        except ValueError as exc:
            raise AstroError(
                f"the parse ended in the middle, with exit code {code}",
                hint="see `astro airflow logs astro`",
                details=tuple(line for line in lines if not line.startswith("{")),
            ) from exc

    def test(
        self,
        options: TestOptions,
        on_task: Callable[[TaskEvent], None],
        on_other: Callable[[str], None],
    ) -> TestResult:
        """Run a DAG once, on a copy of the database that is thrown away.

        Args:
            options: which DAG, and how.
            on_task: called, in another thread, when a task begins or ends.
            on_other: called with a line that is not the runner's.

        Raises:
            AstroError: there is no such DAG or task, or the run broke off.
        """
        messages: list[dict[str, Any]] = []
        tasks: dict[str, TaskEvent] = {}

        def on_line(line: str) -> None:
            message = read_line(line)
            if message is None:
                on_other(line)
            elif message["type"] == "task":
                event = task_event(message)
                tasks[event.task] = event
                on_task(event)
            else:
                messages.append(message)

        code = self._run(["test", json.dumps(asdict(options))], on_line)
        last = messages[-1] if messages else {"type": "plain"}
        if last["type"] not in ("end", "plain"):
            raise _test_error(options, last)
        state = str(last.get("state") or ("success" if code == 0 else "failed"))
        return TestResult(state, last.get("run_id"), last.get("logical_date"), tuple(tasks.values()), code)

    def pytest(self, arguments: Sequence[str], environment: Mapping[str, str], *, interactive: bool) -> int:
        """Run the project's tests, their output on this terminal; pytest's exit code."""
        request = ExecRequest(
            service="scheduler",
            command=[RUNNER, "pytest", *arguments],
            interactive=interactive,
            environment=environment,
        )
        return self._engine.exec(self._sandbox_id, request)

    def _run(self, command: Sequence[str], on_line: Callable[[str], None]) -> int:
        request = ExecRequest(service="scheduler", command=[RUNNER, *command], stdin=False)
        return capture_lines(lambda: self._engine.exec(self._sandbox_id, request), on_line)


def _test_error(options: TestOptions, message: dict[str, Any]) -> AstroError:
    if message["type"] == "unknown-task":
        return AstroError(
            f"the DAG `{options.dag_id}` has no task `{options.task}`",
            hint=f"choose from: {', '.join(message['tasks'])}",
        )
    if message["type"] == "crash":
        return AstroError(
            f"the test of `{options.dag_id}` broke off",
            hint="see the lines above",
            details=tuple(message["log"][-40:]),
        )
    errors = [f"{error['file']}:{error.get('line', 0)}: {error['message']}" for error in message["errors"]]
    return AstroError(
        f"there is no DAG `{options.dag_id}` in the project",
        hint="`astro airflow parse` shows every file with its DAGs" + (" and errors" if errors else ""),
        details=tuple(errors),
    )


def project_path(root: Path, given: Path) -> str:
    """A path of this machine as the sandbox knows it: relative to the project.

    Raises:
        UsageError: it does not exist, or the sandbox cannot see it.
    """
    path = given.absolute()
    if not path.exists():
        raise UsageError(f"{given} does not exist", hint="name a DAG file or a folder of the project")
    try:
        relative = path.resolve().relative_to(root.resolve())
    except ValueError:
        relative = None
    if relative is None or not relative.parts or relative.parts[0] not in PROJECT_FOLDERS:
        raise UsageError(
            f"{given} is in none of the project's folders {', '.join(PROJECT_FOLDERS)}",
            hint=f"DAG files belong into {root / 'dags'}",
        )
    return relative.as_posix()
