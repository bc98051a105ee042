"""`astro airflow test`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from astro_cli.commands.options import obj

if TYPE_CHECKING:
    from astro_cli.domain.dag_test import TaskEvent
    from astro_cli.foundation.console import Console
    from astro_cli.workflows.inner_loop import TestResult

COLOURS = {"success": "32", "running": "36", "failed": "31", "up_for_retry": "33", "upstream_failed": "31"}


def test(
    ctx: typer.Context,
    dag_id: Annotated[str, typer.Argument(metavar="DAG", help="Id of the DAG.")],
    date: Annotated[
        str | None,
        typer.Option(
            "--date",
            metavar="ISO",
            help="Logical date, UTC unless it says otherwise. Default: now",
            show_default=False,
        ),
    ] = None,
    conf: Annotated[
        str | None,
        typer.Option(
            "--conf", metavar="JSON", help="Configuration of the run, a JSON object.", show_default=False
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", help="Run this task alone.", show_default=False)
    ] = None,
    mark_success: Annotated[
        str | None,
        typer.Option(
            "--mark-success",
            metavar="PATTERN",
            help="Tasks whose whole id matches succeed without being run.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run a DAG once on a throw-away copy of the database: nothing appears in the UI. Exit code 1 if it fails.

    With --verbose also the logs of tasks that succeed.
    """
    from astro_cli.workflows.inner_loop import InnerLoop, TestOptions
    from astro_cli.workflows.runs import parse_conf, parse_date

    app = obj(ctx)
    options = TestOptions(
        dag_id,
        date=parse_date(date, "--date") if date is not None else None,
        conf=parse_conf(conf),
        task=task,
        mark_success=pattern(mark_success),
        logs=app.console.verbose,
    )
    loop = InnerLoop(app.engine, app.sandbox.state.sandbox_id)
    result = loop.test(options, lambda event: _show(app.console, event), app.console.note)
    data = {**asdict(result), "dag_id": dag_id}
    app.console.result(data, lambda: _show_result(app.console, dag_id, result))
    if result.exit_code:
        raise typer.Exit(result.exit_code)


def _show(console: Console, event: TaskEvent) -> None:
    if event.state == "running" and not console.is_terminal:
        return
    state = event.line.split(maxsplit=1)[0]
    painted = console.style(state, COLOURS.get(state, "0"), console.err)
    for text in event.log if console.verbose else ():
        console.note(f"  {event.task} | {text}")
    console.note(event.line.replace(state, painted, 1))


def _show_result(console: Console, dag_id: str, result: TestResult) -> None:
    """The logs of the tasks that failed, and how it ended."""
    for event in result.tasks:
        for text in event.log if event.state == "failed" and not console.verbose else ():
            console.line(f"{event.task} | {text}")
    word = "succeeded" if result.exit_code == 0 else "failed"
    ran = sum(event.seconds is not None for event in result.tasks)
    console.line(f"{dag_id} {word}: {ran} of {len(result.tasks)} tasks ran")


def pattern(text: str | None) -> str | None:
    """The value of --mark-success, if it is a regular expression.

    Raises:
        UsageError: it is none.
    """
    import re

    from astro_cli.foundation.errors import UsageError

    try:
        re.compile(text or "")
    except re.error as exc:
        raise UsageError(
            f"--mark-success is not a regular expression: {exc}", hint="for example 'wait_.*'"
        ) from exc
    return text
