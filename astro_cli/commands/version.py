"""`astro version`."""

from __future__ import annotations

import os
import sys

import typer

from astro_cli.commands.options import obj


def version(ctx: typer.Context) -> None:
    """Show the versions of astro, its default Airflow, the engine that answers, and this platform."""
    from astro_cli import __version__
    from astro_cli.domain.airflow import DEFAULT_VERSION
    from astro_cli.foundation.errors import EngineError
    from astro_cli.runtime.engine_http import find_reader

    app = obj(ctx)
    system = os.uname()  # what the module `platform` tells, for a tenth of its cost
    try:
        info = find_reader(app.environ).info()
        engine = f"{info.name} {info.version} ({info.platform})"
    except EngineError:
        engine = None
    data = {
        "astro": __version__,
        "airflow_default": DEFAULT_VERSION,
        "engine": engine,
        "platform": f"{system.sysname} {system.machine}, Python {sys.version.split()[0]}",
    }

    def show() -> None:
        for key, value in data.items():
            app.console.line(f"{key.replace('_', ' '):<18}{value or 'none'}")

    app.console.result(data, show)
