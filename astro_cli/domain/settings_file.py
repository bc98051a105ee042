"""One setting in the text of a configuration file: set or taken out, and every other character stays.

The YAML library says where each value stands; a change is a splice there. Whatever comes out is read again, and
only a text that differs in that one setting counts: what is written in an unknown way is refused, not damaged.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from astro_cli.foundation import yamlfile
from astro_cli.foundation.errors import ProjectError
from astro_cli.foundation.paths import write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import TypeAlias

_Untyped: TypeAlias = "Any"  # the library's nodes
_PLAIN = re.compile(r"[A-Za-z/_][\w./:@+=-]*", re.ASCII)


def with_setting(text: str, key: str, value: str | int, *, name: str) -> str:
    """The text of a configuration file in which `key`, such as `sandbox.port`, has this value.

    Raises:
        ProjectError: the text is not valid, or is written so that nothing can be put there.
    """
    section, _, word = key.partition(".")
    wanted = _data(text, name)
    entries = wanted.setdefault(section, {}) if wanted.get(section) is not None else {}
    if not isinstance(entries, dict):
        raise _refusal(key, name)
    wanted[section] = {**entries, word: value}
    return _checked(_set(text, section, word, _scalar(value)), wanted, key, name)


def without_setting(text: str, key: str, *, name: str) -> str:
    """The text of a configuration file in which `key` is not set; the very same text if it is not set there.

    Raises:
        ProjectError: the text is not valid, or is written so that it cannot be taken out.
    """
    section, _, word = key.partition(".")
    wanted = _data(text, name)
    entries = wanted.get(section)
    if not isinstance(entries, dict) or word not in entries:
        return text
    wanted[section] = {other: value for other, value in entries.items() if other != word}
    return _checked(_unset(text, section, word), wanted, key, name)


def change_file(path: Path, change: Callable[[str], str], *, private: bool) -> None:
    """Change the text of a configuration file, whole or not at all; one that is not there is empty.

    Args:
        private: it is for this user's eyes only, whatever it was; else its mode stays.

    Raises:
        ProjectError: it cannot be read, or `change` refuses.
    """
    there = path.exists()
    before = yamlfile.read_text(path, name=path.name) if there else ""
    after = change(before)
    if after != before:
        write_atomic(path.resolve(), after, mode=0o600 if private else path.stat().st_mode & 0o777)


def _data(text: str, name: str) -> dict[str, Any]:
    return {key: node.plain() for key, node in yamlfile.parse(text, name=name).entries().items()}


def _checked(text: str, wanted: dict[str, Any], key: str, name: str) -> str:
    """The changed text, if reading it gives just what is wanted."""
    try:
        found = _data(text, name)
    except ProjectError as exc:
        raise _refusal(key, name) from exc
    if _without_empty(found) != _without_empty(wanted):
        raise _refusal(key, name)
    return text


def _without_empty(data: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if value not in (None, {})}


def _refusal(key: str, name: str) -> ProjectError:
    return ProjectError(
        f"{name} is not written as a program can change it without touching the rest",
        hint=f"change {key} with an editor",
    )


def _scalar(value: str | int) -> str:
    """YAML of one value on one line: plain where that reads back as the same text, else in double quotes."""
    text = str(value)
    if isinstance(value, int):
        return text
    if _PLAIN.fullmatch(text) and not text.endswith(":") and yamlfile.parse(text, name="").plain() == text:
        return text
    return json.dumps(text, ensure_ascii=False)


def _set(text: str, section: str, word: str, scalar: str) -> str:
    root = _compose(text)
    found = _entry(root, section)
    if found is None:
        gap = "" if not text or text.endswith("\n") else "\n"
        return f"{text}{gap}{section}:\n  {word}: {scalar}\n"
    key, block = found
    entry = _entry(block, word)
    if entry is not None:
        begin, end = entry[1].start_mark.index, entry[1].end_mark.index
        # nothing stands after the colon: the marks are at the colon's end
        return f"{text[:begin]}{' ' if text[begin - 1 : begin] == ':' else ''}{scalar}{text[end:]}"
    if _is_mapping(block) and block.flow_style:
        gap = ", " if block.value else ""
        end = block.value[-1][1].end_mark.index if block.value else block.start_mark.index + 1
        return f"{text[:end]}{gap}{word}: {scalar}{text[end:]}"
    indent, end = key.start_mark.column + 2, key.end_mark.index
    if _is_mapping(block):
        indent, end = block.value[0][0].start_mark.column, block.value[-1][1].end_mark.index
    end = _line_end(text, end)
    gap = "" if text[:end].endswith("\n") else "\n"
    return f"{text[:end]}{gap}{' ' * indent}{word}: {scalar}\n{text[end:]}"


def _unset(text: str, section: str, word: str) -> str:
    found = _entry(_compose(text), section)
    entry = _entry(found[1], word) if found else None
    if found is None or entry is None:  # it came by `<<`
        return text
    key, block = found
    if block.flow_style:
        place = [child[0] for child in block.value].index(entry[0])
        begin, end = entry[0].start_mark.index, entry[1].end_mark.index
        if place + 1 < len(block.value):
            end = block.value[place + 1][0].start_mark.index
        elif place:
            begin = block.value[place - 1][1].end_mark.index
        return text[:begin] + text[end:]
    begin, end = _line_begin(text, entry[0].start_mark.index), _line_end(text, entry[1].end_mark.index)
    heading = text[_line_begin(text, key.start_mark.index) : begin]
    if (
        len(block.value) == 1 and heading.strip() == f"{section}:"
    ):  # no comment either: the section goes as well
        begin = _line_begin(text, key.start_mark.index)
    return text[:begin] + text[end:]


def _compose(text: str) -> _Untyped:
    """The library's own tree, which knows where each value stands; `text` has been read within bounds before."""
    import yaml

    return yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _entry(node: _Untyped, name: str) -> tuple[_Untyped, _Untyped] | None:
    if not _is_mapping(node):
        return None
    return next(((key, child) for key, child in node.value if key.value == name), None)


def _is_mapping(node: _Untyped) -> bool:
    return node is not None and node.id == "mapping"


def _line_begin(text: str, index: int) -> int:
    return text.rfind("\n", 0, index) + 1


def _line_end(text: str, index: int) -> int:
    """The index after the line end at or behind `index`, which may stand at the begin of the next line already."""
    if index and text[index - 1 : index] == "\n":
        return index
    end = text.find("\n", index)
    return len(text) if end < 0 else end + 1
