"""`astro airflow logs`."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from astro_cli.commands.options import ServiceNames, obj, services_meant, started
from astro_cli.foundation.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from astro_cli.app import App
    from astro_cli.domain.dagrun import LogRequest, TaskLine
    from astro_cli.foundation.console import Console
    from astro_cli.runtime.engine import LogLine

Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines; end with Ctrl-C.")]
Tail = Annotated[
    int | None,
    typer.Option(
        "--tail",
        min=0,
        max=10_000_000,
        metavar="N",
        help="Only the last N lines of each service or task.",
        show_default=False,
    ),
]
Since = Annotated[
    str | None,
    typer.Option(
        "--since",
        metavar="TIME",
        show_default=False,
        help="Only lines since then: 30s, 10m, 2h, 1d, or a time such as 2026-11-22T18:00:00.",
    ),
]
Timestamps = Annotated[bool, typer.Option("--timestamps", "-t", help="Show when each line was written.")]
Grep = Annotated[
    str | None,
    typer.Option(
        "--grep", metavar="PATTERN", help="Only lines with this regular expression.", show_default=False
    ),
]
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def logs(
    ctx: typer.Context,
    service: ServiceNames = None,
    follow: Follow = False,
    tail: Tail = None,
    since: Since = None,
    timestamps: Timestamps = False,
    grep: Grep = None,
    dag: Annotated[
        str | None,
        typer.Option(
            "--dag",
            metavar="DAG",
            help="Task logs of this DAG instead: of its latest failure, else of its latest run.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            "--task", metavar="TASK", help="Only this task; `TASK[2]` if it is mapped.", show_default=False
        ),
    ] = None,
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN", help="Of this run.", show_default=False)
    ] = None,
    try_number: Annotated[
        int | None,
        typer.Option("--try", min=1, metavar="N", help="Of this try. Default: the last", show_default=False),
    ] = None,
) -> None:
    """Show what the services wrote, merged in order of time; also after `stop`. With --dag: what tasks wrote."""
    from astro_cli.domain.dagrun import LogRequest
    from astro_cli.domain.services import ONE_SHOT
    from astro_cli.runtime.engine import LogQuery

    app = obj(ctx)
    if follow and app.console.json:
        raise UsageError("--follow never ends, so it cannot be one JSON document", hint="leave out --json")
    pattern = pattern_of(grep)
    if dag is None and (task or run or try_number):
        raise UsageError("--task, --run and --try say which task logs of a DAG", hint="add --dag DAG")
    if dag is not None:
        if service:
            raise UsageError("--dag shows task logs, which no service has", hint="leave out the service")
        _task_logs(
            app,
            LogRequest(dag, run, task, try_number),
            _Shown(
                tail=tail, since=since_of(since) if since else 0.0, pattern=pattern, timestamps=timestamps
            ),
            follow=follow,
        )
        return
    query = LogQuery(
        services=services_meant(app, service or (), also=ONE_SHOT),
        follow=follow,
        tail=tail,
        since=since_of(since) if since else None,
    )
    started(app)
    lines = app.engine.logs(app.sandbox.state.sandbox_id, query)
    chosen = (line for line in lines if pattern is None or pattern.search(line.text))
    if app.console.json:
        app.console.result({"lines": [asdict(line) for line in chosen]})
        return
    print_lines(app.console, chosen, timestamps=timestamps)


def print_lines(console: Console, lines: Iterator[LogLine], *, timestamps: bool) -> None:
    """Lines of several services, each behind its name."""
    from astro_cli.domain.services import SERVICES
    from astro_cli.foundation.console import service_colour

    width = max(len(spec.name) for spec in SERVICES)
    for line in lines:
        when = f"{line.timestamp} " if timestamps else ""
        prefix = console.style(f"{line.service:<{width}} |", service_colour(line.service), console.out)
        console.line(f"{when}{prefix} {line.text}")


@dataclass(frozen=True)
class _Shown:
    """Which lines of a task's log are shown, and how."""

    tail: int | None
    since: float
    pattern: re.Pattern[str] | None
    timestamps: bool

    def has(self, line: TaskLine) -> bool:
        from astro_cli.domain.dagrun import moment

        when = moment(line.timestamp) if self.since else None
        recent = when is None or when.timestamp() >= self.since
        return recent and (self.pattern is None or bool(self.pattern.search(line.text)))


def _task_logs(app: App, request: LogRequest, shown: _Shown, *, follow: bool) -> None:
    from astro_cli.workflows.runs import choose_tasks, connect, follow_logs, task_log

    console = app.console
    with connect(started(app)) as api:
        run, tasks = choose_tasks(api, request, follow=follow)
        console.note(f"run {run.run_id} of {run.dag_id}: {run.state}")
        if follow:
            width = max((len(task.label) for task in tasks), default=0)
            for task, _, line in follow_logs(api, run, request, tail=shown.tail):
                if shown.has(line):
                    _print_task_line(console, task.label, width, line, shown)
            return
        found = []
        for task in tasks:
            lines = task_log(api, task, request.try_number)
            lines = lines[max(len(lines) - shown.tail, 0) :] if shown.tail is not None else lines
            number = request.try_number or task.try_number
            found.append((task, number, [line for line in lines if shown.has(line)]))

    def show() -> None:
        for task, number, lines in found:
            state = task.state if number == task.try_number else f"of {task.try_number}"
            console.note(f"task {task.label}, try {number}{':' if number == task.try_number else ''} {state}")
            for line in lines:
                _print_task_line(console, task.label if len(found) > 1 else "", 0, line, shown)

    logs_ = [
        {"task": asdict(task), "try": number, "lines": [asdict(line) for line in lines]}
        for task, number, lines in found
    ]
    console.result({"run": asdict(run), "logs": logs_}, show)


def _print_task_line(console: Console, label: str, width: int, line: TaskLine, shown: _Shown) -> None:
    from astro_cli.foundation.console import service_colour

    when = f"{line.timestamp} " if shown.timestamps else ""
    prefix = console.style(f"{label:<{width}} |", service_colour(label), console.out) + " " if label else ""
    console.line(f"{when}{prefix}{line.text}")


def pattern_of(text: str | None) -> re.Pattern[str] | None:
    """The expression of `--grep`."""
    if text is None:
        return None
    try:
        return re.compile(text)
    except re.error as exc:
        raise typer.BadParameter(f"not a regular expression: {exc}", param_hint="--grep") from exc


def since_of(text: str) -> float:
    """Seconds since the epoch of `10m` (ago) or an ISO 8601 time (local unless it says otherwise)."""
    import time
    from datetime import datetime

    try:
        if re.fullmatch(r"\d{1,9}[smhd]", text, re.ASCII):
            return max(time.time() - int(text[:-1]) * UNITS[text[-1]], 0.0)
        return max(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp(), 0.0)
    except (ValueError, OverflowError) as exc:
        raise typer.BadParameter(
            f"{text!r} is neither a length of time such as 10m nor an ISO 8601 time", param_hint="--since"
        ) from exc
