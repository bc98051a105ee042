"""The tree of commands, the options all of them share, and the one place where errors become words."""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from astro_cli.app import App
from astro_cli.commands import (
    AIRFLOW_COMMANDS,
    AIRFLOW_GROUPS,
    ROOT_COMMANDS,
    ROOT_GROUPS,
    CommandSpec,
    GroupSpec,
)
from astro_cli.foundation.console import Console, standard_console
from astro_cli.foundation.errors import AstroError, Interrupted, ProjectError, UsageError

QUIET: dict[str, Any] = {"rich_markup_mode": None, "pretty_exceptions_enable": False}


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
        if values["project_dir"] is not None:  # still text: only a command's own options are converted
            app.project_dir = Path(values["project_dir"])
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
        ctx.obj.console.command = _command_name(ctx.command_path)
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
            ctx.obj.console.command = _command_name(ctx.command_path)
            known = {name: name for name in self.list_commands(ctx)}
            if ctx.parent is None:
                known = {spec.name: f"astro airflow {spec.name}" for spec in AIRFLOW_COMMANDS} | known
            from difflib import get_close_matches

            close = get_close_matches(args[0], known, n=1)
            raise UsageError(
                f"there is no command `{args[0]}` in `{ctx.command_path}`",
                hint=f"did you mean `{known[close[0]]}`?" if close else f"see `{ctx.command_path} --help`",
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

    arguments: tuple[str, ...] = ()

    def make_context(self, info_name: Any, args: Any, *rest: Any, **kwargs: Any) -> Any:
        self.arguments = tuple(args)
        app = kwargs.setdefault("obj", App(standard_console(os.environ), os.environ))
        with _boundary(app.console, self.arguments):
            return super().make_context(info_name, args, *rest, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _boundary(ctx.obj.console, self.arguments):
            result = super().invoke(ctx)
            _tell_of_updates(ctx.obj)
            return result


def _tell_of_updates(app: App) -> None:
    """A last line about a newer astro, for a person at a terminal who has said where to look for one."""
    if app.console.is_terminal and sys.stdout.isatty() and not app.console.json:
        from astro_cli.domain.updates import notice

        line = notice(app.environ, terminal=True)
        if line is not None:
            app.console.note(line)


@contextmanager
def _boundary(console: Console, arguments: tuple[str, ...]) -> Iterator[None]:
    """Every failure becomes words (or the JSON envelope) and an exit code here, and nowhere else."""
    try:
        yield
    except typer.Exit:
        raise
    except BrokenPipeError as exc:
        # The reader of our output went away (`astro … | head`): not worth a word. Python would complain
        # once more while it flushes stdout at exit, so give it somewhere to flush to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from exc
    except (Exception, KeyboardInterrupt, typer.Abort) as exc:
        if type(exc).__name__ == "NoArgsIsHelpError":  # no failure: the answer to `astro` alone is its help
            raise
        error = _explained(exc, console)
        if isinstance(error, UsageError):  # the parser may not have come as far as --json
            console.json |= "--json" in arguments
        console.error(error)
        raise typer.Exit(error.exit_code) from exc


def _explained(exc: BaseException, console: Console) -> AstroError:
    if isinstance(exc, AstroError):
        exc.hint = exc.hint or (_CORRECT if isinstance(exc, ProjectError) else _LOOK_CLOSER)
        return exc
    if isinstance(exc, (KeyboardInterrupt, typer.Abort)):
        return Interrupted("interrupted", hint="nothing was left half-done")
    if isinstance(exc, _PARSER_ERROR):
        return _usage_error(exc, console)
    if isinstance(exc, OSError) and (exc.filename or exc.errno in (errno.ENOSPC, errno.EDQUOT)):
        where = f"{os.fsdecode(exc.filename)}: " if isinstance(exc.filename, (str, bytes)) else ""
        return AstroError(
            f"{where}{exc.strerror}",
            hint=_SYSTEM_HINTS.get(exc.errno or 0, "see whether it is what it should be"),
        )
    return _bug(exc)


_PARSER_ERROR: Any = typer.BadParameter.__mro__[2]  # what all of the parser's complaints have in common
_CORRECT = "correct it, then run the same command again"
_LOOK_CLOSER = "run the same command with `--verbose` to see every line of it"
_DENIED = "see who owns it and whether it may be written to (`ls -ld`)"
_FULL = "the disk of this machine is full: free some space, then run the same command again"
_SYSTEM_HINTS = {
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EROFS: _DENIED,
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.ENAMETOOLONG: "choose a shorter name",
}


def _usage_error(exc: Any, console: Console) -> UsageError:
    """The parser's complaint in our words; it names the command it is about."""
    path = exc.ctx.command_path if getattr(exc, "ctx", None) else "astro"
    console.command = _command_name(path)
    close = sorted(getattr(exc, "possibilities", None) or ())
    text = " ".join((exc.message if close else exc.format_message()).split()).rstrip(".")
    return UsageError(
        text[:1].lower() + text[1:], hint=f"did you mean `{close[0]}`?" if close else f"see `{path} --help`"
    )


def _command_name(path: str) -> str:
    """`airflow start` for `astro airflow start` and for its alias `astro dev start`."""
    return path.removeprefix("astro").strip().replace("dev ", "airflow ", 1)


def _bug(exc: BaseException) -> AstroError:
    """The words for a failure nobody expected; the traceback goes to a file for the report."""
    import time
    import traceback

    from astro_cli.foundation.paths import log_dir, write_atomic

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
    for spec in AIRFLOW_GROUPS:
        group.add_typer(_group(spec), name=spec.name)
    root.add_typer(group, name="airflow")
    root.add_typer(group, name="dev", hidden=True)
    for spec in ROOT_GROUPS:
        root.add_typer(_group(spec), name=spec.name)
    return root


def _group(spec: GroupSpec) -> typer.Typer:
    """A group one level further down."""
    below = type(f"{spec.name.title()}Group", (AstroGroup,), {"specs": spec.commands})
    made = typer.Typer(cls=below, help=spec.summary, no_args_is_help=True, **QUIET)
    made.callback()(_nothing_of_its_own)
    for group in spec.groups:
        made.add_typer(_group(group), name=group.name)
    return made


def _nothing_of_its_own() -> None:
    """Groups have no options but the shared ones."""


def main() -> None:
    """Run the command line of this process."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what this terminal cannot show must not end a command
            stream.reconfigure(errors="backslashreplace")
    build_app()(prog_name="astro")
