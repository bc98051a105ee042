"""The tree of commands, the options all of them share, and the one place where errors become words."""

from __future__ import annotations

import importlib
import os
import sys
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from astro_cli.app import App
from astro_cli.commands import AIRFLOW_COMMANDS, ROOT_COMMANDS, CommandSpec
from astro_cli.console import standard_console
from astro_cli.errors import AstroError, Interrupted, UsageError

QUIET: dict[str, Any] = {"rich_markup_mode": None, "pretty_exceptions_enable": False}
INTERNAL_ERROR = 1


def _shared(
    project_dir: Annotated[
        Path | None,
        typer.Option("--project-dir", "-C", help="Work on the project in this folder.", show_default=False),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show every line of slow steps.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Answer every question with yes.")] = False,
    no_input: Annotated[bool, typer.Option("--no-input", help="Never ask; fail instead.")] = False,
) -> None:
    """Options that every command and group accepts."""


@cache
def _shared_params() -> tuple[Any, ...]:
    template = typer.Typer(**QUIET, add_completion=False)
    template.command()(_shared)
    return tuple(get_command(template).params)


class _SharedOptions:
    """Adds the shared options to a command or group and hands their values to `App`."""

    params: list[Any]

    def add_shared_options(self) -> None:
        names = {name for param in self.params for name in param.opts}
        self.params.extend(param for param in _shared_params() if not names.intersection(param.opts))

    def take_shared_options(self, ctx: typer.Context) -> None:
        app: App = ctx.find_root().obj
        values = {param.name: ctx.params.pop(param.name, None) for param in _shared_params()}
        app.project_dir = values["project_dir"] or app.project_dir
        app.console.json |= bool(values["json"])
        app.console.verbose |= bool(values["verbose"])
        app.assume_yes |= bool(values["yes"])
        app.no_input |= bool(values["no_input"])


class AstroCommand(_SharedOptions, TyperCommand):
    """A command that accepts the shared options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_shared_options()

    def invoke(self, ctx: Any) -> Any:
        self.take_shared_options(ctx)
        ctx.obj.console.command = ctx.command_path.removeprefix("astro ").replace("dev ", "airflow ", 1)
        return super().invoke(ctx)


class AstroGroup(_SharedOptions, TyperGroup):
    """A group that accepts the shared options, and imports a command only when it is the one to run."""

    specs: tuple[CommandSpec, ...] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_shared_options()

    def invoke(self, ctx: Any) -> Any:
        self.take_shared_options(ctx)
        return super().invoke(ctx)

    def list_commands(self, ctx: Any) -> list[str]:
        return [*(spec.name for spec in self.specs), *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        spec = next((spec for spec in self.specs if spec.name == cmd_name), None)
        return _load(spec) if spec else super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            close = get_close_matches(args[0], self.list_commands(ctx), n=1)
            raise UsageError(
                f"there is no command `{args[0]}` in `{ctx.command_path}`",
                hint=f"did you mean `{close[0]}`?" if close else f"see `{ctx.command_path} --help`",
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - the parser's signature
        rows = [(spec.name, spec.summary) for spec in self.specs]
        rows += [(name, command.help or "") for name, command in self.commands.items() if not command.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class AirflowGroup(AstroGroup):
    """`astro airflow`."""

    specs = AIRFLOW_COMMANDS


class RootGroup(AstroGroup):
    """`astro` itself: makes the `App`, and turns every failure into words and an exit code."""

    specs = ROOT_COMMANDS

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        kwargs.setdefault("obj", App(standard_console(os.environ), os.environ))
        return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        console = ctx.obj.console
        try:
            return super().invoke(ctx)
        except AstroError as exc:
            console.error(exc)
            raise typer.Exit(exc.exit_code) from exc
        except KeyboardInterrupt as exc:
            console.error(Interrupted("interrupted"))
            raise typer.Exit(Interrupted.exit_code) from exc
        except BrokenPipeError as exc:
            # The reader of our output went away (`astro … | head`): not worth a word. Python would complain
            # once more while it flushes stdout at exit, so give it somewhere to flush to.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from exc
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except Exception as exc:
            if type(exc).__module__.startswith("typer."):
                raise
            console.error(_bug(exc))
            raise typer.Exit(INTERNAL_ERROR) from exc


def _bug(exc: Exception) -> AstroError:
    """The words for a failure nobody expected; the traceback goes to a file for the report."""
    import time
    import traceback

    from astro_cli.paths import log_dir, write_atomic

    path = log_dir() / f"bug-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    try:
        write_atomic(path, f"astro {' '.join(sys.argv[1:])}\n\n{traceback.format_exc()}")
        hint = f"please report it with the file {path}"
    except OSError:
        hint = "please report it with the lines above"
        traceback.print_exc()
    return AstroError(f"this is a bug in astro: {type(exc).__name__}: {exc}", hint=hint)


def _load(spec: CommandSpec) -> Any:
    """Import a command's function and make a parser of its signature."""
    single = typer.Typer(**QUIET, add_completion=False)
    function = getattr(importlib.import_module(spec.module), spec.function)
    single.command(spec.name, cls=AstroCommand, context_settings=dict(spec.settings))(function)
    return get_command(single)


def build_app() -> typer.Typer:
    """The whole tree: `astro airflow …`, its alias `astro dev …`, and the everyday commands at the top."""
    root = typer.Typer(
        name="astro",
        cls=RootGroup,
        help="Run a real Apache Airflow for the project in this folder.",
        no_args_is_help=True,
        **QUIET,
    )
    group = typer.Typer(
        cls=AirflowGroup, help="The sandbox: a local Airflow for this project.", no_args_is_help=True, **QUIET
    )
    for each in (root, group):
        each.callback()(_nothing_of_its_own)
    root.add_typer(group, name="airflow")
    root.add_typer(group, name="dev", hidden=True)
    return root


def _nothing_of_its_own() -> None:
    """Groups have no options but the shared ones."""


def main() -> None:
    """The entry point `astro`."""
    build_app()(prog_name="astro")
