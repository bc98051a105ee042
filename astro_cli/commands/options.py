"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from astro_cli.app import App
    from astro_cli.runtime.engine import SandboxStatus

EngineName = Annotated[
    Literal["docker", "standalone"] | None,
    typer.Option(
        help="Run in containers, or as local processes. Default: as last time; at first Docker if it answers.",
        show_default=False,
    ),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="SQLAlchemy address of your own metadata database; for the standalone engine.",
        show_default=False,
    ),
]
EnvFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--env", "-e", help="Environment file; may be given several times. Default: .env", show_default=False
    ),
]
SettingsFile = Annotated[
    Path | None,
    typer.Option(
        "--settings-file", "-s", help="Objects file. Default: airflow_settings.yaml", show_default=False
    ),
]
ForceBuild = Annotated[
    bool, typer.Option("--build", help="Build the image even if its inputs are unchanged.")
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Build every step anew.")]
ImageName = Annotated[
    str | None,
    typer.Option("--image-name", "-i", help="Use this local image; build nothing.", show_default=False),
]
Wait = Annotated[
    float | None,
    typer.Option(
        "--wait",
        min=1,
        metavar="SECONDS",
        help="Time allowed to become healthy. Default: 120",
        show_default=False,
    ),
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return as soon as everything is started.")]
NoBrowser = Annotated[bool, typer.Option("--no-browser", "-n", help="Do not open the web UI.")]
ServiceNames = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SERVICE]...", help="Services; all when none is named.", show_default=False),
]

Deployment = Annotated[
    str | None,
    typer.Argument(
        metavar="[NAME]", help="The deployment; needs no name if there is only one.", show_default=False
    ),
]
DeploymentOption = Annotated[
    str | None,
    typer.Option(
        "--of", metavar="NAME", help="The deployment; needs no name if there is only one.", show_default=False
    ),
]
LockWait = Annotated[
    float, typer.Option("--lock-wait", min=0, metavar="SECONDS", help="Wait for another run that long.")
]


def obj(ctx: typer.Context) -> App:
    """The `App` of this run."""
    app: App = ctx.find_root().obj
    return app


def pairs(given: Iterable[str] | None, example: str) -> dict[str, str]:
    """What words of the form NAME=VALUE say.

    Args:
        example: what to type instead of a word that is wrong, for the hint, in backticks.

    Raises:
        UsageError: a word is of another form.
    """
    from astro_cli.foundation.errors import UsageError

    found = {}
    for word in given or ():
        name, equals, value = word.partition("=")
        if not equals:
            raise UsageError(f"`{word}` is not NAME=VALUE", hint=f"for example {example}")
        found[name] = value
    return found


def started(app: App, *, memory: bool = False) -> SandboxStatus:
    """The project's sandbox, which must have been started once.

    Raises:
        AstroError: it never was.
    """
    from astro_cli.foundation.errors import AstroError

    status = app.sandbox.status(memory=memory)
    if status is None:
        raise AstroError(
            f"the project `{app.project.name}` has no sandbox yet", hint="make it with `astro airflow start`"
        )
    return status


def services_meant(app: App, words: Sequence[str], *, also: Iterable[str] = ()) -> tuple[str, ...]:
    """The services meant by `words`: Airflow's, the project's and Celery's; a group means each of its workers.

    Raises:
        UsageError: a word names no service.
    """
    from astro_cli.domain.airflow import BROKER
    from astro_cli.domain.project_services import METRICS, read_services
    from astro_cli.domain.services import service_names

    if not words:
        return ()
    groups = app.sandbox.workers()
    members = [name for group in groups.values() for name in group]
    celery = [*groups, *members, BROKER] if groups else []
    added = [each.name for each in read_services(app.project.root)]
    if app.sandbox.collects_metrics:
        added.append(METRICS)
    names = service_names(words, also=(*also, *added, *celery))
    return tuple(dict.fromkeys(each for name in names for each in groups.get(name, (name,))))
