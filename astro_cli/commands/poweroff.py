"""`astro airflow poweroff`."""

from __future__ import annotations

import typer

from astro_cli.commands.options import obj


def poweroff(ctx: typer.Context) -> None:
    """Stop every sandbox on this machine. Data stays."""
    from astro_cli.workflows.sandbox import interruptible

    app = obj(ctx)
    stopped = []
    going_on = "some sandboxes may still run: `astro airflow list` shows which"
    with app.console.progress() as report, interruptible(going_on):
        for engine in app.engines():
            for status in engine.status():
                if engine.down(status.sandbox_id, data=False, report=report):
                    stopped.append(status.project_name)
    app.console.result(
        {"stopped": stopped},
        lambda: app.console.line(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running"),
    )
