"""`astro airflow bash`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from astro_cli.commands.options import obj, services_meant, started


def bash(
    ctx: typer.Context,
    service: Annotated[str, typer.Argument(metavar="[SERVICE]", help="Beside this service.")] = "scheduler",
) -> None:
    """Open a shell beside a service; its exit code is passed on. Without a terminal, commands come from stdin."""
    from astro_cli.domain.project_services import WAREHOUSE, warehouse_login
    from astro_cli.runtime.engine import ExecRequest

    app = obj(ctx)
    name = services_meant(app, [service])[0]
    started(app)
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    environment = warehouse_login(app.sandbox.state.secrets()) if name == WAREHOUSE else {}
    request = ExecRequest(service=name, command=["bash"], interactive=interactive, environment=environment)
    raise typer.Exit(app.engine.exec(app.sandbox.state.sandbox_id, request))
