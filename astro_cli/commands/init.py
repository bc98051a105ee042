"""`astro airflow init`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from astro_cli.commands.options import obj

if TYPE_CHECKING:
    from astro_cli.app import App


def init(
    ctx: typer.Context,
    folder: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Make this folder and initialise in it.", show_default=False),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="The project's name. Default: the folder's.", show_default=False),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            "--template",
            "-t",
            metavar="NAME|PATH|GIT_URL@REV",
            help="What to start from. Default: default",
            show_default=False,
        ),
    ] = None,
    show_list: Annotated[
        bool, typer.Option("--list", help="Show the templates that come with astro, and write nothing.")
    ] = False,
    airflow_version: Annotated[
        str | None,
        typer.Option("--airflow-version", "-a", help="Airflow for the Dockerfile.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Go on in a folder that holds other files.")] = False,
) -> None:
    """Write a new project. Files that exist are never overwritten."""
    from astro_cli.domain.template_source import find_template
    from astro_cli.workflows.project_init import init_project

    app = obj(ctx)
    if show_list:
        _show_list(app)
        return
    root = app.start_dir / folder if folder else app.start_dir

    def may_fill() -> bool | None:
        if force or app.assume_yes:
            return True
        if app.no_input or not sys.stdin.isatty():
            return None
        return app.confirm(f"{root} already holds something. Go on? Existing files are kept.")

    report = init_project(
        root,
        name=name,
        template=find_template(template, folder=app.start_dir, environ=app.environ) if template else None,
        airflow_version=airflow_version,
        may_fill=may_fill,
    )
    console = app.console

    def show() -> None:
        for path in report.created:
            console.line(f"  created  {path}")
        for path in report.kept:
            console.line(f"  kept     {path}")
        here = Path.cwd() == root
        console.note()
        console.note(f"{report.name} is ready in {root}. Next:")
        console.note(f"  {'' if here else f'cd {folder or root} && '}astro airflow start")

    console.result(
        {
            "name": report.name,
            "path": str(root),
            "created": [str(path) for path in report.created],
            "kept": [str(path) for path in report.kept],
        },
        show,
    )


def _show_list(app: App) -> None:
    from astro_cli.domain.scaffold import list_templates, own_template

    templates = [own_template(name) for name in list_templates()]

    def show() -> None:
        app.console.table(
            ("NAME", "WHAT IT SHOWS", "SERVICES", "FIRST GREEN RUN"),
            [
                (
                    one.name,
                    one.summary,
                    ", ".join(one.services) or "-",
                    f"{one.seconds} s" if one.seconds else "-",
                )
                for one in templates
            ],
        )

    app.console.result(
        {
            "templates": [
                {
                    "name": one.name,
                    "summary": one.summary,
                    "services": list(one.services),
                    "seconds": one.seconds,
                }
                for one in templates
            ]
        },
        show,
    )
