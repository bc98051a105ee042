"""`astro airflow build`."""

from __future__ import annotations

import typer

from astro_cli.commands.options import EngineName, ForceBuild, ImageName, NoCache, obj
from astro_cli.commands.start import prepare_options


def build(
    ctx: typer.Context,
    force: ForceBuild = False,
    no_cache: NoCache = False,
    image_name: ImageName = None,
    engine: EngineName = None,
) -> None:
    """Build the project's image, if its inputs have changed, and start nothing."""
    app = obj(ctx)
    app.override("sandbox.engine", engine, "--engine")
    options = prepare_options(build=force, no_cache=no_cache, image_name=image_name)
    with app.console.progress() as report:
        environment = app.sandbox.build(options, report)
    what = "built" if environment.created else "the image is up to date"
    app.console.result(
        {
            "image": environment.reference,
            "airflow_version": environment.airflow_version,
            "built": environment.created,
        },
        lambda: app.console.line(f"{what}: {_short(environment.reference)}"),
    )


def _short(reference: str) -> str:
    """An image's id as Docker shortens it; the folder of a Python environment as it is."""
    return reference.removeprefix("sha256:")[:12] if reference.startswith("sha256:") else reference
