"""`astro deployment object import|export|diff`: the same file and words as for the sandbox."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from astro_cli.commands.object import Connections, Pools, Variables
from astro_cli.commands.options import DeploymentOption, EnvFiles, SettingsFile, obj

if TYPE_CHECKING:
    from pathlib import Path

    from astro_cli.app import App
    from astro_cli.workflows.objects_sync import ObjectsFile


def import_objects(
    ctx: typer.Context,
    of: DeploymentOption = None,
    connections: Connections = False,
    variables: Variables = False,
    pools: Pools = False,
    settings_file: SettingsFile = None,
    env: EnvFiles = None,
) -> None:
    """Write the file's connections, variables and pools to a deployment; shows what differs and asks first."""
    from astro_cli.commands.object import counted, show_comparison
    from astro_cli.remote import Remote
    from astro_cli.workflows import objects_sync

    app = obj(ctx)
    console = app.console
    remote = Remote(app, of)
    file = _file(app, settings_file, env, connections, variables, pools)
    objects = file.read()
    with remote.airflow() as api:
        found = objects_sync.compare_objects(api, file)
        if not console.json:
            show_comparison(console, found, file, remote.deployment.name)
        if not app.confirm(f"Write {counted(objects)} to {remote.deployment.name}?"):
            console.result({"written": False}, lambda: console.line("nothing was written"))
            return
        objects_sync.import_objects(api, objects)
    console.result(
        {"written": True, **asdict(found)},
        lambda: console.line(f"wrote {counted(objects)} from {file.path.name} to {remote.deployment.name}"),
    )


def export(
    ctx: typer.Context,
    of: DeploymentOption = None,
    connections: Connections = False,
    variables: Variables = False,
    pools: Pools = False,
    settings_file: SettingsFile = None,
) -> None:
    """Show a deployment's connections, variables and pools as a file, with ${NAME} for secrets."""
    from astro_cli.remote import Remote
    from astro_cli.workflows import objects_sync

    app = obj(ctx)
    file = _file(app, settings_file, None, connections, variables, pools)
    with Remote(app, of).airflow() as api:
        exported, _, problem = objects_sync.export_objects(api, file, show_secrets=False)
    if problem:
        app.console.warn(f"the references of {file.path.name} were not kept: {problem}")
    for what in exported.left_out:
        app.console.warn(f"left out: {what}")
    app.console.result({"text": exported.text}, lambda: app.console.line(exported.text.rstrip("\n")))


def diff(
    ctx: typer.Context,
    of: DeploymentOption = None,
    connections: Connections = False,
    variables: Variables = False,
    pools: Pools = False,
    settings_file: SettingsFile = None,
    env: EnvFiles = None,
) -> None:
    """Compare the file with a deployment; exit 1 if they differ. No value of a secret is shown or compared."""
    from astro_cli.commands.object import tell_comparison
    from astro_cli.remote import Remote
    from astro_cli.workflows import objects_sync

    app = obj(ctx)
    remote = Remote(app, of)
    file = _file(app, settings_file, env, connections, variables, pools)
    with remote.airflow() as api:
        found = objects_sync.compare_objects(api, file)
    tell_comparison(app.console, found, file, remote.deployment.name)


def _file(
    app: App,
    settings_file: Path | None,
    env: list[Path] | None,
    connections: bool,
    variables: bool,
    pools: bool,
) -> ObjectsFile:
    from dataclasses import replace

    from astro_cli.commands.object import objects_file

    # `.env` is the sandbox's: its values must not end in production unseen.
    return replace(objects_file(app, settings_file, env, connections, variables, pools), dotenv=False)
