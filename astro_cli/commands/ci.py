"""`astro ci init`."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import typer

from astro_cli.commands.options import obj


def ci_init(
    ctx: typer.Context,
    system: Annotated[
        Literal["github", "gitlab", "circleci", "jenkins"], typer.Argument(help="The CI system.")
    ],
    deployment: Annotated[
        str | None,
        typer.Option("--deployment", help="What to deploy to. Default: the only one.", show_default=False),
    ] = None,
    branch: Annotated[str, typer.Option("--branch", help="The branch that is deployed.")] = "main",
    force: Annotated[bool, typer.Option("--force", help="Replace the file that is there.")] = False,
) -> None:
    """Write a workflow: build, parse and test every change, plan pull requests, deploy one branch."""
    from astro_cli.domain.ci import variables, workflow
    from astro_cli.domain.deployments import choose_deployment, read_deployments
    from astro_cli.foundation.errors import ProjectError, UsageError
    from astro_cli.foundation.paths import write_atomic
    from astro_cli.foundation.render import write_files

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]*", branch):
        raise UsageError(
            f'"{branch}" cannot be the branch: use letters, digits, and . _ / -', hint="for example `main`"
        )
    app = obj(ctx)
    root = app.project.root
    chosen = choose_deployment(read_deployments(root), deployment)
    file = workflow(system, chosen, branch=branch)
    if not write_files(root, [file]).created:
        if not force:
            raise ProjectError(f"{file.path} exists", hint="add `--force` to replace it")
        write_atomic(root / file.path, file.text, mode=file.mode)
    needed = {"ASTRO_INSTALL_URL": "the folder with install.sh", **variables(chosen)}
    console = app.console

    def show() -> None:
        console.line(f"wrote {file.path}")
        console.note(f"\nSet in {system} before the first run (docs/ci.md):")
        for name, meaning in needed.items():
            console.note(f"  {name:<23}  {meaning}")

    console.result({"file": str(file.path), "deployment": chosen.name, "variables": needed}, show)
