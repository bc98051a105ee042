"""`astro airflow logs`."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from astro_cli.commands.options import ServiceNames, obj, started
from astro_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from astro_cli.console import Console
    from astro_cli.runtime.engine import LogLine

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def logs(
    ctx: typer.Context,
    service: ServiceNames = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with new lines; end with Ctrl-C.")
    ] = False,
    tail: Annotated[
        int | None,
        typer.Option(
            "--tail", min=0, max=10_000_000, metavar="N", help="Only the last N lines of each service.", show_default=False
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="TIME",
            show_default=False,
            help="Only lines since then: 30s, 10m, 2h, 1d, or a time such as 2026-11-22T18:00:00.",
        ),
    ] = None,
    timestamps: Annotated[
        bool, typer.Option("--timestamps", "-t", help="Show when each line was written.")
    ] = False,
    grep: Annotated[
        str | None,
        typer.Option(
            "--grep", metavar="PATTERN", help="Only lines with this regular expression.", show_default=False
        ),
    ] = None,
) -> None:
    """Show what the services wrote, merged in order of time; also after `stop`."""
    from astro_cli.runtime.engine import LogQuery
    from astro_cli.services import ONE_SHOT, service_names

    app = obj(ctx)
    if follow and app.console.json:
        raise UsageError("--follow never ends, so it cannot be one JSON document", hint="leave out --json")
    pattern = _pattern(grep)
    query = LogQuery(
        services=service_names(service or (), also=ONE_SHOT),
        follow=follow,
        tail=tail,
        since=_since(since) if since else None,
    )
    started(app)
    lines = app.engine.logs(app.sandbox.state.sandbox_id, query)
    chosen = (line for line in lines if pattern is None or pattern.search(line.text))
    if app.console.json:
        app.console.result({"lines": [asdict(line) for line in chosen]})
        return
    _print(app.console, chosen, timestamps=timestamps)


def _print(console: Console, lines: Iterator[LogLine], *, timestamps: bool) -> None:
    from astro_cli.console import service_colour
    from astro_cli.services import SERVICES

    width = max(len(spec.name) for spec in SERVICES)
    for line in lines:
        when = f"{line.timestamp} " if timestamps else ""
        prefix = console.style(f"{line.service:<{width}} |", service_colour(line.service), console.out)
        console.line(f"{when}{prefix} {line.text}")


def _pattern(text: str | None) -> re.Pattern[str] | None:
    if text is None:
        return None
    try:
        return re.compile(text)
    except re.error as exc:
        raise typer.BadParameter(f"not a regular expression: {exc}", param_hint="--grep") from exc


def _since(text: str) -> float:
    """Seconds since the epoch of `10m` (ago) or an ISO 8601 time (local unless it says otherwise)."""
    import time
    from datetime import datetime

    try:
        if re.fullmatch(r"\d{1,9}[smhd]", text, re.ASCII):
            return max(time.time() - int(text[:-1]) * UNITS[text[-1]], 0.0)
        return max(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp(), 0.0)
    except (ValueError, OverflowError) as exc:
        raise typer.BadParameter(
            f"{text!r} is neither a length of time such as 10m nor an ISO 8601 time", param_hint="--since"
        ) from exc
