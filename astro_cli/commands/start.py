"""`astro airflow start`."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Annotated, Literal

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
from astro_cli.foundation.errors import UsageError

if TYPE_CHECKING:
    from astro_cli.app import App
    from astro_cli.runtime.engine import PrepareOptions
    from astro_cli.workflows.sandbox import StartOptions, StartResult

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
    executor: Annotated[
        Literal["local", "celery"] | None,
        typer.Option(
            help="Run tasks beside the scheduler, or on Celery workers. Default: as last time; at first local.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, max=32, show_default=False, help="How many Celery workers. Default: as last time."
        ),
    ] = None,
    metrics: Annotated[
        bool | None,
        typer.Option(
            "--metrics/--no-metrics",
            help="Collect Airflow's own metrics, for `top` and Prometheus. Default: as last time; at first not.",
            show_default=False,
        ),
    ] = None,
    database_url: DatabaseUrl = None,
    env: EnvFiles = None,
    settings_file: SettingsFile = None,
    build: ForceBuild = False,
    no_cache: NoCache = False,
    image_name: ImageName = None,
    wait: Wait = None,
    no_wait: NoWait = False,
    no_browser: NoBrowser = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Then watch the project's files, as `astro airflow watch` does.")
    ] = False,
) -> None:
    """Start the sandbox, or bring it up to date, and wait until it is healthy."""
    from astro_cli.workflows.sandbox import StartOptions

    if port is not None and port == expose_db:
        raise UsageError(
            f"port {port} cannot be both the web UI's and Postgres's", hint="give --expose-db another port"
        )
    if watch and no_wait:
        raise UsageError("--watch needs a healthy sandbox", hint="leave --no-wait out")
    options = StartOptions(
        port=port,
        expose_db=expose_db,
        env_files=tuple(env or ()),
        settings_file=settings_file,
        wait_seconds=wait_seconds(wait, no_wait=no_wait),
        workers=workers,
        prepare=prepare_options(build=build, no_cache=no_cache, image_name=image_name),
    )
    app = obj(ctx)
    app.override("sandbox.engine", engine, "--engine")
    app.override("sandbox.executor", executor, "--executor")
    app.override("sandbox.metrics", None if metrics is None else ("off", "on")[metrics], "--metrics")
    app.override("sandbox.database_url", database_url, "--database-url")
    start_and_show(app, options, browser=not no_browser)
    if watch:
        from astro_cli.commands.watch import watch_saves

        watch_saves(app)


def wait_seconds(wait: float | None, *, no_wait: bool) -> float:
    """How long to wait for health by --wait and --no-wait; 0 is not at all."""
    if wait is not None and not math.isfinite(wait):
        raise UsageError(f"--wait {wait} is not a number of seconds", hint="for example `--wait 300`")
    if wait is not None and no_wait:
        raise UsageError("--wait and --no-wait contradict each other", hint="leave one of them out")
    return 0 if no_wait else wait or DEFAULT_WAIT


def prepare_options(*, build: bool, no_cache: bool, image_name: str | None) -> PrepareOptions:
    """What --build, --no-cache and --image-name ask for."""
    from astro_cli.runtime.engine import PrepareOptions

    if image_name is not None and (build or no_cache):
        raise UsageError(
            "--image-name takes a ready image, so there is nothing to build",
            hint="leave --image-name out, or --build and --no-cache",
        )
    return PrepareOptions(force=build or no_cache, no_cache=no_cache, image_name=image_name)


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
