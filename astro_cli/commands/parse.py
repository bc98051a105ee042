"""`astro airflow parse`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from astro_cli.commands.options import obj

if TYPE_CHECKING:
    from astro_cli.domain.parse_report import ParseReport
    from astro_cli.foundation.console import Console


def parse(
    ctx: typer.Context,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PATH]...", help="Files or folders; all of `dags` if none.", show_default=False
        ),
    ] = None,
    junit: Annotated[
        Path | None, typer.Option("--junit", help="Write a JUnit report to this file.", show_default=False)
    ] = None,
) -> None:
    """Import every DAG file in the sandbox's environment: errors, warnings and seconds. Exit code 1 on an error."""
    from astro_cli.domain.parse_report import as_data, as_junit
    from astro_cli.foundation.paths import write_atomic
    from astro_cli.workflows.inner_loop import InnerLoop, project_path

    app = obj(ctx)
    wanted = [project_path(app.project.root, path) for path in paths or [app.project.root / "dags"]]
    report = InnerLoop(app.engine, app.sandbox.state.sandbox_id).parse(wanted)
    if junit is not None:
        write_atomic(junit.absolute(), as_junit(report))
    app.console.result(as_data(report), lambda: show(app.console, report))
    if not report.ok:
        raise typer.Exit(1)


def show(console: Console, report: ParseReport) -> None:
    """Print the report, with colours on a terminal."""
    from astro_cli.domain.parse_report import as_text

    colours = {
        "error": "31",
        "warn": "33",
        "warning:": "33",
        "error:": "1;31",
        "ok": "32",
        "hint:": "36",
        ">": "1",
    }
    for line in as_text(report):
        word = (line.split() or [""])[0]
        painted = console.style(word, colours[word], console.out) if word in colours else word
        console.line(line.replace(word, painted, 1))
    if not report.dag_ids and not report.errors:
        console.line("error: there is no DAG")
