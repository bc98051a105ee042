"""`astro airflow watch`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import typer

from astro_cli.commands.options import obj, started

if TYPE_CHECKING:
    from astro_cli.airflow_api import AirflowApi
    from astro_cli.app import App
    from astro_cli.domain.parse_report import ParseReport
    from astro_cli.workflows.inner_loop import InnerLoop
    from astro_cli.workflows.watch import Reaction, Refresh


def watch(ctx: typer.Context) -> None:
    """Parse files as they are saved, and have the running Airflow show them at once. Ctrl-C ends it.

    With --json one document for each time something is saved.
    """
    watch_saves(obj(ctx))


def watch_saves(app: App) -> None:
    """Follow the project's files until Ctrl-C.

    Raises:
        AstroError: the sandbox does not run.
    """
    from astro_cli.airflow_api import AirflowApi
    from astro_cli.domain.services import base_url
    from astro_cli.foundation.errors import AstroError
    from astro_cli.workflows.inner_loop import InnerLoop
    from astro_cli.workflows.watch import WATCHED, changes

    status = started(app)
    if status.state == "stopped" or status.port is None:
        raise AstroError("the sandbox is not running", hint="start it with `astro airflow start`")
    loop = InnerLoop(app.engine, app.sandbox.state.sandbox_id)
    with AirflowApi(base_url(status.port)) as api:
        _tell(app, loop.parse())
        app.console.note(f"watching {', '.join(WATCHED)} of {app.project.name}; Ctrl-C ends it")
        refresh: Refresh | None = None
        try:
            for reaction in changes(app.project.root):
                try:
                    refresh = _act(app, loop, api, reaction) if reaction else _look(app, refresh)
                except AstroError as exc:  # the next save may find Airflow well again
                    refresh = None
                    app.console.warn(f"{exc.message}{f' ({exc.hint})' if exc.hint else ''}")
        except KeyboardInterrupt:
            app.console.note("no longer watching; the sandbox runs on")
            raise typer.Exit(0) from None


def _act(app: App, loop: InnerLoop, api: AirflowApi, reaction: Reaction) -> Refresh | None:
    """Parse, show what is wrong, and ask Airflow to parse as well."""
    from astro_cli.domain.parse_report import ParseReport
    from astro_cli.workflows.watch import Refresh, paths_to_parse

    console, saved_at = app.console, time.time()
    console.note(f"{time.strftime('%H:%M:%S')}  {', '.join([*reaction.parse, *reaction.removed]) or 'saved'}")
    paths = paths_to_parse(app.project.root, reaction)
    report = loop.parse(paths) if paths else ParseReport((), 0.0)
    _tell(app, report)
    for path in reaction.removed:
        console.note(f"removed {path}")
    for service in reaction.restart:
        console.note(f"restarting {service}: plugins have changed")
        app.sandbox.restart_service(service)
    return None if reaction.restart else Refresh(api, report, reaction, saved_at)


def _look(app: App, refresh: Refresh | None) -> Refresh | None:
    """Say when Airflow shows the new state; returns what is still awaited."""
    if refresh is None or not refresh.tells:
        return None
    if refresh.done():
        app.console.note(f"Airflow is up to date, {refresh.seconds:.1f} s after the request")
        return None
    if refresh.is_late():
        app.console.warn("Airflow has not parsed the change yet; see `astro airflow logs dag-processor`")
    return None if refresh.overdue else refresh


def _tell(app: App, report: ParseReport) -> None:
    from astro_cli.commands.parse import show
    from astro_cli.domain.parse_report import as_data

    if report.files:
        app.console.result(as_data(report), lambda: show(app.console, report))
