"""`astro airflow object import|export|validate|diff`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from astro_cli.commands.options import EnvFiles, SettingsFile, obj, started

if TYPE_CHECKING:
    from astro_cli.app import App
    from astro_cli.domain.objects import Objects
    from astro_cli.domain.objects_export import Comparison
    from astro_cli.foundation.console import Console
    from astro_cli.workflows.objects_sync import ObjectsFile

Connections = Annotated[bool, typer.Option("--connections", "-c", help="Connections only.")]
Variables = Annotated[bool, typer.Option("--variables", "-v", help="Variables only.")]
Pools = Annotated[bool, typer.Option("--pools", "-p", help="Pools only.")]


def import_objects(
    ctx: typer.Context,
    connections: Connections = False,
    variables: Variables = False,
    pools: Pools = False,
    settings_file: SettingsFile = None,
    env: EnvFiles = None,
    no_snapshot: Annotated[
        bool, typer.Option("--no-snapshot", help="Do not save the database first.")
    ] = False,
) -> None:
    """Write the file's connections, variables and pools to the sandbox; what only the sandbox has stays."""
    from astro_cli.workflows import objects_sync
    from astro_cli.workflows.runs import connect
    from astro_cli.workflows.snapshot_workflow import Snapshots

    app = obj(ctx)
    file = objects_file(app, settings_file, env, connections, variables, pools)
    saved = None
    with connect(started(app)) as api:
        objects = file.read()
        if not no_snapshot:
            saved = Snapshots(app.engine, app.sandbox.state).save_before_import()
        objects_sync.import_objects(api, objects)

    def show() -> None:
        app.console.line(f"wrote {counted(objects)} from {file.path.name}")
        if saved:
            app.console.note(f"What was there before: `astro airflow snapshot restore {saved.name}`")

    app.console.result({**_names(objects), "snapshot": saved.name if saved else None}, show)


def export(
    ctx: typer.Context,
    connections: Connections = False,
    variables: Variables = False,
    pools: Pools = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write to FILE. Default: stdout", show_default=False
        ),
    ] = None,
    show_secrets: Annotated[
        bool,
        typer.Option("--show-secrets", help="Write secrets, as far as Airflow or your own file tells them."),
    ] = False,
    settings_file: SettingsFile = None,
    env: EnvFiles = None,
) -> None:
    """Show the sandbox's connections, variables and pools as a file, with ${NAME} for secrets."""
    from astro_cli.foundation.paths import write_atomic
    from astro_cli.workflows import objects_sync
    from astro_cli.workflows.runs import connect

    app = obj(ctx)
    console = app.console
    file = objects_file(app, settings_file, env, connections, variables, pools)
    with connect(started(app)) as api:
        exported, found, problem = objects_sync.export_objects(api, file, show_secrets=show_secrets)
    if problem:
        console.warn(f"the references of {file.path.name} were not kept, for it cannot be read: {problem}")
    for what in exported.left_out:
        console.warn(f"left out: {what}")
    if exported.references:
        reason = (
            "Airflow's API does not give these secrets away" if show_secrets else "secrets are not written"
        )
        console.warn(f"{reason}; set in .env: {', '.join(exported.references)}")
    told = {
        **_names(found),
        "text": exported.text,
        "new_references": list(exported.references),
        "kept_references": list(exported.kept),
        "left_out": list(exported.left_out),
        "file": None if output is None else str(output.absolute()),
    }
    if output is None:
        console.result(told, lambda: console.line(exported.text.rstrip("\n")))
        return
    if output.exists() and not app.confirm(
        f"{output} exists, and would be replaced with its comments. Go on?"
    ):
        console.result({**told, "file": None}, lambda: console.line("nothing was written"))
        return
    write_atomic(output.absolute(), exported.text)
    console.result(told, lambda: console.line(f"wrote {counted(found)} to {output}"))


def validate(
    ctx: typer.Context,
    settings_file: SettingsFile = None,
    env: EnvFiles = None,
) -> None:
    """Check the objects file and `secrets/`; needs no sandbox. Exit 3 with the line if something is wrong."""
    from astro_cli.domain.hot_objects import FILES, read_hot_files
    from astro_cli.domain.objects import Objects

    app = obj(ctx)
    file = objects_file(app, settings_file, env)
    hot = read_hot_files(app.project.root)
    objects = Objects() if hot and not file.path.exists() else file.read()

    def show() -> None:
        if file.path.exists():
            app.console.line(f"{file.path.name} is valid: {counted(objects)}")
        for kind, names in hot.items():
            app.console.line(f"{FILES[kind]} is valid: {len(names)} {kind}")

    told = {FILES[kind]: list(names) for kind, names in hot.items()}
    app.console.result({"file": str(file.path), **_names(objects), "hot": told}, show)


def diff(
    ctx: typer.Context,
    connections: Connections = False,
    variables: Variables = False,
    pools: Pools = False,
    settings_file: SettingsFile = None,
    env: EnvFiles = None,
) -> None:
    """Compare the file with the sandbox; exit 1 if they differ. No value of a secret is shown or compared."""
    from astro_cli.workflows import objects_sync
    from astro_cli.workflows.runs import connect

    app = obj(ctx)
    file = objects_file(app, settings_file, env, connections, variables, pools)
    with connect(started(app)) as api:
        found = objects_sync.compare_objects(api, file)
    tell_comparison(app.console, found, file, "the sandbox")


def tell_comparison(console: Console, found: Comparison, file: ObjectsFile, place: str) -> None:
    """The result of a `diff` with what is in `place`; exit 1 if they differ."""
    console.result(
        {"same": not found.differences, **asdict(found)},
        lambda: show_comparison(console, found, file, place),
    )
    if found.differences:
        raise typer.Exit(1)


def show_comparison(console: Console, found: Comparison, file: ObjectsFile, place: str) -> None:
    """A line for each difference."""
    for each in found.differences:
        console.line(f"{each.collection.removesuffix('s')} {each.name}: {each.what}")
    if not found.differences:
        console.line(f"{file.path.name} and {place} are the same")
    if found.not_compared:
        console.note(f"not compared, since Airflow masks them: {', '.join(found.not_compared)}")


def objects_file(
    app: App,
    settings_file: Path | None,
    env: list[Path] | None,
    connections: bool = True,
    variables: bool = True,
    pools: bool = True,
) -> ObjectsFile:
    """The objects file of the project or the one given; no collection chosen means all."""
    from astro_cli.workflows.objects_sync import COLLECTIONS, FILE, ObjectsFile

    chosen = {"connections": connections, "variables": variables, "pools": pools}
    return ObjectsFile(
        root=app.project.root,
        path=settings_file or app.project.root / FILE,
        environ=app.environ,
        env_files=env or (),
        collections=tuple(name for name, is_chosen in chosen.items() if is_chosen) or COLLECTIONS,
    )


def _names(objects: Objects) -> dict[str, Any]:
    return {
        "connections": [each.conn_id for each in objects.connections],
        "variables": [each.name for each in objects.variables],
        "pools": [each.name for each in objects.pools],
    }


def counted(objects: Objects) -> str:
    """Such as `2 connections, 1 variable, 0 pools`."""
    counts = [(len(names), collection) for collection, names in _names(objects).items()]
    return ", ".join(f"{n} {word if n != 1 else word.removesuffix('s')}" for n, word in counts)
