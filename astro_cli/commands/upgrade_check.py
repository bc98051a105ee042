"""`astro airflow upgrade-check`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from astro_cli.commands.options import obj

if TYPE_CHECKING:
    from astro_cli.foundation.console import Console
    from astro_cli.workflows.upgrade_check import OldReport


def upgrade_check(
    ctx: typer.Context,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PATH]...",
            help="Files or folders, in a project or not; the whole project, or this folder, if none.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Name what is from Airflow 1 and 2, with the modern way of each. Imports nothing, changes nothing.

    Exit code 6 if something is found that fails in Airflow 3.
    """
    from astro_cli.domain.project import locate
    from astro_cli.foundation.errors import GateError
    from astro_cli.workflows.upgrade_check import check

    app = obj(ctx)
    root = locate(app.start_dir) or app.start_dir
    wanted = [app.start_dir / path for path in paths or [root]]
    with app.console.progress() as report:
        found = check(root, wanted, app.environ, report)
    app.console.result(
        {
            "ok": not found.breaks,
            "files": found.files,
            "findings": [asdict(one) for one in found.found],
            "ruff_missing": found.ruff_missing or None,
        },
        lambda: _show(app.console, found),
    )
    if found.breaks:
        raise typer.Exit(GateError.exit_code)


def _show(console: Console, report: OldReport) -> None:
    for one in report.found:
        word, colour = ("error:", "1;31") if one.breaks else ("warning:", "1;33")
        told = console.style(word, colour, console.out)
        console.line(f"{one.file}:{one.line}: {told} {one.message}  [{one.rule}]")
        if one.instead:
            console.line(f"    instead: {one.instead}")
    if report.ruff_missing:
        console.warn(f"ruff could not be asked: {report.ruff_missing}")
    gone = sum(one.breaks for one in report.found)
    files = f"{report.files} file{'s' if report.files != 1 else ''}"
    console.line(
        f"{files}: {gone} old idioms that fail in Airflow 3, {len(report.found) - gone} that only look old"
    )
