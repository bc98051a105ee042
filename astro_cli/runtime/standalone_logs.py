"""Reads the supervisor's log file as lines of services, also while it grows and is replaced by a new one."""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import IO, TYPE_CHECKING

from astro_cli.runtime.engine import LogLine, last_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from astro_cli.runtime.engine import LogQuery

LOOK_SECONDS = 0.2
_LINE = re.compile(r"(\d{4}-\d\d-\d\dT[\d:.]+Z) (\S+) \| (.*)", re.DOTALL)


def read(log: Path, query: LogQuery, is_running: Callable[[], bool]) -> Iterator[LogLine]:
    """The lines `query` asks for, those of renamed files first.

    With `query.follow` also what comes, until `is_running` says no.
    """
    older = sorted(log.parent.glob(f"{log.name}.[0-9]"), reverse=True)
    with _Tail(log) as tail:  # opened before the older ones are read: nothing falls between
        past = _chosen(_parsed(line for path in older for line in _lines(path)), query)
        present = _chosen(_parsed(tail.lines()), query)
        yield from last_lines((line for part in (past, present) for line in part), query.tail)
        if not query.follow:
            return
        while True:
            alive = is_running()  # asked before reading, so that its last words are read
            yield from _chosen(_parsed(tail.lines()), query)
            if not alive:
                return
            time.sleep(LOOK_SECONDS)


class _Tail:
    """Lines of a file from where the last look ended, and then of the file that took its name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self._rest = b""

    def __enter__(self) -> _Tail:
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def _open(self) -> None:
        try:
            self._file = self._path.open("rb")
        except OSError:
            self._file = None

    def lines(self) -> Iterator[str]:
        """The complete lines that have come since the last look."""
        if self._file is None:
            self._open()
        while self._file is not None:
            for line in self._file:
                self._rest += line
                if self._rest.endswith(b"\n"):
                    yield self._rest.decode("utf-8", "replace").rstrip("\n")
                    self._rest = b""
            if not self._was_replaced(self._file):
                return
            self._file.close()
            self._open()

    def _was_replaced(self, file: IO[bytes]) -> bool:
        import os

        try:
            return self._path.stat().st_ino != os.fstat(file.fileno()).st_ino
        except OSError:
            return False


def _lines(path: Path) -> Iterator[str]:
    with _Tail(path) as tail:
        yield from tail.lines()


def _parsed(lines: Iterable[str]) -> Iterator[LogLine]:
    """A line without a time is the supervisor's own failure, and as late as the one before it."""
    timestamp = ""
    for line in lines:
        found = _LINE.fullmatch(line)
        if found:
            timestamp = found[1]
            yield LogLine(*found.groups())
        else:
            yield LogLine(timestamp, "astro", line)


def _chosen(lines: Iterable[LogLine], query: LogQuery) -> Iterator[LogLine]:
    for line in lines:
        if query.services and line.service not in query.services:
            continue
        if query.since is None or _epoch(line.timestamp) >= query.since:
            yield line


def _epoch(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp() if timestamp else 0.0
