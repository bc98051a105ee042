"""`astro airflow trigger`."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated

import typer

from astro_cli.commands.options import obj, started

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.table import Table

    from astro_cli.domain.dagrun import Task
    from astro_cli.foundation.console import Console
    from astro_cli.workflows.runs import Progress

DagId = Annotated[str, typer.Argument(metavar="DAG", help="Id of the DAG.", show_default=False)]
Conf = Annotated[
    str | None,
    typer.Option(
        "--conf", metavar="JSON", help="Configuration of the run, a JSON object.", show_default=False
    ),
]
Unpause = Annotated[bool, typer.Option("--unpause", help="Unpause the DAG first, if it is paused.")]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        min=0.1,
        metavar="SECONDS",
        help="How long to wait at most. Default: as long as it takes",
        show_default=False,
    ),
]

TABLE_ROWS = 25
STATE_COLOURS = {
    "success": "green",
    "running": "cyan",
    "failed": "red",
    "upstream_failed": "yellow",
    "up_for_retry": "yellow",
    "skipped": "magenta",
    "queued": "blue",
}


def trigger(
    ctx: typer.Context,
    dag: DagId,
    conf: Conf = None,
    date: Annotated[
        str | None,
        typer.Option(
            "--date",
            metavar="ISO",
            help="Logical date of the run, UTC unless it says otherwise, or `now`. Default: none",
            show_default=False,
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait for its end; exit 1 if it fails.")] = False,
    timeout: Timeout = None,
    unpause: Unpause = False,
) -> None:
    """Start a run of a DAG. With --wait: show its tasks until it ends, and the log of the one that failed."""
    from astro_cli.foundation.errors import Interrupted
    from astro_cli.workflows.runs import (
        await_dag,
        connect,
        failure_of,
        follow_run,
        parse_conf,
        parse_date,
        start_run,
        unrun,
    )

    app = obj(ctx)
    console = app.console
    wait = wait or timeout is not None
    settings = parse_conf(conf)
    logical_date = parse_date(date, "--date") if date else None
    with connect(started(app)) as api:
        await_dag(api, dag, app.project.root / "dags", console.note)
        run, paused = start_run(
            api, dag, conf=settings, logical_date=logical_date, unpause=unpause, wait=wait
        )
        if paused:
            console.warn(f"`{dag}` is paused: the run stays queued until you unpause it, or add --unpause")
        if not wait:
            console.result({"run": asdict(run), "tasks": []}, lambda: console.line(run.run_id))
            return
        progress = None
        try:
            console.note(f"run {run.run_id} of {dag}")
            with show_progress(console) as show:
                for progress in follow_run(api, run, seconds=timeout):
                    show(progress)
        except KeyboardInterrupt as exc:
            raise Interrupted(
                "interrupted; the run goes on",
                hint=f"look at it with `astro airflow tasks {dag} {run.run_id}`",
            ) from exc
        assert progress is not None
        if progress.run.state == "failed":
            raise failure_of(api, progress)
        if nothing := unrun(progress):
            console.warn(nothing)
        console.result(
            {"run": asdict(progress.run), "tasks": [asdict(task) for task in progress.tasks]},
            lambda: console.line(
                f"{dag} succeeded in {length(progress.run.started_at, progress.run.ended_at)}  ({run.run_id})"
            ),
        )


@contextmanager
def show_progress(console: Console) -> Iterator[Callable[[Progress], None]]:
    """Show a run's task instances as they change: a live table on a terminal, a line a change elsewhere."""
    if console.json or not console.coloured(console.err):
        yield _lines(console)
        return
    from rich.console import Console as RichConsole
    from rich.live import Live

    with Live(console=RichConsole(file=console.err, highlight=False), refresh_per_second=4) as live:
        yield lambda progress: live.update(_table(progress))


def _lines(console: Console) -> Callable[[Progress], None]:
    known: dict[str, tuple[str, int]] = {}

    def show(progress: Progress) -> None:
        for task in progress.tasks:
            now = (task.state, task.try_number)
            if known.get(task.label) != now and task.state != "none":
                attempt = f", try {task.try_number}" if task.try_number > 1 else ""
                took = (
                    f" in {length(task.started_at, task.ended_at)}"
                    if task.state in ("success", "failed")
                    else ""
                )
                console.note(f"  {task.label}: {task.state}{took}{attempt}")
            known[task.label] = now

    return show


def _table(progress: Progress) -> Table:
    from rich.markup import escape
    from rich.table import Table

    def coloured(state: str) -> str:
        colour = STATE_COLOURS.get(state)
        return f"[{colour}]{state}[/]" if colour else state

    table = Table("TASK", "STATE", "TRY", "TIME", box=None, header_style="bold", pad_edge=False)
    tasks = progress.tasks
    if len(tasks) <= TABLE_ROWS:
        for task in tasks:
            table.add_row(
                escape(task.label), coloured(task.state), str(task.try_number or "-"), length_of(task)
            )
        return table
    for task_id in dict.fromkeys(task.task_id for task in tasks):
        states = Counter(task.state for task in tasks if task.task_id == task_id)
        table.add_row(escape(task_id), ", ".join(f"{n} {coloured(state)}" for state, n in states.items()))
    return table


def length_of(task: Task) -> str:
    """How long a task has run, or `-`."""
    return length(task.started_at, task.ended_at)


def length(start: str | None, end: str | None) -> str:
    """The time between two moments of the API, the present if there is no end: `1.2s`, `3m 20s`, or `-`."""
    from astro_cli.domain.dagrun import seconds_between

    seconds = seconds_between(start, end, datetime.now(timezone.utc))
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{max(seconds, 0):.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes}m" if hours else f"{minutes}m {rest}s"
