"""`astro airflow debug`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from astro_cli.commands.options import obj, started
from astro_cli.commands.trigger import Conf, DagId, Unpause, length_of

if TYPE_CHECKING:
    from astro_cli.foundation.console import Console
    from astro_cli.workflows.debugging import DebugEvent


def debug(
    ctx: typer.Context,
    dag: DagId,
    task: Annotated[
        str,
        typer.Argument(
            metavar="TASK",
            help="Id of the task; TASK[2] is one instance of a mapped one.",
            show_default=False,
        ),
    ],
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            metavar="RUN",
            help="Do the task again in this run. Default: a new run",
            show_default=False,
        ),
    ] = None,
    date: Annotated[
        str | None,
        typer.Option(
            "--date",
            metavar="ISO",
            help="Logical date of the new run, or `now`. Default: none",
            show_default=False,
        ),
    ] = None,
    conf: Conf = None,
    port: Annotated[
        int, typer.Option("--port", min=1, max=65535, metavar="N", help="Port of 127.0.0.1 to attach to.")
    ] = 5678,
    ide: Annotated[
        Literal["vscode", "pycharm"] | None,
        typer.Option(
            "--ide", help="Write the editor's configuration into the project first.", show_default=False
        ),
    ] = None,
    wait: Annotated[
        float,
        typer.Option("--wait", min=1, metavar="SECONDS", help="Time allowed until a debugger is attached."),
    ] = 900,
    unpause: Unpause = False,
) -> None:
    """Stop in a task's own code, in a run of the sandbox, and wait there for a debugger (debugpy, DAP)."""
    from astro_cli.foundation.errors import UsageError
    from astro_cli.workflows.debugging import DebugRequest, debug_task, write_ide_file
    from astro_cli.workflows.runs import await_dag, connect, parse_conf, parse_date

    if run is not None and (date is not None or conf is not None):
        raise UsageError(
            "--date and --conf are for a new run, and --run names an existing one",
            hint="leave one of them out",
        )
    app = obj(ctx)
    console = app.console
    request = DebugRequest(
        dag,
        task,
        run_id=run,
        logical_date=parse_date(date, "--date") if date else None,
        conf=parse_conf(conf),
        port=port,
        seconds=wait,
        unpause=unpause,
    )
    sandbox = started(app)
    if app.sandbox.workers():
        raise UsageError(
            "tasks run on Celery workers, where no debugger can wait",
            hint="run them beside the scheduler: `astro airflow start --executor local`",
        )
    remote = app.engine.site(sandbox.sandbox_id, app.project, sandbox.port or 0).project
    if ide is not None:
        written = write_ide_file(app.project.root, ide, port, remote)
        console.note(f"{'wrote' if written.changed else 'unchanged:'} {written.path}")
    events: list[DebugEvent] = []

    def on_event(event: DebugEvent) -> None:
        events.append(event)
        _show(console, event, request.task, port, remote)

    with connect(sandbox) as api:
        await_dag(api, request.dag_id, app.project.root / "dags", app.console.note)
        instance = debug_task(app.engine, sandbox.sandbox_id, api, request, on_event)
    told = {event.kind: event.more for event in events}
    console.result(
        {
            "task": asdict(instance),
            "attached": "attached" in told,
            "stopped": dict(told["stopped"]) if "stopped" in told else None,
        },
        lambda: console.line(
            f"{instance.label}: {instance.state} after {length_of(instance)}  ({instance.run_id})"
        ),
    )
    if instance.state != "success":
        raise typer.Exit(1)


def _show(console: Console, event: DebugEvent, task: str, port: int, remote: str) -> None:
    more = event.more
    if event.kind == "begun":
        console.note(f"run {more['run_id']}: waiting for `{task}` to begin")
    elif event.kind == "listening":
        console.note(
            f"`{task}` waits: attach your debugger to 127.0.0.1:{port} (the project is {remote} there)"
        )
    elif event.kind == "attached":
        console.note("attached")
    elif event.kind == "stopped":
        file = more["file"].removeprefix(f"{remote}/")
        console.note(f"stopped in {more['function']}, {file}:{more['line']}")
    elif event.kind == "missed":
        console.warn(f"`{task}` called nothing of the project's own code in its process: it did not stop")
