"""Decodes what BuildKit reports of a build: `moby.buildkit.trace` messages, a protobuf `StatusResponse` each.

The schema is https://github.com/moby/buildkit/blob/master/api/services/control/control.proto; only the few fields
that are shown or needed for an error are decoded here, which spares a protobuf library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Vertex:
    """One step in one state; times are seconds since 1970."""

    digest: str
    name: str
    cached: bool = False
    started: float | None = None
    completed: float | None = None
    error: str = ""


@dataclass(frozen=True)
class Log:
    """Bytes that a step wrote."""

    vertex: str
    content: bytes


@dataclass(frozen=True)
class Trace:
    """One `StatusResponse`."""

    vertexes: tuple[Vertex, ...] = ()
    logs: tuple[Log, ...] = ()


def decode_trace(data: bytes) -> Trace:
    """Decodes a `StatusResponse`; unknown fields are skipped.

    Raises:
        ValueError: the bytes are cut off or not protobuf.
    """
    vertexes: list[Vertex] = []
    logs: list[Log] = []
    for number, value in _fields(data):
        if number not in (1, 3) or not isinstance(value, bytes):
            continue
        entry = dict(_fields(value))  # of a repeated field the last is kept, and none that we read repeats
        if number == 1:
            vertexes.append(
                Vertex(
                    digest=_text(entry.get(1)),
                    name=_text(entry.get(3)),
                    cached=bool(entry.get(4)),
                    started=_seconds(entry.get(5)),
                    completed=_seconds(entry.get(6)),
                    error=_text(entry.get(7)),
                )
            )
        else:
            content = entry.get(4)
            logs.append(Log(_text(entry.get(1)), content if isinstance(content, bytes) else b""))
    return Trace(tuple(vertexes), tuple(logs))


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, position = _varint(data, position)
            yield number, value
            continue
        if kind == 2:
            size, position = _varint(data, position)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"unknown wire type {kind}")
        if position + size > len(data):
            raise ValueError("message is cut off")
        yield number, data[position : position + size]
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise ValueError("message is cut off")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position


def _text(value: int | bytes | None) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""


def _number(value: int | bytes | None) -> int:
    return value if isinstance(value, int) else 0


def _seconds(value: int | bytes | None) -> float | None:
    if not isinstance(value, bytes):
        return None
    parts = dict(_fields(value))
    return _number(parts.get(1)) + _number(parts.get(2)) / 1e9
