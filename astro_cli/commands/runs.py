"""`astro airflow runs`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from astro_cli.commands.options import obj, started
from astro_cli.commands.trigger import length

STATES = ("queued", "running", "success", "failed")


def runs(
    ctx: typer.Context,
    dag: Annotated[
        str | None, typer.Argument(metavar="[DAG]", help="Only this DAG's.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, metavar="N", help="At most so many.")] = 20,
    state: Annotated[
        str | None,
        typer.Option(
            "--state", metavar="STATE", help="queued, running, success or failed.", show_default=False
        ),
    ] = None,
) -> None:
    """Show the latest runs, newest first."""
    from astro_cli.airflow_api import ANY
    from astro_cli.foundation.errors import UsageError
    from astro_cli.workflows.runs import connect, find_dag

    if state is not None and state not in STATES:
        raise UsageError(f"there is no state `{state}` of a run", hint=f"known: {', '.join(STATES)}")
    app = obj(ctx)
    console = app.console
    with connect(started(app)) as api:
        if dag is not None:
            find_dag(api, dag)
        filters = {"state": state} if state else {}
        found = api.runs(dag or ANY, limit=limit, **filters)

    def show() -> None:
        if not found:
            console.note("no runs")
            return
        rows = [
            (
                run.dag_id,
                run.run_id,
                run.state,
                run.kind,
                clock_time(run.started_at),
                length(run.started_at, run.ended_at),
            )
            for run in found
        ]
        console.table(("DAG", "RUN", "STATE", "KIND", "STARTED", "TIME"), rows)

    console.result({"runs": [asdict(run) for run in found]}, show)


def clock_time(text: str | None) -> str:
    """A moment of the API in this machine's time, or `-`."""
    from astro_cli.domain.dagrun import moment

    when = moment(text)
    return f"{when.astimezone():%Y-%m-%d %H:%M:%S}" if when else "-"
