"""`astro airflow tasks`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from astro_cli.commands.options import obj, started
from astro_cli.commands.trigger import DagId, length, length_of

RunId = Annotated[
    str | None,
    typer.Argument(metavar="[RUN]", help="Id of the run. Default: the latest", show_default=False),
]


def tasks(ctx: typer.Context, dag: DagId, run: RunId = None) -> None:
    """Show the tasks of a run, in the order in which they began."""
    from astro_cli.workflows.runs import connect, find_run, tasks_of

    app = obj(ctx)
    console = app.console
    with connect(started(app)) as api:
        found = find_run(api, dag, run)
        instances = tasks_of(api, found)

    def show() -> None:
        rows = [
            (task.label, task.state, f"{task.try_number or '-'}", length_of(task), task.pool, task.operator or "-")
            for task in instances
        ]  # fmt: skip
        console.table(("TASK", "STATE", "TRY", "TIME", "POOL", "OPERATOR"), rows)
        console.note()
        console.note(
            f"run {found.run_id} of {dag}: {found.state}, {length(found.started_at, found.ended_at)}"
        )

    console.result({"run": asdict(found), "tasks": [asdict(task) for task in instances]}, show)
