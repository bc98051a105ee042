"""`astro clean`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from astro_cli.commands.options import obj

if TYPE_CHECKING:
    from collections.abc import Sequence

    from astro_cli.foundation.console import Console
    from astro_cli.workflows.leftovers import Leftover


def clean(
    ctx: typer.Context,
    data: Annotated[
        bool,
        typer.Option("--data", help="Also what cannot be made again: sandboxes of gone projects, snapshots."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show it.")] = False,
) -> None:
    """Remove what astro made and nothing uses any more: images, environments, caches. Asks first."""
    from astro_cli.foundation.console import Progress
    from astro_cli.foundation.errors import AstroError
    from astro_cli.workflows.leftovers import Leftovers

    app = obj(ctx)
    console = app.console
    engines = app.engines()
    docker = next((engine for engine in engines if engine.name == "docker"), None)
    reader = app.docker.reader if docker is not None else None
    found = Leftovers(reader, lambda: app.docker.api, engines, Progress(console)).find()
    wanted = [each for each in found if data or not each.data]
    if dry_run or not wanted:
        console.result(
            {"leftovers": [_as_json(each, removed=False) for each in found], "freed": 0},
            lambda: _show(console, found, data=data),
        )
        return
    if not console.json:
        _show(console, found, data=data)
    if not app.confirm(f"Remove {'it all' if data else 'what can be made again'}?"):
        console.result({"leftovers": [], "freed": 0}, lambda: console.line("nothing was removed"))
        return
    removed, failed = [], []
    for each in wanted:
        try:
            each.remove()
            removed.append(each)
        except (AstroError, OSError) as exc:
            failed.append(f"{each.kind} {each.name}: {exc}")
    freed = sum(each.size or 0 for each in removed)
    for line in failed:
        console.warn(line)
    console.result(
        {"leftovers": [_as_json(each, removed=each in removed) for each in wanted], "freed": freed},
        lambda: console.line(f"removed {len(removed)} things: {size(freed)}, and what images shared"),
    )
    if failed:
        raise typer.Exit(1)


def _as_json(each: Leftover, *, removed: bool) -> dict[str, object]:
    return {
        "kind": each.kind,
        "name": each.name,
        "why": each.why,
        "bytes": each.size,
        "data": each.data,
        "removed": removed,
    }


def _show(console: Console, found: Sequence[Leftover], *, data: bool) -> None:
    if not found:
        console.note("there is nothing to clean up")
        return
    rows = [(each.kind, each.name, size(each.size) if each.size else "-", each.why) for each in found]
    console.table(("KIND", "NAME", "SIZE", "WHY"), rows)
    again = sum(each.size or 0 for each in found if not each.data)
    lost = [each for each in found if each.data]
    console.note()
    console.note(f"{size(again)} can be made again, besides what these images share with each other.")
    if lost:
        what = f"{len(lost)} of them cannot: data of projects that are gone"
        console.note(f"{what}." if data else f"{what}. They stay, unless you add `--data`.")


def size(count: int) -> str:
    """Bytes in the largest fitting unit: `12 MB`, `1.4 GB`."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.{1 if unit == 'GB' else 0}f} {unit}"
    return f"{count} B"
