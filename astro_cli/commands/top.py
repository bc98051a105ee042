"""`astro airflow top`."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated

import typer

from astro_cli.commands.options import obj, started

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from astro_cli.app import App
    from astro_cli.workflows.top import Reading


def top(
    ctx: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Show one reading, and end.")] = False,
    every: Annotated[
        float, typer.Option(min=0.5, max=3600, metavar="SECONDS", help="Time between two.")
    ] = 2.0,
) -> None:
    """Show how Airflow is doing, live: heartbeats, tasks, parsing, import errors and slots. Ctrl-C ends it.

    Without a terminal, and with --json, there is one reading.
    """
    app = obj(ctx)
    if once or app.console.json or not app.console.can_redraw:
        reading = _read(app)
        app.console.result(asdict(reading), lambda: app.console.line("\n".join(_lines(app, reading))))
        return
    try:
        app.console.live(_frames(app, every))
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def _read(app: App) -> Reading:
    from astro_cli.workflows.runs import connect
    from astro_cli.workflows.top import read

    status = started(app)
    with connect(status) as api:
        return read(api, status, datetime.now(timezone.utc))


def _frames(app: App, every: float) -> Iterator[Sequence[str]]:
    """Readings for ever; what fails to answer for a while is said, and asked again."""
    from astro_cli.foundation.errors import UnhealthyError

    reading = _read(app)  # what is wrong from the beginning is an error like any other
    frame = _lines(app, reading)
    while True:
        yield frame
        time.sleep(every)
        try:
            reading = _read(app)
            frame = _lines(app, reading)
        except UnhealthyError as exc:
            frame = [*_lines(app, reading), f"not answering: {exc.message}"]


def _lines(app: App, reading: Reading) -> list[str]:
    from astro_cli.workflows.top import as_lines

    rows = as_lines(reading)
    width = max(len(heading) for heading, _ in rows) + 2
    style = app.console.style
    when = datetime.fromisoformat(reading.time).astimezone()
    return [
        f"{app.project.name}  {when:%H:%M:%S}",
        *(f"{style(heading.ljust(width), '1', app.console.out)}{text}" for heading, text in rows),
    ]
