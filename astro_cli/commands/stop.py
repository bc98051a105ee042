"""`astro airflow stop`."""

from __future__ import annotations

import typer

from astro_cli.commands.options import obj, started


def stop(ctx: typer.Context) -> None:
    """Stop the sandbox. Data, logs and images stay."""
    app = obj(ctx)
    started(app)
    with app.console.progress() as report:
        changes = app.sandbox.stop(report)
    text = "is stopped; its data is kept" if changes else "was not running"
    app.console.result(
        {"changes": [str(change) for change in changes]},
        lambda: app.console.line(f"{app.project.name} {text}"),
    )
