"""`astro doctor`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from astro_cli.commands.options import obj

if TYPE_CHECKING:
    from collections.abc import Sequence

    from astro_cli.app import App
    from astro_cli.foundation.console import Console
    from astro_cli.runtime.docker import DockerEngine
    from astro_cli.runtime.engine import Engine
    from astro_cli.workflows.doctor import Finding, Place
    from astro_cli.workflows.leftovers import Leftover

COLOURS = {"ok": "32", "warning": "33", "problem": "1;31"}


def doctor(
    ctx: typer.Context,
    fix: Annotated[bool, typer.Option("--fix", help="Do what is safe to do unasked.")] = False,
    bundle: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write a tar.gz for a bug report, without secrets.", show_default=False
        ),
    ] = None,
) -> None:
    """Look at everything that a sandbox stands on, and say what to do about what is wrong."""
    from astro_cli.workflows.doctor import Place, as_json, examine, exit_code

    app = obj(ctx)
    console = app.console
    place = Place(app.environ, app.start_dir, leftovers=lambda: _left_over(app, place))
    findings = examine(place)
    repaired = [each for each in findings if fix and each.repair is not None]
    for each in repaired:
        assert each.repair is not None
        each.repair()
    data = {"findings": [{**as_json(each), "fixed": each in repaired} for each in findings]}
    if bundle is not None:
        _write(app, place, bundle.absolute(), findings)
        data["bundle"] = str(bundle.absolute())  # type: ignore[assignment]
    console.result(data, lambda: _show(console, findings, repaired, bundle))
    code = exit_code([each for each in findings if each not in repaired])
    if code:
        raise typer.Exit(code)


def _engines(app: App, place: Place) -> tuple[DockerEngine | None, list[Engine]]:
    """Docker, if it answers soon, and every engine that does. What is wrong with one, a check tells."""
    from astro_cli.foundation.errors import EngineError
    from astro_cli.runtime.docker import DockerEngine
    from astro_cli.runtime.standalone import StandaloneEngine

    docker = DockerEngine(app.environ, lambda: app.settings)
    standalone = StandaloneEngine(app.environ, lambda: app.settings)
    try:
        docker.reader = place.reader()
        docker.check()
    except EngineError:
        return None, [standalone]
    return docker, [docker, standalone]


def _left_over(app: App, place: Place) -> Sequence[Leftover]:
    """Sandboxes without a project, on whatever engine answers."""
    from astro_cli.workflows.leftovers import Leftovers

    docker, engines = _engines(app, place)
    reader = docker.reader if docker is not None else None
    return tuple(Leftovers(reader, lambda: app.docker.api, engines, app.console.progress()).sandboxes())


def _write(app: App, place: Place, path: Path, findings: Sequence[Finding]) -> None:
    from contextlib import suppress

    from astro_cli.domain.state import SandboxState
    from astro_cli.foundation.errors import AstroError
    from astro_cli.foundation.redact import Redactor
    from astro_cli.workflows.doctor import as_json
    from astro_cli.workflows.support_bundle import collect, known_secrets, write_bundle

    root = place.root
    settings = None
    with suppress(AstroError):
        settings = app.settings
    _, engines = _engines(app, place)
    sandbox_id = SandboxState(root).known_id if root is not None else None
    files = {"findings.json": json.dumps([as_json(each) for each in findings], indent=2)}
    files |= dict(collect(root, sandbox_id, engines, settings, app.environ))
    write_bundle(path, files, Redactor(known_secrets(root, app.environ)))


def _show(
    console: Console, findings: Sequence[Finding], repaired: Sequence[Finding], bundle: Path | None
) -> None:
    for each in findings:
        word = "fixed" if each in repaired else each.level
        mark = console.style(f"{word:<8}", COLOURS.get(word, "32"), console.out)
        console.line(f"{mark} {each.check:<14} {each.message}")
        if each.fix and each not in repaired:
            console.line(f"{'':<23} {each.fix}")
    open_ones = sum(each.level != "ok" and each not in repaired for each in findings)
    console.note()
    console.note(f"{open_ones} to look at" if open_ones else "All is well.")
    if bundle is not None:
        console.note(f"{bundle} is for your bug report. Secrets are masked; look into it all the same.")
