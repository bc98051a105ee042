"""`astro deployment variables list|set|remove`: the environment variables of what is deployed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from astro_cli.commands.options import Deployment, DeploymentOption, obj, pairs

if TYPE_CHECKING:
    from astro_cli.app import App
    from astro_cli.domain.deployments import Deployment as Declared

SECRET = "(secret)"  # noqa: S105 - what is shown instead of one


def list_variables(ctx: typer.Context, name: Deployment = None) -> None:
    """Show the variables that a deployment's Airflow gets; of secrets the names."""
    from astro_cli.domain.deployments import choose_deployment, read_deployments

    app = obj(ctx)
    chosen = choose_deployment(read_deployments(app.project.root), name)

    def show() -> None:
        app.console.table(("VARIABLE", "VALUE"), list(_shown(chosen).items()))
        if not _shown(chosen):
            app.console.note("none yet: `astro deployment variables set NAME=VALUE`")

    app.console.result({"env": dict(chosen.env), "secrets": list(chosen.secrets)}, show)


def set_variables(
    ctx: typer.Context,
    given: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=VALUE]...", help="Plain variables.", show_default=False),
    ] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A secret: only its name is written.", show_default=False),
    ] = None,
    env: Annotated[
        Path | None,
        typer.Option("--env", "-e", metavar="FILE", help="Plain variables from a file.", show_default=False),
    ] = None,
    of: DeploymentOption = None,
) -> None:
    """Set variables in .astro/config.yaml; shows what differs and asks first."""
    from astro_cli.domain.envfile import load_env
    from astro_cli.foundation.errors import UsageError

    app = obj(ctx)
    plain = pairs(given, "`LOG_LEVEL=info`, or for a secret `--secret API_KEY`")
    values = load_env(env, app.environ, name=str(env)) if env else {}
    values |= plain
    if not values and not secret:
        raise UsageError(
            "no variable is given", hint="for example `astro deployment variables set NAME=VALUE`"
        )
    _change(app, of, values, secret or (), ())


def remove_variables(
    ctx: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Variables to take away.")],
    of: DeploymentOption = None,
) -> None:
    """Take variables out of .astro/config.yaml; shows what differs and asks first."""
    _change(obj(ctx), of, {}, (), names)


def _change(
    app: App,
    of: str | None,
    values: dict[str, str],
    secrets: list[str] | tuple[()],
    removed: list[str] | tuple[()],
) -> None:
    from astro_cli.remote import change_variables, write_variables

    before, after = change_variables(app.project.root, of, values, secrets, removed)
    lines = _differences(_shown(before), _shown(after))
    written = bool(lines)
    if lines:
        for line in lines:
            app.console.note(line)
        written = app.confirm(f"Write this to {before.name} in .astro/config.yaml?")
        if written:
            write_variables(app.project.root, after)

    def show() -> None:
        if not lines:
            app.console.line(f"{before.name} has these variables already")
        elif not written:
            app.console.line("nothing was written")
        else:
            app.console.line(f"written; `astro deploy {before.name}` brings it there")

    app.console.result({"written": written, "env": dict(after.env), "secrets": list(after.secrets)}, show)


def _shown(deployment: Declared) -> dict[str, str]:
    return {**deployment.env, **dict.fromkeys(deployment.secrets, SECRET)}


def _differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """A line for each variable that is new, other, or gone."""
    lines = [f"+ {name}={value}" for name, value in after.items() if name not in before]
    lines += [
        f"~ {name}: {before[name]} → {value}"
        for name, value in after.items()
        if name in before and before[name] != value
    ]
    return lines + [f"- {name}" for name in before if name not in after]
