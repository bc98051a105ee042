"""`astro airflow poweroff`."""

from __future__ import annotations

import typer

from astro_cli.commands.options import obj


def poweroff(ctx: typer.Context) -> None:
    """Stop every sandbox on this machine. Data stays."""
    app = obj(ctx)
    stopped = []
    with app.console.progress() as report:
        for status in app.engine.status():
            if app.engine.down(status.sandbox_id, data=False, report=report):
                stopped.append(status.project_name)
    app.console.result(
        {"stopped": stopped},
        lambda: app.console.line(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running"),
    )
