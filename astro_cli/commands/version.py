"""`astro version`."""

from __future__ import annotations

import typer

from astro_cli.commands.options import obj


def version(ctx: typer.Context) -> None:
    """Show the versions of astro, its default Airflow, the engine that answers, and this platform."""
    import platform
    from importlib.metadata import version as installed_version

    from astro_cli.airflow import DEFAULT_VERSION
    from astro_cli.errors import EngineError

    app = obj(ctx)
    try:
        info = app.engine.check()
        engine = f"{info.name} {info.version} ({info.platform})"
    except EngineError:
        engine = None
    data = {
        "astro": installed_version("astro-cli"),
        "airflow_default": DEFAULT_VERSION,
        "engine": engine,
        "platform": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }
    app.console.result(data, lambda: [app.console.line(f"{key:<16}{value or 'none'}") for key, value in data.items()])
