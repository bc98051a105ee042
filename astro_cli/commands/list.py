"""`astro airflow list`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from astro_cli.commands.options import obj
from astro_cli.commands.ps import url_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from astro_cli.foundation.console import Console
    from astro_cli.runtime.engine import SandboxStatus


def list_sandboxes(ctx: typer.Context) -> None:
    """Show every sandbox on this machine, whatever folder you are in."""
    app = obj(ctx)
    found = [(engine.name, status) for engine in app.engines() for status in engine.status()]
    app.console.result(
        {
            "sandboxes": [
                {**asdict(status), "engine": engine, "healthy": status.healthy, "url": url_of(status)}
                for engine, status in found
            ]
        },
        lambda: _show(app.console, found),
    )


def _show(console: Console, found: Sequence[tuple[str, SandboxStatus]]) -> None:
    if not found:
        console.note("there is no sandbox on this machine")
        return
    rows = [
        (status.project_name, engine, status.health, url_of(status) or "-", status.path)
        for engine, status in found
    ]
    console.table(("PROJECT", "ENGINE", "STATE", "URL", "FOLDER"), rows)
