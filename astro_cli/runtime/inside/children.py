"""Work in a process of its own, which ends when whoever asked for it does, and what it says."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

GRACE_SECONDS = 5.0


def supervised(connection: socket.socket | None, work: Callable[[], int]) -> int:
    """Do `work` in a child of its own, which ends when the client does; the exit code as a shell tells it."""
    flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if connection:
                connection.close()
            os.setpgid(0, 0)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            code = work()
        except SystemExit as exc:
            code = exc.code if isinstance(exc.code, int) else 1
        except KeyboardInterrupt:
            code = 130
        except BaseException:  # noqa: BLE001 - whatever the project's code raises
            traceback.print_exc()
        finally:
            flush()
            os._exit(code)
    with contextlib.suppress(OSError):
        os.setpgid(pid, pid)
    kill_due: float | None = None
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            _signal_group(pid, signal.SIGKILL)  # what it left behind
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if kill_due is not None and time.monotonic() > kill_due:
            _signal_group(pid, signal.SIGKILL)
        if connection is None:
            time.sleep(0.01)
        elif select.select([connection], [], [], 0.01)[0]:
            said = connection.recv(1)
            if not said:
                connection = None
            if said == b"K":
                _signal_group(pid, signal.SIGKILL)
            elif kill_due is None:
                _signal_group(pid, signal.SIGINT)
                kill_due = time.monotonic() + GRACE_SECONDS


def _signal_group(leader: int, number: int) -> None:
    with contextlib.suppress(OSError):
        os.killpg(leader, number)


def flush() -> None:
    """Write what Python still holds of both streams."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def emit(out: int, message: dict[str, Any]) -> None:
    """Write one JSON line on the descriptor `out`."""
    data = memoryview(json.dumps(message).encode() + b"\n")
    while data:
        data = data[os.write(out, data) :]
