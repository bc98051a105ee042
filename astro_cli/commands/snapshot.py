"""`astro airflow snapshot save|restore|list|delete|export|import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from astro_cli.commands.options import obj

if TYPE_CHECKING:
    from astro_cli.app import App
    from astro_cli.domain.snapshots import Snapshot
    from astro_cli.workflows.snapshot_workflow import Snapshots

Name = Annotated[str, typer.Argument(metavar="NAME", help="The snapshot.")]
Force = Annotated[
    bool,
    typer.Option("--force", help="Take it even if it is of another key or an older Airflow."),
]


def save(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Default: the time.", show_default=False)
    ] = None,
) -> None:
    """Save the metadata database as it is now: runs, connections, variables, pools, everything Airflow knows."""
    from astro_cli.domain.snapshots import as_json

    app = obj(ctx)
    saved = _snapshots(app).save(name)
    app.console.result(as_json(saved), lambda: app.console.line(f"saved `{saved.name}`"))


def restore(ctx: typer.Context, name: Name, force: Force = False) -> None:
    """Go back to a snapshot. What is there now becomes a snapshot itself, so that you can come back."""
    from astro_cli.domain.snapshots import as_json

    app = obj(ctx)
    console = app.console
    with console.progress() as report:
        done = _snapshots(app).restore(name, force=force, report=report)
    for each in done.accepted:
        console.warn(each)
    console.result(
        {"restored": as_json(done.snapshot), "before": as_json(done.before), "accepted": list(done.accepted)},
        lambda: console.line(f"restored `{name}`; what was there before is `{done.before.name}`"),
    )


def list_snapshots(ctx: typer.Context) -> None:
    """Show the snapshots of this sandbox, newest first."""
    from astro_cli.domain.snapshots import as_json

    app = obj(ctx)
    console = app.console
    app.project  # noqa: B018 - an error outside of a project
    known: tuple[Snapshot, ...] = ()
    complete = True
    if app.sandbox.state.known_id is not None:
        known, complete = _snapshots(app).list()
    if not complete:
        console.note("the sandbox's database does not run: only snapshots in files are shown")

    def show() -> None:
        if not known:
            console.note("no snapshots")
            return
        rows = [_row(snapshot) for snapshot in known]
        console.table(("NAME", "MADE", "WHY", "AIRFLOW", "SIZE", "WHERE"), rows)

    console.result({"snapshots": [as_json(snapshot) for snapshot in known], "complete": complete}, show)


def delete(ctx: typer.Context, name: Name) -> None:
    """Remove a snapshot."""
    app = obj(ctx)
    gone = _snapshots(app).delete(name)
    app.console.result({"name": gone.name}, lambda: app.console.line(f"deleted `{gone.name}`"))


def export(
    ctx: typer.Context,
    name: Name,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it.")],
) -> None:
    """Write a snapshot to a file, which another sandbox with the same Fernet key can import."""
    app = obj(ctx)
    console = app.console
    path = file.absolute()
    if path.exists() and not app.confirm(f"{file} exists, and would be replaced. Go on?"):
        console.result({"name": name, "file": None}, lambda: console.line("nothing was written"))
        return
    _snapshots(app).export(name, path)
    console.result(
        {"name": name, "file": str(path), "bytes": path.stat().st_size},
        lambda: console.line(f"wrote `{name}` to {file} ({_size(path.stat().st_size)})"),
    )


def import_snapshot(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `snapshot export` wrote.")],
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Default: its own.", show_default=False)
    ] = None,
    force: Force = False,
) -> None:
    """Take over a snapshot from a file; `restore` makes it live."""
    from astro_cli.domain.snapshots import as_json

    app = obj(ctx)
    console = app.console
    taken, accepted = _snapshots(app).import_file(file, name, force=force)
    for each in accepted:
        console.warn(each)
    console.result(
        {**as_json(taken), "accepted": list(accepted)},
        lambda: console.line(
            f"imported `{taken.name}`; `astro airflow snapshot restore {taken.name}` makes it live"
        ),
    )


def _snapshots(app: App) -> Snapshots:
    """Those of the project's sandbox, which must have been started once."""
    from astro_cli.foundation.errors import AstroError
    from astro_cli.workflows.snapshot_workflow import Snapshots

    state = app.sandbox.state
    if state.known_id is None:
        raise AstroError(
            f"the project `{app.project.name}` has no sandbox yet", hint="make it with `astro airflow start`"
        )
    return Snapshots(app.engine, state)


def _row(snapshot: Snapshot) -> tuple[str, ...]:
    made = (snapshot.created or "?").replace("T", " ").removesuffix("Z")
    where = "a file" if snapshot.file else "the sandbox"
    return (snapshot.name, made, snapshot.reason, snapshot.airflow or "?", _size(snapshot.bytes), where)


def _size(number: int) -> str:
    return f"{number / 1024**2:.1f} MiB" if number >= 1024**2 else f"{number / 1024:.0f} KiB"
