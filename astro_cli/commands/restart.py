"""`astro airflow restart`."""

from __future__ import annotations

from typing import Annotated

import typer

from astro_cli.commands.options import NoWait, Wait, obj, started
from astro_cli.commands.start import start_and_show, wait_seconds


def restart(
    ctx: typer.Context,
    service: Annotated[
        str | None,
        typer.Argument(help="Only this service; the others go on.", show_default=False),
    ] = None,
    wait: Wait = None,
    no_wait: NoWait = False,
) -> None:
    """Restart one service, or the whole sandbox with whatever has changed in the project."""
    from astro_cli.project_services import read_services
    from astro_cli.services import service_names

    app = obj(ctx)
    seconds = wait_seconds(wait, no_wait=no_wait)
    added = [each.name for each in read_services(app.project.root)] if service is not None else []
    names = service_names([service] if service is not None else [], also=added)
    started(app)
    if names:
        (name,) = names
        app.sandbox.restart_service(name)
        app.console.result({"service": name}, lambda: app.console.line(f"{name} is restarted"))
        return
    from astro_cli.sandbox import StartOptions

    with app.console.progress() as report:
        app.sandbox.stop(report)
    start_and_show(app, StartOptions(wait_seconds=seconds), browser=False)
