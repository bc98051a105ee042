"""YAML files people write, read strictly: every complaint names the file, the line and the likely fix.

Plain loaders give data without lines, last-one-wins duplicate keys, and YAML 1.1's guesses (`no` is false,
`22:30` is 1350). Here a file becomes a tree of `Node`s, each with its line; duplicate keys are errors, and
the types are those of YAML 1.2's core schema (https://yaml.org/spec/1.2.2/#103-core-schema): only
`true`/`false`, `null`/`~`, and ordinary numbers are not text.

    root = load(project / ".astro" / "config.yaml", name=".astro/config.yaml").mapping(required=("project",))
    project = root["project"].mapping(required=("id", "name"), optional=("port",))
    project_id = project["id"].string()
    port = project["port"].integer(1, 65535) if "port" in project else None

Importing this module is cheap (no YAML library): `ps` and `--help` pass through here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeAlias

from astro_cli.foundation.errors import ProjectError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MAX_BYTES = 1024 * 1024
MAX_NODES = 100_000  # counted after aliases are expanded, so an alias bomb ends here
MAX_DEPTH = 50
_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"

Scalar: TypeAlias = "bool | int | float | str | None"
Plain: TypeAlias = "Scalar | list[Plain] | dict[str, Plain]"
_Untyped: TypeAlias = Any  # the library's stubs do not type parser events

_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]{1,100}|0o[0-7]{1,100}|0x[0-9a-fA-F]{1,100}", re.ASCII)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", re.ASCII)
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")

_STR_TAG = "tag:yaml.org,2002:str"
_KNOWN_TAGS = {None, "!", *(f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq"))}


class Node:
    """One value of a YAML file and where it stands.

    Attributes:
        value: the scalar, a list of nodes, or a dict from key (as written) to node.
        text: a scalar as it is written, without quotes; `""` for lists and mappings.
        line: 1-based line of the value.
        path: how messages call it, such as `airflow.connections[0]`; empty for the whole file.
        size: number of values in it, itself included, aliases expanded.
        height: number of levels in it, itself included.
    """

    __slots__ = ("file", "height", "line", "path", "size", "text", "value")

    def __init__(
        self,
        value: Scalar | list[Node] | dict[str, Node],
        *,
        file: str,
        line: int,
        path: str = "",
        text: str = "",
    ) -> None:
        self.value = value
        self.file = file
        self.line = line
        self.path = path
        self.text = text
        children: Iterable[Node] = ()
        if isinstance(value, dict):
            children = value.values()
        elif isinstance(value, list):
            children = value
        self.size: int = 1 + sum(child.size for child in children)
        self.height: int = 1 + max((child.height for child in children), default=0)

    @property
    def is_null(self) -> bool:
        """True for `key:` with nothing after it, `~` and `null`."""
        return self.value is None

    def plain(self) -> Plain:
        """The value as ordinary Python data, ready for `json.dumps`."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def error(self, message: str, *, hint: str | None = None) -> ProjectError:
        """An error to raise about this value; the file and line are put in front of `message`."""
        return ProjectError(f"{self.file}:{self.line}: {message}", hint=hint)

    def mapping(self, *, required: Iterable[str] = (), optional: Iterable[str] = ()) -> dict[str, Node]:
        """The entries of a mapping with a fixed set of keys. An empty value counts as an empty mapping.

        Optional keys with nothing after them are left out, so `if "port" in entries` means "is set".

        Raises:
            ProjectError: not a mapping, an unknown key (with the nearest known one), or a required key
                that is missing or has no value.
        """
        required, known = tuple(required), (*required, *optional)
        entries = self.entries()
        for key, child in entries.items():
            if key not in known:
                raise child.error(f'unknown key "{key}"{self._where()}', hint=_hint(key, known))
        for key in required:
            if key not in entries:
                raise self.error(f'missing key "{key}"{self._where()}')
            if entries[key].is_null:
                raise entries[key].error(f"{entries[key].path} needs a value")
        return {key: child for key, child in entries.items() if not child.is_null}

    def entries(self) -> dict[str, Node]:
        """The entries of a mapping whose keys are free. An empty value counts as an empty mapping."""
        if self.value is None:
            return {}
        if not isinstance(self.value, dict):
            raise self._wrong_type("a mapping (`key: value` lines)")
        return self.value

    def items(self) -> list[Node]:
        """The items of a list. An empty value counts as an empty list."""
        if self.value is None:
            return []
        if not isinstance(self.value, list):
            raise self._wrong_type("a list (lines that start with `- `)")
        return self.value

    def string(self) -> str:
        """The text as written: `0123`, `1.10` and `no` keep every character, quoted or not."""
        if self.value is None or isinstance(self.value, (list, dict)):
            raise self._wrong_type("text")
        return self.text

    def integer(self, minimum: int | None = None, maximum: int | None = None) -> int:
        """A whole number within the bounds, both inclusive."""
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            raise self._wrong_type("a whole number")
        if minimum is not None and self.value < minimum:
            raise self.error(f"{self._name()} must be at least {minimum}, not {self.value}")
        if maximum is not None and self.value > maximum:
            raise self.error(f"{self._name()} must be at most {maximum}, not {self.value}")
        return self.value

    def boolean(self) -> bool:
        """`true` or `false`."""
        if not isinstance(self.value, bool):
            raise self._wrong_type("true or false")
        return self.value

    def choice(self, *allowed: str) -> str:
        """One of the words in `allowed`."""
        text = self.string()
        if text not in allowed:
            raise self.error(f"{self._name()} must be one of {', '.join(allowed)}", hint=_hint(text, allowed))
        return text

    def _name(self) -> str:
        return self.path or "the file"

    def _where(self) -> str:
        return f" in {self.path}" if self.path else ""

    def _wrong_type(self, wanted: str) -> ProjectError:
        # The value itself is not shown: it may be a password in the wrong place.
        kinds = {dict: "a mapping", list: "a list", bool: "true or false", type(None): "empty", str: "text"}
        return self.error(
            f"{self._name()} must be {wanted}, but is {kinds.get(type(self.value), 'a number')}"
        )


