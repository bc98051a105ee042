"""What an editor needs to attach to a task: where to connect, and which folder there is which here. Pure."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any
from xml.sax.saxutils import quoteattr

from astro_cli.foundation.errors import ProjectError

NAME = "Airflow task (astro)"
"""How the configuration is called in the editor; the one of this name is astro's."""

INDENT = " " * 8
VSCODE_FILE = PurePosixPath(".vscode/launch.json")
PYCHARM_FILE = PurePosixPath(".idea/runConfigurations/airflow_task_astro.xml")


def vscode_configuration(port: int, remote_root: str) -> dict[str, Any]:
    """One configuration of the Python Debugger extension.

    Args:
        port: of this machine's loopback.
        remote_root: the project's folder as the task sees it.
    """
    return {
        "name": NAME,
        "type": "debugpy",
        "request": "attach",
        "connect": {"host": "127.0.0.1", "port": port},
        "pathMappings": [{"localRoot": "${workspaceFolder}", "remoteRoot": remote_root}],
        "justMyCode": False,
    }


def merge_launch(text: str | None, port: int, remote_root: str) -> str:
    """`launch.json` with astro's configuration in it; all else, comments too, stays as it is.

    Args:
        text: the file's present content; None where there is none.

    Raises:
        ProjectError: the file cannot be understood; the details are what to put into it.
    """
    wanted = vscode_configuration(port, remote_root)
    if text is None or not text.strip():
        return json.dumps({"version": "0.2.0", "configurations": [wanted]}, indent=4) + "\n"
    plain = text
    try:
        plain = _plain(text)
        start, end, found = _place(plain)
    except (ValueError, KeyError, TypeError, IndexError) as exc:
        raise ProjectError(
            f"{VSCODE_FILE} is not understood, and was left as it is",
            hint='add this to its "configurations"',
            details=tuple(json.dumps(wanted, indent=4).splitlines()),
        ) from exc
    if found is not None:
        merged = {**found, "connect": wanted["connect"], "pathMappings": wanted["pathMappings"]}
        return text if merged == found else text[:start] + _indented(merged) + text[end:]
    comma = "" if plain[start:].lstrip().startswith("]") else ","
    return f"{text[:start]}\n{INDENT}{_indented(wanted)}{comma}{text[start:]}"


def _indented(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=4).replace("\n", f"\n{INDENT}")


def _plain(text: str) -> str:
    """JSON with comments and trailing commas as JSON without: the same length, they become spaces."""
    kept = list(text)
    position, comma = 0, None
    while position < len(text):
        char = text[position]
        if char == '"':
            position = json.decoder.scanstring(text, position + 1)[1]  # type: ignore[attr-defined]
            comma = None
            continue
        length = _comment(text, position)
        if length:
            kept[position : position + length] = [
                each if each in "\r\n" else " " for each in text[position : position + length]
            ]
        elif char == ",":
            comma = position
        elif char in "]}" and comma is not None:
            kept[comma] = " "
            comma = None
        elif not char.isspace():
            comma = None
        position += max(length, 1)
    return "".join(kept)


def _comment(text: str, position: int) -> int:
    """The length of the comment that begins there, or 0."""
    if text.startswith("//", position):
        end = text.find("\n", position)
        return (len(text) if end < 0 else end) - position
    if text.startswith("/*", position):
        return text.index("*/", position + 2) + 2 - position
    return 0


def _place(text: str) -> tuple[int, int, dict[str, Any] | None]:
    """Where astro's configuration stands, from and to, and what it is; or where a new one goes, and None."""
    json.loads(text)
    start = _value_of(text, "configurations")
    if text[start] != "[":
        raise TypeError("configurations is no list")
    decoder = json.JSONDecoder()
    position = _skip(text, start + 1)
    while text[position] != "]":
        found, end = decoder.raw_decode(text, position)
        if isinstance(found, dict) and found.get("name") == NAME:
            return position, end, found
        position = _skip(text, end)
        if text[position] == ",":
            position = _skip(text, position + 1)
    return start + 1, start + 1, None


def _value_of(text: str, wanted: str) -> int:
    """Where the value of a key of the outermost object begins; KeyError if it has none."""
    decoder = json.JSONDecoder()
    position = _skip(text, 0)
    if text[position] != "{":
        raise TypeError("no object")
    position = _skip(text, position + 1)
    while text[position] != "}":
        key, end = decoder.raw_decode(text, position)
        position = _skip(text, _skip(text, end) + 1)
        if key == wanted:
            return position
        position = _skip(text, decoder.raw_decode(text, position)[1])
        if text[position] == ",":
            position = _skip(text, position + 1)
    raise KeyError(wanted)


def _skip(text: str, position: int) -> int:
    while text[position].isspace():
        position += 1
    return position


def pycharm_configuration(port: int, remote_root: str) -> str:
    """A run configuration "Attach to DAP", which PyCharm has since 2025; the file is astro's alone."""
    options = {"remoteAddress": f"127.0.0.1:{port}", "localRoot": "$PROJECT_DIR$", "remoteRoot": remote_root}
    lines = [
        f"    <option name={quoteattr(name)} value={quoteattr(value)} />" for name, value in options.items()
    ]
    return "\n".join(
        (
            '<component name="ProjectRunConfigurationManager">',
            f'  <configuration default="false" name={quoteattr(NAME)} type="PythonDapAttachConfiguration">',
            *lines,
            '    <method v="2" />',
            "  </configuration>",
            "</component>",
            "",
        )
    )
