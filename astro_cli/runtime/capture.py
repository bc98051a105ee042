"""Reads what a command run by an engine writes, line by line, as it comes."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def capture_lines(run: Callable[[], int], on_line: Callable[[str], None]) -> int:
    """Call `run`, and `on_line` for every line that it, or a process it starts, writes on standard output.

    Engines join a command's streams to this process's own. So standard output itself leads to a pipe meanwhile,
    which is true for both engines; `on_line` is called in another thread and must not write there.

    Returns:
        What `run` returns.
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(writer, 1)
    os.close(writer)

    def read() -> None:
        with os.fdopen(reader, encoding="utf-8", errors="replace") as stream:
            for line in stream:
                on_line(line.rstrip("\n"))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        return run()
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
        thread.join()
