"""`astro airflow run`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from astro_cli.commands.options import obj, started


def run(
    ctx: typer.Context,
    args: Annotated[list[str], typer.Argument(metavar="ARGS...", help="Arguments of the `airflow` program.")],
) -> None:
    """Run any `airflow` command in the sandbox: `astro airflow run dags list`. Its exit code is passed on."""
    from astro_cli.runtime.engine import ExecRequest

    app = obj(ctx)
    started(app)
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    request = ExecRequest(service="scheduler", command=["airflow", *args], interactive=interactive)
    raise typer.Exit(app.engine.exec(app.sandbox.state.sandbox_id, request))