def load(path: Path, *, name: str | None = None, hint: str | None = None) -> Node:
    """Read one YAML file.

    Args:
        path: the file.
        name: what messages call it (default: the path as given).
        hint: the way out to show when the file is missing.

    Raises:
        ProjectError: unreadable, larger than `MAX_BYTES`, not UTF-8, or not valid YAML.
    """
    name = name or str(path)
    return parse(read_text(path, name=name, hint=hint), name=name)


def read_text(path: Path, *, name: str, hint: str | None = None) -> str:
    """The text of a small UTF-8 file, a byte order mark dropped; line ends stay as they are.

    Raises:
        ProjectError: missing (with `hint`), unreadable, larger than `MAX_BYTES`, not UTF-8, or with NULs.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError as exc:
        raise ProjectError(f"{name} does not exist", hint=hint) from exc
    except (OSError, ValueError) as exc:
        raise ProjectError(f"cannot read {name}: {getattr(exc, 'strerror', None) or exc}") from exc
    if len(data) > MAX_BYTES:
        raise ProjectError(f"{name} is larger than {MAX_BYTES // 1024} KiB", hint="is this the right file?")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise ProjectError(f"{name}:{line}: not valid UTF-8", hint="save the file as UTF-8") from exc
    if "\0" in text:
        raise ProjectError(f"{name}:{text[: text.index(chr(0))].count(chr(10)) + 1}: contains a NUL byte")
    return text


def parse(text: str, *, name: str) -> Node:
    """The tree of one YAML document; an empty text is a null node on line 1.

    Raises:
        ProjectError: not valid YAML, or beyond the bounds above, with the line.
    """
    import yaml

    try:
        text.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise ProjectError(f"{name}: not valid UTF-8") from exc
    # libyaml parses several times faster than the Python parser; both report the same events and lines.
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    except yaml.YAMLError as exc:  # the Python parser looks for control characters at once
        raise ProjectError(f"{name}: not valid YAML: contains a control character") from exc
    try:
        return _Composer(loader, name).document()
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line = f":{mark.line + 1}" if mark else ""
        reason = " ".join(part for part in (exc.problem, exc.context) if part)
        if "maximum nesting depth" in reason:  # libyaml's own bound, reached before its first event
            raise ProjectError(f"{name}{line}: {_TOO_DEEP}") from exc
        raise ProjectError(f"{name}{line}: not valid YAML: {reason}") from exc
    except yaml.YAMLError as exc:
        raise ProjectError(f"{name}: not valid YAML: contains a control character") from exc
    finally:
        loader.dispose()


class _Composer:
    """Builds nodes from parser events; the library's own composers recurse without bound."""

    def __init__(self, loader: _Untyped, file: str) -> None:
        self.loader = loader
        self.file = file
        self.anchors: dict[str, Node] = {}
        self.nodes = 0

    def document(self) -> Node:
        import yaml

        self.loader.get_event()  # stream start
        if self.loader.check_event(yaml.StreamEndEvent):
            return Node(None, file=self.file, line=1)
        self.loader.get_event()  # document start
        root = self.node("", 0)
        self.loader.get_event()  # document end
        if not self.loader.check_event(yaml.StreamEndEvent):
            raise self.error(self.loader.peek_event(), "a second document; one file holds one")
        return root

    def node(self, path: str, depth: int) -> Node:
        import yaml

        event = self.loader.get_event()
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise self.error(event, f"alias *{event.anchor} has no anchor above it")
            node = self.anchors[event.anchor]
            self.count(event, depth + node.height, node.size)
            return node
        self.count(event, depth + 1, 1)
        if event.anchor:
            self.anchors.pop(event.anchor, None)  # an alias inside its own anchor is then unknown
        value: Scalar | list[Node] | dict[str, Node]
        if isinstance(event, yaml.ScalarEvent):
            value, text = self.scalar(event), event.value
        else:
            if event.tag not in _KNOWN_TAGS:
                raise self.error(event, f"tag {event.tag} is not supported")
            text = ""
            mapping = isinstance(event, yaml.MappingStartEvent)
            value = self.mapping(path, depth) if mapping else self.sequence(path, depth)
        node = Node(value, file=self.file, line=_line(event), path=path, text=text)
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def sequence(self, path: str, depth: int) -> list[Node]:
        import yaml

        items: list[Node] = []
        while not self.loader.check_event(yaml.SequenceEndEvent):
            items.append(self.node(f"{path}[{len(items)}]", depth + 1))
        self.loader.get_event()
        return items

    def mapping(self, path: str, depth: int) -> dict[str, Node]:
        import yaml

        own: dict[str, Node] = {}
        lines: dict[str, int] = {}
        merged: dict[str, Node] = {}
        while not self.loader.check_event(yaml.MappingEndEvent):
            event = self.loader.get_event()
            if not isinstance(event, yaml.ScalarEvent) or event.anchor:
                raise self.error(event, "a key must be plain text")
            key, line = event.value, _line(event)
            self.count(event, depth, 1)
            child = self.node(f"{path}.{key}" if path else key, depth + 1)
            if key in lines:
                raise self.error(event, f'key "{key}" is already on line {lines[key]}')
            lines[key] = line
            if key == "<<" and event.implicit[0]:
                merged = self.merge(child)
            else:
                own[key] = child
        self.loader.get_event()
        return {**merged, **own}

    def merge(self, child: Node) -> dict[str, Node]:
        """The entries that `<<: *anchor` or `<<: [*first, *second]` brings; the first one wins."""
        merged: dict[str, Node] = {}
        for source in reversed(child.value if isinstance(child.value, list) else [child]):
            if not isinstance(source.value, dict):
                raise child.error("`<<` needs a mapping, such as `*anchor`")
            merged.update(source.value)
        return merged

    def scalar(self, event: _Untyped) -> Scalar:
        if event.tag not in (None, "!", _STR_TAG):
            raise self.error(event, f"tag {event.tag} is not supported")
        text: str = event.value
        if event.tag or not event.implicit[0]:  # quoted, a block, or tagged as text
            return text
        if _NULL.fullmatch(text):
            return None
        if _BOOL.fullmatch(text):
            return text.lower() == "true"
        if _INT.fullmatch(text):
            return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        if _FLOAT.fullmatch(text):
            return float(text)
        if _NOT_FINITE.fullmatch(text):
            return float(text.lower().replace(".", "", 1))
        return text

    def count(self, event: _Untyped, depth: int, size: int) -> None:
        """Refuse what would grow beyond the bounds with `size` more values down to level `depth`."""
        if depth > MAX_DEPTH:
            raise self.error(event, _TOO_DEEP)
        self.nodes += size
        if self.nodes > MAX_NODES:
            raise self.error(event, f"more than {MAX_NODES} values")

    def error(self, event: _Untyped, message: str) -> ProjectError:
        return ProjectError(f"{self.file}:{_line(event)}: {message}")


def _line(event: _Untyped) -> int:
    line: int = event.start_mark.line
    return line + 1


def _hint(word: str, known: Iterable[str]) -> str:
    import difflib

    near = difflib.get_close_matches(word, tuple(known), n=1)
    return f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(known)}"
