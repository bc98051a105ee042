"""`astro export …`: the project as files for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from astro_cli.commands.options import DeploymentOption, obj

if TYPE_CHECKING:
    from astro_cli.app import App
    from astro_cli.domain.deployments import Deployment
    from astro_cli.workflows.export import Export

Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write it there.", show_default=False),
]
Force = Annotated[bool, typer.Option("--force", help="Replace the file that is there.")]


def export_compose(
    ctx: typer.Context,
    of: DeploymentOption = None,
    output: Output = None,
    force: Force = False,
) -> None:
    """Show the project as a file for Docker Compose, or write it: Airflow, a database, a migration, no secrets."""
    from astro_cli.workflows.export import compose

    app = obj(ctx)
    place = output.absolute().parent if output else app.project.root
    exported = compose(app.project, _deployment(app, of), folder=place, environ=app.environ)
    _give(app, exported, output, force=force)


def export_helm_values(
    ctx: typer.Context,
    of: DeploymentOption = None,
    executor: Annotated[
        Literal["local", "celery", "kubernetes"], typer.Option(help="What runs the tasks.")
    ] = "local",
    output: Output = None,
    force: Force = False,
) -> None:
    """Show values for the official Airflow chart, or write them. astro has not run them with helm."""
    from astro_cli.workflows.export import helm_values

    app = obj(ctx)
    _give(app, helm_values(app.project, _deployment(app, of), executor=executor), output, force=force)


def _deployment(app: App, name: str | None) -> Deployment | None:
    from astro_cli.domain.deployments import choose_deployment, read_deployments

    known = read_deployments(app.project.root)
    return choose_deployment(known, name) if known or name else None


def _give(app: App, exported: Export, output: Path | None, *, force: bool) -> None:
    from astro_cli.foundation.errors import UsageError
    from astro_cli.foundation.paths import write_atomic

    console = app.console
    if output is not None:
        if output.is_dir() or not output.absolute().parent.is_dir():
            what = "is a folder" if output.is_dir() else "is in no folder that exists"
            raise UsageError(f"{output} {what}", hint="name a file in a folder that exists")
        if output.exists() and not force:
            raise UsageError(f"{output} exists already", hint="add `--force` to replace it")
        write_atomic(output.absolute(), exported.text, mode=0o644)

    def show() -> None:
        console.line(f"wrote {output}" if output else exported.text.rstrip("\n"))
        for each in exported.left_out:
            console.note(f"not in it: {each}")

    data = {
        "file": None if output is None else str(output.absolute()),
        "text": exported.text,
        "needed": dict(exported.needed),
        "left_out": list(exported.left_out),
    }
    console.result(data, show)
