"""Reads container logs as lines of services, merged in order of time.

The engine keeps one stream a container. Lines of the `airflow` container begin with the service's name and a
bar, written by the supervisor; the other containers are one service each.
"""

from __future__ import annotations

import heapq
import queue
import struct
import threading
from typing import TYPE_CHECKING

from astro_cli.domain.project_services import METRICS
from astro_cli.domain.services import ONE_SHOT, hosted_by
from astro_cli.foundation.errors import AstroError
from astro_cli.runtime.engine import LogLine, last_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from astro_cli.runtime.engine import LogQuery
    from astro_cli.runtime.engine_http import EngineReader

HEADER = 8
_AIRFLOW_NAMES = {spec.name for spec in hosted_by("airflow")} | {METRICS, *ONE_SHOT}


def read(reader: EngineReader, containers: Mapping[str, str], query: LogQuery) -> Iterator[LogLine]:
    """The lines `query` asks for, from `containers` (name to id, or to another place that has logs: `/…`)."""
    chosen = {
        name: container_id
        for name, container_id in containers.items()
        if not query.services or _may_hold(name, query.services)
    }
    newest = ""

    def past() -> Iterator[LogLine]:
        nonlocal newest
        streams = (_lines(reader, name, i, query, follow=False) for name, i in chosen.items())
        for line in heapq.merge(*streams, key=lambda line: line.timestamp):
            newest = max(newest, line.timestamp)
            yield line

    yield from last_lines(past(), query.tail)
    if query.follow and chosen:
        yield from _follow(reader, chosen, query, after=newest)


def _may_hold(container: str, services: Iterable[str]) -> bool:
    return container in services or (container == "airflow" and bool(_AIRFLOW_NAMES.intersection(services)))


def _follow(
    reader: EngineReader, containers: Mapping[str, str], query: LogQuery, *, after: str
) -> Iterator[LogLine]:
    """Lines newer than `after` as they come, until every container has ended."""
    inbox: queue.Queue[LogLine | AstroError | None] = queue.Queue()

    def listen(name: str, container_id: str) -> None:
        try:
            for line in _lines(reader, name, container_id, query, follow=True):
                inbox.put(line)
        except AstroError as exc:
            inbox.put(exc)
        inbox.put(None)

    for name, container_id in containers.items():
        threading.Thread(target=listen, args=(name, container_id), daemon=True).start()
    open_streams = len(containers)
    while open_streams:
        item = inbox.get()
        if item is None:
            open_streams -= 1
        elif isinstance(item, AstroError):
            raise item
        elif item.timestamp > after:
            yield item


def _lines(
    reader: EngineReader, name: str, container_id: str, query: LogQuery, *, follow: bool
) -> Iterator[LogLine]:
    options = {"stdout": "true", "stderr": "true", "timestamps": "true"}
    if follow:
        options["follow"] = "true"
    if query.since is not None:
        options["since"] = f"{query.since:.9f}"
    place = container_id if container_id.startswith("/") else f"/containers/{container_id}"
    for raw in unframe(reader.stream(f"{place}/logs", timeout=None, **options)):
        line = _parse(name, raw)
        if not query.services or line.service in query.services:
            yield line


def _parse(container: str, raw: str) -> LogLine:
    timestamp, _, text = raw.partition(" ")
    if container == "airflow":
        service, bar, rest = text.partition(" | ")
        if bar and service.strip() in _AIRFLOW_NAMES:
            return LogLine(timestamp, service.strip(), rest)
        return LogLine(timestamp, "astro", text)
    return LogLine(timestamp, container, text)


def unframe(chunks: Iterable[bytes]) -> Iterator[str]:
    """Lines from Docker's multiplexed stream: eight bytes of header (channel, length) before each piece."""
    buffer = b""
    partial: dict[int, bytes] = {}
    for chunk in chunks:
        buffer += chunk
        while len(buffer) >= HEADER:
            channel, length = struct.unpack(">BxxxL", buffer[:HEADER])
            if len(buffer) < HEADER + length:
                break
            text = partial.pop(channel, b"") + buffer[HEADER : HEADER + length]
            buffer = buffer[HEADER + length :]
            *lines, rest = text.split(b"\n")
            for line in lines:
                yield line.decode(errors="replace").rstrip("\r")
            if rest:
                partial[channel] = rest
    for rest in partial.values():
        yield rest.decode(errors="replace")
