"""Ports of this machine: whether one is free, which is next, and who holds one."""

from __future__ import annotations

import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"
TRIES = 200


def is_free(port: int) -> bool:
    """Whether a server could listen on `port` of the loopback interface now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except PermissionError:  # a low port: the engine may listen where we may not
            return True
        except OSError:
            return False
    return True


def next_free(first: int) -> int | None:
    """The first free port from `first` upwards, or None when none of the next ones is."""
    return next((port for port in range(first, min(first + TRIES, 65536)) if is_free(port)), None)


def holder(port: int, proc: Path = Path("/proc")) -> str | None:
    """The process that listens on `port`, as `name (process 123)`; None where the system does not tell."""
    inodes = {
        fields[9]
        for table in ("net/tcp", "net/tcp6")
        for fields in _rows(proc / table)
        if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port
    }
    if not inodes:
        return None
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for process in proc.glob("[0-9]*"):
        try:
            if any(str(link.readlink()) in wanted for link in (process / "fd").iterdir()):
                return f"`{(process / 'comm').read_text().strip()}` (process {process.name})"
        except OSError:  # gone meanwhile, or another user's
            continue
    return None


def _rows(table: Path) -> list[list[str]]:
    try:
        return [line.split() for line in table.read_text().splitlines()[1:]]
    except OSError:
        return []
