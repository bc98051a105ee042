"""`astro deployment edge start|stop|file`: workers on machines outside of a deployment."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from astro_cli.commands.deploy import EDGE_SECONDS
from astro_cli.commands.options import Deployment, DeploymentOption, obj

if TYPE_CHECKING:
    from astro_cli.foundation.console import Console
    from astro_cli.workflows.edge import Outside


def start(
    ctx: typer.Context,
    name: Deployment = None,
    wait: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="Time a worker may take to be heard of.")
    ] = EDGE_SECONDS,
) -> None:
    """Have a worker of the running release on each machine below `edge`; older ones finish their tasks."""
    from astro_cli.remote import Remote

    app = obj(ctx)
    remote = Remote(app, name)
    with app.console.progress() as report, remote.target() as target:
        done = remote.edge(target, report).start(remote.deployment.edge, wait)
    _show(app.console, done, "nothing to start: no group below `edge` has `hosts`")


def stop(ctx: typer.Context, name: Deployment = None) -> None:
    """End the workers on each machine below `edge` when their tasks are done, and remove them."""
    from astro_cli.remote import Remote

    app = obj(ctx)
    remote = Remote(app, name)
    with app.console.progress() as report, remote.target() as target:
        done = remote.edge(target, report).stop(remote.deployment.edge)
    _show(app.console, done, "nothing to end: no group below `edge` has `hosts`", ended=True)


def _show(console: Console, done: list[Outside], nothing: str, *, ended: bool = False) -> None:
    from astro_cli.foundation.errors import TargetError

    failed = [each for each in done if each.error]
    if failed:
        raise TargetError(
            f"{len(failed)} of {len(done)} machines: {failed[0].error}",
            hint="the other machines are done; see what is wrong there, then run the same command again",
            details=tuple(f"{each.where}: {each.error}" for each in failed),
        )

    def show() -> None:
        for each in done:
            what = "ended" if ended else "started" if each.started else "runs already"
            rest = f"; finishing their tasks: {', '.join(each.draining)}" if each.draining else ""
            console.line(f"{each.worker} on {each.where}: {what}{rest}")
        if not done:
            console.note(nothing)

    console.result({"workers": [asdict(each) for each in done]}, show)


def file(
    ctx: typer.Context,
    group: Annotated[str, typer.Argument(help="Group of machines below `edge`.")],
    folder: Annotated[Path, typer.Argument(help="Folder for the two files, outside of the project.")],
    machine: Annotated[
        str, typer.Option(metavar="NAME", help="What the machine is called; one worker a name.")
    ] = "machine",
    of: DeploymentOption = None,
) -> None:
    """Write a worker for a machine that only you reach: a file for Docker Compose, and one with its secrets."""
    from astro_cli.domain.edge import machine_name
    from astro_cli.foundation.errors import UsageError
    from astro_cli.remote import Remote

    app = obj(ctx)
    remote = Remote(app, of)
    groups = {each.name: each for each in remote.deployment.edge}
    if groups and group not in groups:
        raise UsageError(
            f"{remote.deployment.name} has no machines `{group}`", hint=f"there is: {', '.join(groups)}"
        )
    if folder.resolve().is_relative_to(app.project.root.resolve()):
        raise UsageError(
            f"{folder} is in the project, where its secrets could be committed or deployed",
            hint="name a folder outside",
        )
    with app.console.progress() as report, remote.target() as target:
        worker = remote.edge(target, report).write(groups[group], machine_name(machine), folder)
    app.console.result(
        {"worker": worker, "folder": str(folder)},
        lambda: app.console.line(
            f"{worker} is in {folder}: copy it to the machine; what to do there stands in compose.yaml"
        ),
    )
