"""The inner loop: parse, test and pytest of a project inside its running sandbox, through the warm runner."""

from __future__ import annotations

from typing import TYPE_CHECKING

from astro_cli.airflow import PROJECT_FOLDERS
from astro_cli.errors import AstroError, UsageError
from astro_cli.parse_report import read_report
from astro_cli.runtime.capture import capture_lines
from astro_cli.runtime.engine import ExecRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from astro_cli.parse_report import ParseReport
    from astro_cli.runtime.engine import Engine

RUNNER = "astro-runner"
"""The supervisor's `exec` knows this word on every engine (runtime/runner.py)."""


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
