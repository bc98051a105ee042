"""Deployments in the text of `.astro/config.yaml`: one is added, removed or changed, and all other lines stay."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from astro_cli.domain.settings import PROJECT_FILE
from astro_cli.foundation.errors import ProjectError

if TYPE_CHECKING:
    from collections.abc import Mapping


def _yaml_text(name: str, fields: Mapping[str, Any]) -> str:
    """The lines that declare one deployment, indented as they stand below `deployments:`."""
    import yaml

    text = yaml.safe_dump({name: dict(fields)}, sort_keys=False, allow_unicode=True, default_flow_style=False)
    return "".join(f"  {line}\n" for line in text.splitlines())


def with_deployment(text: str, name: str, fields: Mapping[str, Any]) -> str:
    """The text of a configuration file with one more deployment; every other character stays as it is.

    Raises:
        ProjectError: the section is written on one line (`{…}`), where nothing can be added.
    """
    added = _yaml_text(name, fields)
    lines = text.splitlines(keepends=True)
    at = next((i for i, line in enumerate(lines) if re.match(r"deployments\s*:", line)), None)
    if at is None:
        gap = "" if not text or text.endswith("\n") else "\n"
        return f"{text}{gap}deployments:\n{added}"
    rest = lines[at].split(":", 1)[1].split("#", 1)[0].strip()
    if rest not in ("", "{}", "~", "null"):
        raise ProjectError(
            f"{PROJECT_FILE}:{at + 1}: deployments is written on one line, so none can be added",
            hint="write each deployment on lines of its own below `deployments:`",
        )
    if rest:
        lines[at] = lines[at].replace(rest, "", 1).replace(": ", ":", 1)
    end = _block_end(lines, at + 1, indent=0)
    indent = next((len(line) - len(line.lstrip()) for line in lines[at + 1 : end] if _is_content(line)), 2)
    if indent != 2:
        added = "".join(
            f"{' ' * (indent - 2)}{line}" if indent > 2 else line for line in added.splitlines(True)
        )
    if end and not lines[end - 1].endswith("\n"):
        lines[end - 1] += "\n"
    return "".join([*lines[:end], added, *lines[end:]])


def without_deployment(text: str, name: str) -> str:
    """The text of a configuration file without the deployment `name`; every other line stays as it is."""
    lines = text.splitlines(keepends=True)
    at, begin, end = _find(lines, name)
    left = [*lines[:begin], *lines[end:]]
    if not any(_is_content(line) for line in left[at + 1 : _block_end(left, at + 1, indent=0)]):
        del left[at]
    return "".join(left)


def with_fields(text: str, name: str, fields: Mapping[str, Any]) -> str:
    """The text of a configuration file with other values of a deployment's fields; an empty one goes.

    Comments inside of a field that changes go with its old lines.
    """
    import yaml

    lines = text.splitlines(keepends=True)
    _, begin, end = _find(lines, name)
    inside = next((line for line in lines[begin + 1 : end] if _is_content(line)), "    ")
    indent = len(inside) - len(inside.lstrip())
    for field, value in fields.items():
        key = re.compile(rf" {{{indent}}}{field}\s*:")
        at = next((i for i in range(begin + 1, end) if key.match(lines[i])), end)
        after = at if at == end else _block_end(lines, at + 1, indent=indent, items=True)
        dumped = yaml.safe_dump({field: value}, sort_keys=False, allow_unicode=True, default_flow_style=False)
        new = [f"{' ' * indent}{line}\n" for line in dumped.splitlines()] if value else []
        if new and at and not lines[at - 1].endswith("\n"):
            lines[at - 1] += "\n"
        lines[at:after] = new
        end += len(new) - (after - at)
    return "".join(lines)


def _find(lines: list[str], name: str) -> tuple[int, int, int]:
    """Where the section begins, and where the lines of a deployment begin and end."""
    at = next((i for i, line in enumerate(lines) if re.match(r"deployments\s*:", line)), len(lines))
    key = re.compile(rf"(\s+)[\"']?{re.escape(name)}[\"']?\s*:")
    begin = next((i for i in range(at + 1, len(lines)) if key.match(lines[i])), None)
    match = key.match(lines[begin]) if begin is not None else None
    if begin is None or match is None:
        raise ProjectError(
            f"{PROJECT_FILE}: the lines of the deployment `{name}` cannot be found",
            hint="change them with an editor",
        )
    return at, begin, _block_end(lines, begin + 1, indent=len(match[1]))


def _block_end(lines: list[str], start: int, *, indent: int, items: bool = False) -> int:
    """The first line after a block: the next with content that is indented by `indent` or less.

    Args:
        items: whether the items of a list at just `indent` belong to it.
    """
    end = start
    for i in range(start, len(lines)):
        line = lines[i]
        if _is_content(line):
            depth = len(line) - len(line.lstrip())
            if depth < indent or (depth == indent and not (items and line.lstrip().startswith("- "))):
                break
            end = i + 1
    return end


def _is_content(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")
