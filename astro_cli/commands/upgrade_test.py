"""`astro airflow upgrade-test`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from astro_cli.commands.options import obj

if TYPE_CHECKING:
    from astro_cli.app import App
    from astro_cli.domain.project import Project


def upgrade_test(
    ctx: typer.Context,
    airflow_version: Annotated[
        str,
        typer.Option("--airflow-version", metavar="VERSION", help="The version to try.", show_default=False),
    ],
    test: Annotated[
        bool, typer.Option("--test", help="Run every DAG once as well; what its tasks do is real.")
    ] = False,
    mark_success: Annotated[
        str | None,
        typer.Option(
            "--mark-success",
            metavar="PATTERN",
            help="With --test: tasks whose whole id matches succeed without being run.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Write the report to this file. Default: your state folder",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Try another Airflow on a copy of the database and on all DAGs. The sandbox and your files are not touched.

    Exit code 6 if something breaks.
    """
    from datetime import date

    from astro_cli.commands.test import pattern
    from astro_cli.domain.upgrade_report import as_data, as_markdown, summary
    from astro_cli.foundation.errors import GateError, UsageError
    from astro_cli.foundation.paths import write_atomic
    from astro_cli.workflows.upgrade import UpgradeOptions, UpgradeTest

    app = obj(ctx)
    if mark_success is not None and not test:
        raise UsageError("--mark-success is for --test", hint="add `--test`, or leave it out")
    file = output.absolute() if output else _default_file(app.project, airflow_version)
    if output is not None:
        _may_write(app, file)
    options = UpgradeOptions(airflow_version, test=test, mark_success=pattern(mark_success))
    with app.console.progress() as report:
        found = UpgradeTest(app.project, lambda: app.engine, app.environ).run(options, report)
    write_atomic(file, as_markdown(found, date.today().isoformat()), mode=0o644)

    def show() -> None:
        for line in summary(found):
            app.console.line(line)
        app.console.line(f"report: {file}")

    app.console.result({**as_data(found), "report": str(file)}, show)
    if found.breaks:
        raise typer.Exit(GateError.exit_code)


def _default_file(project: Project, version: str) -> Path:
    from astro_cli.foundation.paths import state_dir

    return state_dir() / "upgrade-tests" / f"{project.name}-{project.project_id}-{version}.md"


def _may_write(app: App, file: Path) -> None:
    """Refuse before the work what could not be written after it.

    Raises:
        UsageError: the folder does not exist, or the user does not want the file replaced.
    """
    from astro_cli.domain.upgrade_report import TITLE
    from astro_cli.foundation.errors import UsageError

    if not file.parent.is_dir() or file.is_dir():
        raise UsageError(f"{file} cannot be written", hint="give --output a file in an existing folder")
    if not file.exists() or file.read_bytes().startswith(TITLE.encode()):
        return
    if not app.confirm(f"{file} exists and is no report of an upgrade test. Replace it?"):
        raise UsageError(f"{file} stays as it is", hint="give --output another file")
