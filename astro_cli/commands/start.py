"""`astro airflow start`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from astro_cli.commands.options import (
    DatabaseUrl,
    EngineName,
    EnvFiles,
    ForceBuild,
    ImageName,
    NoBrowser,
    NoCache,
    NoWait,
    SettingsFile,
    Wait,
    obj,
)

if TYPE_CHECKING:
    from astro_cli.app import App
    from astro_cli.sandbox import StartOptions, StartResult

DEFAULT_WAIT = 120.0


def start(
    ctx: typer.Context,
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            "-p",
            min=1,
            max=65535,
            show_default=False,
            help="Port of the web UI on this machine. Default: 8080 or the next free one, then always the same.",
        ),
    ] = None,
    expose_db: Annotated[
        int | None,
        typer.Option(
            "--expose-db",
            min=1,
            max=65535,
            metavar="PORT",
            show_default=False,
            help="Publish Postgres on this port of the loopback interface.",
        ),
    ] = None,
    engine: EngineName = None,
    database_url: DatabaseUrl = None,
    env: EnvFiles = None,
    settings_file: SettingsFile = None,
    build: ForceBuild = False,
    no_cache: NoCache = False,
    image_name: ImageName = None,
    wait: Wait = None,
    no_wait: NoWait = False,
    no_browser: NoBrowser = False,
) -> None:
    """Start the sandbox, or bring it up to date, and wait until it is healthy."""
    from astro_cli.runtime.engine import PrepareOptions
    from astro_cli.sandbox import StartOptions

    options = StartOptions(
        port=port,
        expose_db=expose_db,
        env_files=tuple(env or ()),
        settings_file=settings_file,
        wait_seconds=0 if no_wait else wait or DEFAULT_WAIT,
        prepare=PrepareOptions(force=build or no_cache, no_cache=no_cache, image_name=image_name),
    )
    app = obj(ctx)
    app.override("sandbox.engine", engine, "--engine")
    app.override("sandbox.database_url", database_url, "--database-url")
    start_and_show(app, options, browser=not no_browser)


def start_and_show(app: App, options: StartOptions, *, browser: bool) -> None:
    """Start, then say what happened, where it is and what to do next."""
    with app.console.progress() as report:
        result = app.sandbox.start(options, report)
    app.console.result(
        {
            "url": result.url,
            "port": result.port,
            "seconds": round(result.seconds, 2),
            "healthy": result.healthy,
            "built": result.built,
            "airflow_version": result.airflow_version,
            "changes": [str(change) for change in result.changes],
        },
        lambda: _show(app, result),
    )
    if browser and result.changes and result.healthy:
        _open_browser(app, result.url)


def _show(app: App, result: StartResult) -> None:
    console = app.console
    if not result.changes:
        console.line(f"{app.project.name} is already running, nothing has changed: {result.url}")
        return
    state = "is ready" if result.healthy else "is starting"
    console.line(
        f"{app.project.name} {state}: {result.url}  (Airflow {result.airflow_version}, {result.seconds:.1f} s)"
    )
    console.note()
    console.note("  astro airflow logs -f    what the services say")
    console.note("  astro airflow ps         state, health and memory")
    console.note("  astro airflow stop       end it; data stays")


def _open_browser(app: App, url: str) -> None:
    from astro_cli.app import has_display

    if app.console.json or not app.console.is_terminal or not has_display(os.environ):
        return
    import webbrowser

    webbrowser.open(url)
