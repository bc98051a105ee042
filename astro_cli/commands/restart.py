"""`astro airflow restart`."""

from __future__ import annotations

from typing import Annotated

import typer

from astro_cli.commands.options import NoWait, Wait, obj, started
from astro_cli.commands.start import DEFAULT_WAIT, start_and_show


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
    app = obj(ctx)
    started(app)
    if service is not None:
        from astro_cli.services import service_names

        (name,) = service_names([service])
        app.sandbox.restart_service(name)
        app.console.result({"service": name}, lambda: app.console.line(f"{name} is restarted"))
        return
    from astro_cli.sandbox import StartOptions

    with app.console.progress() as report:
        app.sandbox.stop(report)
    start_and_show(app, StartOptions(wait_seconds=0 if no_wait else wait or DEFAULT_WAIT), browser=False)
