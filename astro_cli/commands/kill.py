"""`astro airflow kill`."""

from __future__ import annotations

from typing import Annotated

import typer

from astro_cli.commands.options import obj


def kill(
    ctx: typer.Context,
    no_snapshot: Annotated[bool, typer.Option("--no-snapshot", help="Keep no copy of the database.")] = False,
) -> None:
    """Remove the sandbox with all its data: run history, logs, connections made in the UI."""
    app = obj(ctx)
    console = app.console
    # Asked even where no container is left: what an interrupted kill left behind has to go as well.
    console.note(f"This removes the sandbox of {app.project.name} ({app.project.root}):")
    console.note(
        "  all that runs of it, the metadata database, task logs, and in Docker its network and the project's image"
    )
    console.note("The project's files and the shared engine image stay.")
    if not no_snapshot:
        console.note("If the database runs, a snapshot of it is kept in a file; `--no-snapshot` keeps none.")
    if not app.confirm("Remove it all?"):
        console.result({"changes": []}, lambda: console.line("nothing was removed"))
        return
    with console.progress() as report:
        done = app.sandbox.kill(report, snapshot=not no_snapshot)

    def show() -> None:
        removed = ", ".join(change.subject for change in done.changes)
        console.line(f"removed: {removed}" if removed else "there was nothing to remove")
        if done.kept:
            console.note(f"The database is kept in {done.kept.file}. After the next `astro airflow start`,")
            console.note(f"`astro airflow snapshot restore {done.kept.name}` brings it back.")

    kept = {"name": done.kept.name, "file": done.kept.file} if done.kept else None
    console.result({"changes": [str(change) for change in done.changes], "snapshot": kept}, show)
