"""The commands, a file each: parse, one call, show the result."""

from __future__ import annotations

from typing import Any

from astro_cli.commands.bash import bash
from astro_cli.commands.build import build
from astro_cli.commands.init import init
from astro_cli.commands.kill import kill
from astro_cli.commands.list import list_sandboxes
from astro_cli.commands.logs import logs
from astro_cli.commands.poweroff import poweroff
from astro_cli.commands.ps import ps
from astro_cli.commands.restart import restart
from astro_cli.commands.run import run
from astro_cli.commands.start import start
from astro_cli.commands.stop import stop
from astro_cli.commands.version import version

PASS_THROUGH = {
    "context_settings": {"ignore_unknown_options": True, "allow_interspersed_args": False},
}

COMMANDS: tuple[tuple[str, Any, dict[str, Any]], ...] = (
    ("init", init, {}),
    ("start", start, {}),
    ("stop", stop, {}),
    ("restart", restart, {}),
    ("kill", kill, {}),
    ("ps", ps, {}),
    ("logs", logs, {}),
    ("bash", bash, {}),
    ("run", run, PASS_THROUGH),
    ("build", build, {}),
    ("list", list_sandboxes, {}),
    ("poweroff", poweroff, {}),
)
"""Commands of `astro airflow`: the word, the function, and options for the parser."""

TOP_LEVEL = ("init", "start", "stop", "logs")
"""Those that are also reachable directly below `astro`."""

ROOT_ONLY: tuple[tuple[str, Any], ...] = (("version", version),)
"""Commands of `astro` itself."""
