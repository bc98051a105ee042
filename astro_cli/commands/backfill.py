"""`astro airflow backfill`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from astro_cli.commands.options import obj, started
from astro_cli.commands.trigger import Conf, DagId, Timeout, Unpause

if TYPE_CHECKING:
    from astro_cli.foundation.console import Console
    from astro_cli.workflows.runs import BackfillProgress

REPROCESS = ("none", "failed", "completed")


def backfill(
    ctx: typer.Context,
    dag: DagId,
    from_date: Annotated[
        str, typer.Option("--from", metavar="ISO", help="First date, UTC unless it says otherwise.")
    ],
    to_date: Annotated[str, typer.Option("--to", metavar="ISO", help="Last date, included.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which dates would run.")] = False,
    reprocess: Annotated[
        str,
        typer.Option(
            "--reprocess",
            metavar="WHICH",
            help="Dates that have a run: leave them (none), run them again if they failed (failed), "
            "or in any case (completed).",
        ),
    ] = "none",
    max_active_runs: Annotated[
        int, typer.Option("--max-active-runs", min=1, metavar="N", help="Runs at once.")
    ] = 10,
    backwards: Annotated[bool, typer.Option("--backwards", help="Begin with the last date.")] = False,
    conf: Conf = None,
    unpause: Unpause = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return as soon as it has begun.")] = False,
    timeout: Timeout = None,
) -> None:
    """Run a DAG for every date of its schedule from one date to another; exit 1 if a run fails."""
    from astro_cli.foundation.errors import AstroError, Interrupted, UsageError
    from astro_cli.workflows import runs

    if reprocess not in REPROCESS:
        raise UsageError(f"--reprocess {reprocess} is not known", hint=f"one of {', '.join(REPROCESS)}")
    request = runs.BackfillRequest(
        dag_id=dag,
        from_date=runs.parse_date(from_date, "--from"),
        to_date=runs.parse_date(to_date, "--to"),
        max_active_runs=max_active_runs,
        reprocess=reprocess,
        backwards=backwards,
        conf=runs.parse_conf(conf),
    )
    app = obj(ctx)
    console = app.console
    with runs.connect(started(app)) as api:
        runs.await_dag(api, dag, app.project.root / "dags", console.note)
        dates = runs.backfill_dates(api, request)
        told = {"dag_id": dag, "dry_run": dry_run, "dates": list(dates)}
        if dry_run or not dates:
            if not dates:
                console.note("nothing to run: no date of the schedule lies there, or all have a run")
            console.result({**told, "states": {}}, lambda: _list(console, dates))
            return
        begun = runs.start_backfill(api, request, unpause=unpause, wait=not no_wait, tell=console.note)
        told["backfill_id"] = begun.backfill_id
        progress = None
        try:
            console.note(f"backfill {begun.backfill_id} of {dag}: {len(dates)} dates")
            if no_wait:
                console.result({**told, "states": {}}, lambda: console.line(str(begun.backfill_id)))
                return
            with console.progress() as report:
                shown = ""
                for progress in runs.follow_backfill(api, begun, dates, seconds=timeout):
                    if (line := _line(progress)) != shown:
                        report.step(line)
                        shown = line
        except KeyboardInterrupt as exc:
            raise Interrupted(
                "interrupted; the backfill goes on", hint=f"look at it with `astro airflow runs {dag}`"
            ) from exc
    assert progress is not None
    failed = [run for run in progress.runs if run.state == "failed"]
    if failed:
        raise AstroError(
            f"{len(failed)} of {len(dates)} runs of `{dag}` failed",
            hint=f"see why: `astro airflow logs --dag {dag} --run {failed[0].run_id}`",
            details=tuple(run.run_id for run in failed[:20]),
        )
    console.result(
        {**told, "states": progress.states},
        lambda: console.line(f"{dag} succeeded for {len(dates)} dates"),
    )


def _list(console: Console, dates: tuple[str, ...]) -> None:
    for date in dates:
        console.line(date)


def _line(progress: BackfillProgress) -> str:
    states = progress.states
    done = states.get("success", 0) + states.get("failed", 0)
    words = [f"{states[state]} {state}" for state in ("running", "queued", "failed") if states.get(state)]
    return f"{done} of {len(progress.dates)} runs done{''.join(f', {word}' for word in words)}"
