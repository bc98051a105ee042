"""`astro deployment logs | run | bash`: looking into what runs on a deployment."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from astro_cli.commands.logs import (
    Follow,
    Grep,
    Since,
    Tail,
    Timestamps,
    pattern_of,
    print_lines,
    since_of,
)
from astro_cli.commands.options import DeploymentOption, ServiceNames, obj


def logs(
    ctx: typer.Context,
    service: ServiceNames = None,
    of: DeploymentOption = None,
    follow: Follow = False,
    tail: Tail = None,
    since: Since = None,
    timestamps: Timestamps = False,
    grep: Grep = None,
) -> None:
    """Show what the services of a deployment wrote, those that finish their tasks included."""
    from astro_cli.domain.services import service_names
    from astro_cli.foundation.errors import UsageError
    from astro_cli.remote import Remote
    from astro_cli.runtime.engine import LogQuery

    app = obj(ctx)
    remote = Remote(app, of)
    if follow and app.console.json:
        raise UsageError("--follow never ends, so it cannot be one JSON document", hint="leave out --json")
    pattern = pattern_of(grep)
    query = LogQuery(
        services=service_names(service or (), also=remote.more_services),
        follow=follow,
        tail=tail,
        since=since_of(since) if since else None,
    )
    with remote.target() as target:
        lines = (line for line in target.logs(query) if pattern is None or pattern.search(line.text))
        if app.console.json:
            app.console.result({"lines": [asdict(line) for line in lines]})
        else:
            print_lines(app.console, lines, timestamps=timestamps)


def run(
    ctx: typer.Context,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ARGS]...", help="Arguments of `airflow`.", show_default=False),
    ] = None,
    of: DeploymentOption = None,
) -> None:
    """Run any `airflow` command beside the scheduler of a deployment. Its exit code."""
    raise typer.Exit(_inside(ctx, of, "scheduler", ["airflow", *(arguments or ())]))


def bash(
    ctx: typer.Context,
    service: Annotated[str, typer.Argument(metavar="[SERVICE]", help="Beside which service.")] = "scheduler",
    of: DeploymentOption = None,
) -> None:
    """Open a shell beside a service of a deployment."""
    from astro_cli.domain.services import service_names
    from astro_cli.remote import Remote

    known = Remote(obj(ctx), of).more_services
    raise typer.Exit(_inside(ctx, of, service_names([service], also=known)[0], ["bash"]))


def _inside(ctx: typer.Context, of: str | None, service: str, command: list[str]) -> int:
    from astro_cli.remote import Remote

    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    with Remote(obj(ctx), of).target() as target:
        return target.run_inside(service, command, interactive=interactive)
