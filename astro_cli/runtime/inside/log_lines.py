"""The lines of a sandbox's log: whole ones of every component, each after its name."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

# Docker's log drivers cut messages at 16 KiB; staying below keeps one line one message.
LINE_LIMIT = 16_000
LOG_BYTES = 10_000_000
LOG_FILES = 3


class LineWriter:
    """Writes whole lines, `service | text`, to standard output: the container's log.

    With `log`, standard output and error become that file, each line begins with its time, and the file makes
    room for a new one when it has grown.
    """

    def __init__(self, stream: int = 1, log: Path | None = None) -> None:
        self._stream = stream
        self._log = log
        if log:
            self._open(log)

    @staticmethod
    def _open(log: Path) -> None:
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        for target in (1, 2):
            os.dup2(descriptor, target)
        os.close(descriptor)

    def _make_room(self, log: Path) -> None:
        with contextlib.suppress(OSError):
            if os.fstat(1).st_size >= LOG_BYTES:
                for number in range(LOG_FILES - 1, 0, -1):
                    older = log.with_name(f"{log.name}.{number - 1}") if number > 1 else log
                    if older.exists():
                        older.replace(log.with_name(f"{log.name}.{number}"))
                self._open(log)

    def write(self, name: str, lines: Iterable[bytes]) -> None:
        """Write complete lines at once; a reader that went away does not end the supervisor."""
        prefix = f"{name} | "
        if self._log:
            now = datetime.now(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")
            prefix = f"{now} {prefix}"
            self._make_room(self._log)
        text = "".join(f"{prefix}{line.decode('utf-8', 'replace')}\n" for line in lines)
        data = memoryview(text.encode("utf-8"))
        while data:
            try:
                data = data[os.write(self._stream, data) :]
            except BlockingIOError:
                time.sleep(0.01)
            except OSError as exc:
                if exc.errno in (errno.EPIPE, errno.EIO, errno.ENOSPC):
                    return
                raise

    def say(self, text: str) -> None:
        """A line of the supervisor itself."""
        self.write("astro", text.encode("utf-8").splitlines())


class LineBuffer:
    """Turns chunks of bytes into lines; a line without an end is cut at the limit, between two characters."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without their line ends."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        pieces = [piece for line in lines for piece in _cut(line.rstrip(b"\r"))]
        *full, self._rest = _cut(self._rest)
        return pieces + full

    def flush(self) -> list[bytes]:
        """What is left at the end of the stream."""
        rest, self._rest = self._rest, b""
        return [rest] if rest else []


def _cut(line: bytes) -> list[bytes]:
    pieces = []
    while len(line) > LINE_LIMIT:
        end = LINE_LIMIT
        while end > LINE_LIMIT - 4 and line[end] & 0xC0 == 0x80:
            end -= 1
        pieces.append(line[:end])
        line = line[end:]
    return [*pieces, line]
