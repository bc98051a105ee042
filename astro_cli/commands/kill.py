"""`astro airflow kill`."""

from __future__ import annotations

import typer

from astro_cli.commands.options import obj


def kill(ctx: typer.Context) -> None:
    """Remove the sandbox with all its data: run history, logs, connections made in the UI."""
    app = obj(ctx)
    console = app.console
    # Asked even where no container is left: what an interrupted kill left behind has to go as well.
    console.note(f"This removes the sandbox of {app.project.name} ({app.project.root}):")
    console.note("  its containers and network, the metadata database, task logs, and the project's image")
    console.note("The project's files and the shared engine image stay.")
    if not app.confirm("Remove it all?"):
        console.result({"changes": []}, lambda: console.line("nothing was removed"))
        return
    with console.progress() as report:
        changes = app.sandbox.kill(report)
    console.result(
        {"changes": [str(change) for change in changes]},
        lambda: console.line(
            f"removed: {', '.join(change.subject for change in changes)}"
            if changes
            else "there was nothing to remove"
        ),
    )
