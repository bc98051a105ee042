"""`astro airflow scale`."""

from __future__ import annotations

from typing import Annotated

import typer

from astro_cli.commands.options import obj, started


def scale(
    ctx: typer.Context,
    counts: Annotated[list[str], typer.Argument(metavar="GROUP=NUMBER...", show_default=False)],
) -> None:
    """Have more or fewer Celery workers. A worker that goes first finishes the tasks that it runs."""
    from astro_cli.domain.workers import wanted_counts

    wanted = wanted_counts(counts)
    app = obj(ctx)
    started(app)
    with app.console.progress() as report:
        result = app.sandbox.scale(wanted, report)
    app.console.result(
        {
            "workers": {name: list(members) for name, members in result.workers.items()},
            "changes": [str(change) for change in result.changes],
        },
        lambda: app.console.line(
            ", ".join(f"{name} has {len(members)}" for name, members in result.workers.items())
        ),
    )
    for name, written in result.written.items():
        app.console.note(f"the next start goes back to {written}, which the project's file says of {name}")
