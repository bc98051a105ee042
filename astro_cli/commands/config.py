"""`astro config …`: the tool's own settings, each from one table, with the place it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from astro_cli.commands.options import obj
from astro_cli.foundation.redact import has_password, without_password

if TYPE_CHECKING:
    from pathlib import Path

    from astro_cli.app import App
    from astro_cli.domain.settings import SettingSpec, Value

Key = Annotated[str, typer.Argument(metavar="KEY", help="Such as sandbox.port.", show_default=False)]
User = Annotated[bool, typer.Option("--user", help="The file of your own, for all projects.")]
OfProject = Annotated[bool, typer.Option("--project", help="The project's file. The default inside one.")]
ShowSecrets = Annotated[bool, typer.Option("--show-secrets", help="Show passwords in addresses.")]

MAX_LENGTH = 4096


def list_settings(
    ctx: typer.Context,
    show_origin: Annotated[bool, typer.Option("--show-origin", help="Say where each comes from.")] = False,
    user: User = False,
    project: OfProject = False,
    show_secrets: ShowSecrets = False,
) -> None:
    """Show every setting as it holds here; with --user or --project only what that file sets."""
    from astro_cli.domain.settings import SETTINGS

    app = obj(ctx)
    values = _values(app, user=user, project=project)
    shown = [
        (spec, _shown(values[spec.key], secrets=show_secrets)) for spec in SETTINGS if spec.key in values
    ]

    def show() -> None:
        header = ("KEY", "VALUE", "ORIGIN") if show_origin else ("KEY", "VALUE")
        rows = [(spec.key, value, values[spec.key].origin)[: len(header)] for spec, value in shown]
        if rows:
            app.console.table(header, rows)
        else:
            app.console.note("nothing is set there")

    app.console.result(
        {
            "settings": [
                {
                    "key": spec.key,
                    "value": None if values[spec.key].value is None else _plain(values[spec.key], value),
                    "origin": values[spec.key].origin,
                    "variable": spec.variable,
                    "help": spec.help,
                }
                for spec, value in shown
            ]
        },
        show,
    )


def get(ctx: typer.Context, key: Key, user: User = False, project: OfProject = False) -> None:
    """Show one setting as it holds here, whole. Exit code 1 if it has no value."""
    from astro_cli.domain.settings import find_spec
    from astro_cli.foundation.errors import AstroError

    app = obj(ctx)
    spec = find_spec(key)
    value = _values(app, user=user, project=project).get(key)
    if value is None or value.value is None:
        raise AstroError(f"{key} is not set", hint=f"it is: {spec.help[0].lower()}{spec.help[1:]}")
    app.console.result(
        {"key": key, "value": value.value, "origin": value.origin}, lambda: app.console.line(str(value.value))
    )


def set_setting(
    ctx: typer.Context,
    key: Key,
    value: Annotated[str, typer.Argument(metavar="VALUE", help="Its value.", show_default=False)],
    user: User = False,
    project: OfProject = False,
) -> None:
    """Write a setting to the project's file, or with --user to your own; all else in the file stays."""
    from astro_cli.domain.settings import find_spec, value_from
    from astro_cli.domain.settings_file import change_file, with_setting

    app = obj(ctx)
    spec = find_spec(key)
    path, name = _file(app, spec, user=user, project=project)
    _check_text(key, value)
    given = value_from(spec, value, name=key)
    change_file(path, lambda text: with_setting(text, key, given, name=name), private=user)
    if not user and has_password(value):
        app.console.warn(f"{name} is in git, and so is now a password; `--user` keeps it to yourself")
    _done(app, key, given, name)


def unset(ctx: typer.Context, key: Key, user: User = False, project: OfProject = False) -> None:
    """Take a setting out of the project's file, or with --user out of your own; all else in the file stays."""
    from astro_cli.domain.settings import find_spec
    from astro_cli.domain.settings_file import change_file, without_setting

    app = obj(ctx)
    path, name = _file(app, find_spec(key), user=user, project=project, writing=False)
    change_file(path, lambda text: without_setting(text, key, name=name), private=user)
    _done(app, key, None, name)


def _values(app: App, *, user: bool, project: bool) -> dict[str, Value]:
    """Every setting as it holds here, or what one file sets."""
    from astro_cli.domain.settings import SETTINGS, project_values, user_values

    _check_scope(user=user, project=project)
    if user:
        return user_values()
    if project:
        return project_values(app.project.root)
    return {spec.key: app.settings.origin_of(spec.key) for spec in SETTINGS}


def _check_scope(*, user: bool, project: bool) -> None:
    from astro_cli.foundation.errors import UsageError

    if user and project:
        raise UsageError("--user and --project exclude each other", hint="give one of them")


def _file(
    app: App, spec: SettingSpec, *, user: bool, project: bool, writing: bool = True
) -> tuple[Path, str]:
    """The file to change, and what messages call it."""
    from astro_cli.domain.project import locate
    from astro_cli.domain.settings import PROJECT_FILE
    from astro_cli.foundation.errors import UsageError
    from astro_cli.foundation.paths import user_config_file

    _check_scope(user=user, project=project)
    if user:
        return user_config_file(), str(user_config_file())
    if spec.user_only and writing:
        raise UsageError(f"{spec.key} is not for a project to say", hint="add `--user`")
    root = locate(app.start_dir)
    if root is None:
        raise UsageError(
            f"{app.start_dir} is not inside an astro project", hint="add `--user` for all of your projects"
        )
    return root / PROJECT_FILE, str(PROJECT_FILE)


def _check_text(key: str, value: str) -> None:
    from astro_cli.foundation.errors import UsageError

    if not value or not value.isprintable() or len(value) > MAX_LENGTH:
        raise UsageError(
            f"{key} must be one line of text, at most {MAX_LENGTH} characters",
            hint=f"`astro config unset {key}` takes it out" if not value else None,
        )


def _done(app: App, key: str, value: str | int | None, name: str) -> None:
    """Say what was written, and what wins over it all the same."""
    from astro_cli.domain.settings import find_spec

    holds = app.settings.origin_of(key)  # read from the changed files
    if holds.origin == find_spec(key).variable:
        app.console.warn(f"{holds.origin} in the environment wins over it")
    elif value is not None and holds.origin.rpartition(":")[0] != name:
        app.console.warn(f"{holds.origin} wins over it")
    word = "set" if value is not None else "not set"
    app.console.result(
        {"key": key, "value": value, "file": name, "origin": holds.origin},
        lambda: app.console.line(f"{key} is {word} in {name}"),
    )


def _shown(value: Value, *, secrets: bool) -> str:
    if value.value is None:
        return "-"
    text = str(value.value)
    return text if secrets else without_password(text)


def _plain(value: Value, shown: str) -> str | int | None:
    return shown if isinstance(value.value, str) else value.value
