"""`astro airflow pytest`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from astro_cli.commands.options import obj


def pytest(
    ctx: typer.Context,
    args: Annotated[
        list[str] | None, typer.Argument(metavar="[ARGS]...", help="Arguments of pytest.", show_default=False)
    ] = None,
) -> None:
    """Run the project's tests in the sandbox's environment, on a database of their own. pytest's exit code."""
    from astro_cli.workflows.inner_loop import InnerLoop

    app = obj(ctx)
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    environment = {
        name: app.environ[name] for name in ("NO_COLOR", "FORCE_COLOR", "TERM") if name in app.environ
    }
    loop = InnerLoop(app.engine, app.sandbox.state.sandbox_id)
    arguments = [
        *(["-v"] if app.console.verbose else []),
        *(args or []),
    ]  # astro has an option --verbose, too
    raise typer.Exit(loop.pytest(arguments, environment, interactive=interactive))
