"""`astro airflow restart`."""

from __future__ import annotations

from typing import Annotated

import typer

from astro_cli.commands.options import NoWait, Wait, obj, services_meant, started
from astro_cli.commands.start import start_and_show, wait_seconds


def restart(
    ctx: typer.Context,
    service: Annotated[
        str | None,
        typer.Argument(metavar="[SERVICE]", help="Only this service; the others go on.", show_default=False),
    ] = None,
    wait: Wait = None,
    no_wait: NoWait = False,
) -> None:
    """Restart one service, or the whole sandbox with whatever has changed in the project."""
    app = obj(ctx)
    seconds = wait_seconds(wait, no_wait=no_wait)
    names = services_meant(app, [service] if service is not None else [])
    started(app)
    if service is not None:
        for name in names:
            app.sandbox.restart_service(name)
        told = " and ".join(names)
        app.console.result(
            {"service": told},
            lambda: app.console.line(f"{told} {'is' if len(names) == 1 else 'are'} restarted"),
        )
        return
    from astro_cli.workflows.sandbox import StartOptions

    with app.console.progress() as report:
        app.sandbox.stop(report)
    start_and_show(app, StartOptions(wait_seconds=seconds), browser=False)
