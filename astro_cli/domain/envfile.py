"""`.env` files: one documented parser, so that a line means the same wherever astro reads it.

The grammar is python-dotenv's (https://github.com/theskumar/python-dotenv): `KEY=value`, optional `export`,
single or double quotes (which may span lines), `#` comments; of two lines with the same key the last wins.
Where that library guesses or stays silent, this module is strict:

- A line it cannot parse is an error, not skipped.
- `${NAME}` and `${NAME:-default}` are replaced in unquoted and double-quoted values, from the lines above,
  then from the host's environment; a `${NAME}` set nowhere is an error, not an empty text. `$NAME` stays.
- A single-quoted value is taken as it is, as in a shell and in Docker Compose.
- A name alone on its line takes the host's value, and is left out if the host has none, as in Docker's
  `--env-file`.
"""

from __future__ import annotations

import io
import re
from collections import ChainMap
from typing import TYPE_CHECKING

from astro_cli.foundation.errors import ProjectError
from astro_cli.foundation.yamlfile import read_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*", re.ASCII)


def load_env(path: Path, host: Mapping[str, str], *, name: str | None = None) -> dict[str, str]:
    """Read one `.env` file.

    Args:
        path: the file.
        host: the environment that `${NAME}` and names without a value are looked up in.
        name: what messages call the file (default: the path as given).

    Returns:
        names and values in the order of the file.

    Raises:
        ProjectError: missing, unreadable, not UTF-8, or a line that is not valid, with its number.
    """
    name = name or str(path)
    hint = "create it, or name another file with `--env FILE`"
    return parse_env(read_text(path, name=name, hint=hint), host, name=name)


def parse_env(text: str, host: Mapping[str, str], *, name: str) -> dict[str, str]:
    """The same for a text; see `load_env`."""
    from dotenv.parser import parse_stream

    values: dict[str, str] = {}
    known = ChainMap(values, dict(host))  # the lines above, then the host
    for binding in parse_stream(io.StringIO(text, newline="")):
        written = binding.original.string
        # The parser counts from the blank lines above a statement; the reader of a message does not.
        blank = written[: len(written) - len(written.lstrip())]
        line = binding.original.line + len(re.findall(r"\r\n|\n|\r", blank))
        if binding.error:
            raise ProjectError(
                f"{name}:{line}: not a valid line",
                hint='write NAME=value, with quotes around a value with spaces or line ends: NAME="a value"',
            )
        if binding.key is None:
            continue
        key = binding.key
        if not _NAME.fullmatch(key):
            raise ProjectError(
                f"{name}:{line}: not a name for an environment variable",
                hint="a name has letters, digits and _ and does not start with a digit",
            )
        if binding.value is None:
            if key in host:
                values[key] = host[key]
        elif written.partition("=")[2].lstrip().startswith("'"):
            values[key] = binding.value
        else:
            values[key] = _expand(binding.value, known, f"{name}:{line}")
        if "\0" in values.get(key, ""):
            raise ProjectError(f"{name}:{line}: the value of {key} contains a NUL character")
    return values


def _expand(value: str, known: Mapping[str, str], where: str) -> str:
    """`value` with `${NAME}` and `${NAME:-default}` replaced."""
    if "${" not in value:
        return value
    from dotenv.variables import Variable, parse_variables

    parts = []
    for atom in parse_variables(value):
        if isinstance(atom, Variable) and atom.default is None and atom.name not in known:
            raise ProjectError(
                f"{where}: ${{{atom.name}}} is not set",
                hint=f"set it above or in your shell, write ${{{atom.name}:-}} for an empty default, "
                "or put the value in single quotes to keep it as it is",
            )
        parts.append(atom.resolve(known))
    return "".join(parts)
