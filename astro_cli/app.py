"""`App`: what every command is handed. Made once a run; opens things only when asked for."""

from __future__ import annotations

import os
import sys
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from astro_cli.foundation.errors import EngineError, Interrupted, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from astro_cli.domain.project import Project
    from astro_cli.domain.settings import Settings
    from astro_cli.foundation.console import Console
    from astro_cli.runtime.docker import DockerEngine
    from astro_cli.runtime.engine import Engine
    from astro_cli.workflows.sandbox import Sandbox


class App:
    """The global options of this run, and the way to what they lead to.

    Attributes:
        environ: this process's environment.
        project_dir: folder given with `-C`, or None for the present one.
        assume_yes: answer every question with yes.
        no_input: never ask; a question without an answer is an error.
    """

    def __init__(self, console: Console, environ: Mapping[str, str]) -> None:
        self.console = console
        self.environ = environ
        self.project_dir: Path | None = None
        self.assume_yes = False
        self.no_input = False

    @property
    def start_dir(self) -> Path:
        """The folder from which the project is searched upwards."""
        try:
            folder = (self.project_dir or Path.cwd()).absolute()
        except FileNotFoundError as exc:
            raise UsageError(
                "the folder you are in no longer exists", hint="go to another one (`cd`)"
            ) from exc
        if not folder.is_dir():
            what = "is not a folder" if folder.exists() else "does not exist"
            raise UsageError(f"{folder} {what}", hint="give an existing folder with -C")
        return folder

    @cached_property
    def project(self) -> Project:
        """The project in or above the start folder."""
        from astro_cli.domain.project import find_project

        return find_project(self.start_dir)

    @cached_property
    def settings(self) -> Settings:
        """Settings as they hold in the project, if there is one, else on this machine."""
        from astro_cli.domain.project import locate
        from astro_cli.domain.settings import load_settings

        root = locate(self.start_dir)
        return load_settings(self.environ, project_root=root)

    @cached_property
    def engine(self) -> Engine:
        """What runs the project's sandbox: as asked for, or as it was last started, or what is there.

        In this order: `--engine`, `ASTRO_ENGINE`, the setting, the engine of the last start, Docker if one answers.
        """
        from astro_cli.domain.project import locate
        from astro_cli.domain.state import SandboxState

        root = locate(self.start_dir)
        chosen = self.settings.text("sandbox.engine")
        if self.settings.text("sandbox.database_url"):
            if chosen == "docker":
                raise UsageError(
                    "a database of your own needs the standalone engine",
                    hint="add `--engine standalone`, or leave the database's address out",
                )
            chosen = "standalone"
        if chosen is None and root is not None:
            state = SandboxState(root)
            chosen = state.get("engine") if state.known_id else None
        if chosen is not None:
            return self._engine_named(chosen)
        docker = self._engine_named("docker")
        try:
            docker.check()
        except EngineError as exc:
            self.console.note(
                f"No Docker engine ({exc.message}): the sandbox runs as local processes. DAGs find the project in "
                "its own folder, not in /opt/airflow. `--engine` chooses."
            )
            return self._engine_named("standalone")
        return docker

    def _engine_named(self, name: str) -> Engine:
        if name == "standalone":
            from astro_cli.runtime.standalone import StandaloneEngine

            return StandaloneEngine(self.environ, lambda: self.settings)
        from astro_cli.runtime.docker import DockerEngine

        return DockerEngine(self.environ, lambda: self.settings)

    @cached_property
    def docker(self) -> DockerEngine:
        """This machine's Docker engine, which builds what is deployed.

        Raises:
            EngineError: none answers.
        """
        from astro_cli.runtime.docker import DockerEngine

        engine = DockerEngine(self.environ, lambda: self.settings)
        engine.check()
        return engine

    def engines(self) -> tuple[Engine, ...]:
        """Every engine that answers here; one that should but does not is warned of."""
        found = []
        for name in ("docker", "standalone"):
            engine = self._engine_named(name)
            try:
                engine.check()
            except EngineError as exc:
                if name == "docker":
                    self.console.warn(f"sandboxes in Docker are left out: {exc.message}")
                continue
            found.append(engine)
        return tuple(found)

    def override(self, key: str, value: str | None, flag: str) -> None:
        """Let a flag's value, if one was given, win over every other place of a setting."""
        if value is not None:
            self.settings = self.settings.with_value(key, value, flag)

    @property
    def sandbox(self) -> Sandbox:
        """The sandbox of the project."""
        from astro_cli.workflows.sandbox import Sandbox

        return Sandbox(self.project, self.engine, self.settings, self.environ, every_engine=self.engines)

    def confirm(self, question: str) -> bool:
        """Ask a yes/no question on the terminal.

        Raises:
            UsageError: nobody can be asked; the hint names the flag that answers.
        """
        if self.assume_yes:
            return True
        if self.no_input or not sys.stdin.isatty():
            raise UsageError(f"nobody is here to answer: {question}", hint="add `--yes` to say yes")
        import typer

        try:
            return typer.confirm(question, default=False, err=True)
        except typer.Abort as exc:
            raise Interrupted("interrupted at the question", hint="nothing was changed") from exc

    def confirm_name(self, name: str) -> bool:
        """Ask for the name of what will be lost; True if it was typed.

        Raises:
            UsageError: nobody can be asked.
        """
        if self.assume_yes:
            return True
        if self.no_input or not sys.stdin.isatty():
            raise UsageError(f"nobody is here to type the name {name}", hint="add `--yes` to say yes")
        import typer

        try:
            return bool(
                typer.prompt(f"Type {name} to remove it", default="", show_default=False, err=True) == name
            )
        except typer.Abort as exc:
            raise Interrupted("interrupted at the question", hint="nothing was changed") from exc


def has_display(environ: Mapping[str, str]) -> bool:
    """Whether a browser window can open here."""
    return sys.platform == "darwin" or bool(
        environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY") or os.name == "nt"
    )
