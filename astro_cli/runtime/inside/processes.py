"""Processes of a sandbox: what belongs to whom, how much memory it takes, and how it ends."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def process_table() -> dict[int, tuple[int, int]]:
    """Parent and session of every process; empty where there is no /proc."""
    table = {}
    for entry in os.listdir("/proc") if sys.platform == "linux" else ():  # noqa: PTH208
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as stat:  # noqa: PTH123 - once per process, often
                    fields = stat.read().rpartition(b")")[2].split()
            except OSError:
                continue
            table[int(entry)] = int(fields[1]), int(fields[3])
    return table


def process_trees(roots: Iterable[int]) -> dict[int, list[int]]:
    """For every root (a session leader): the pids of its session and of its descendants."""
    table = process_table()
    trees: dict[int, list[int]] = {root: [] for root in roots}
    for pid, (_, session) in table.items():
        ancestor = pid
        while ancestor in table and ancestor not in trees:
            ancestor = table[ancestor][0]
        owner = ancestor if ancestor in trees else session
        if owner in trees:
            trees[owner].append(pid)
    return trees


def proportional_set_size(pid: int) -> int:
    """Bytes of memory of a process, with shared pages divided among their users; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as rollup:  # noqa: PTH123
            for line in rollup:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def oom_kills() -> int:
    """How often the kernel killed a process of this cgroup for want of memory; 0 when unknown."""
    candidates = [Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control")]
    try:
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                candidates.insert(0, Path(f"/sys/fs/cgroup{path}/memory.events"))
            elif "memory" in controllers.split(","):
                candidates.insert(0, Path(f"/sys/fs/cgroup/memory{path}/memory.oom_control"))
    except OSError:
        return 0
    for candidate in candidates:
        try:
            words = candidate.read_text(encoding="ascii").split()
        except OSError:
            continue
        if "oom_kill" in words:
            return int(words[words.index("oom_kill") + 1])
    return 0


class Guardian:
    """A tiny process that kills every component when the supervisor is gone, however it went.

    The death signal of Linux reaches direct children only, and LocalExecutor's workers are grandchildren.
    """

    def __init__(self) -> None:
        reader, self._writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            os.close(self._writer)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            self._watch(reader)
            os._exit(0)
        os.close(reader)

    @staticmethod
    def _watch(reader: int) -> None:
        leaders: set[int] = set()
        with os.fdopen(reader, "r") as lines:
            for line in lines:
                number = int(line)
                if number > 0:
                    leaders.add(number)
                else:
                    leaders.discard(-number)
        for leader in leaders:
            kill_session(leader)

    def watch(self, leader: int) -> None:
        """Kill this component when the supervisor ends."""
        self._tell(leader)

    def forget(self, leader: int) -> None:
        """It is gone already."""
        self._tell(-leader)

    def _tell(self, number: int) -> None:
        with contextlib.suppress(OSError):
            os.write(self._writer, b"%d\n" % number)

    def close(self) -> None:
        """Let go of the pipe: when nobody holds it any more, the supervisor is gone."""
        os.close(self._writer)


def terminate_group(leader: int) -> None:
    """Ask a running component and its process group to end."""
    try:
        os.killpg(leader, signal.SIGTERM)
    except ProcessLookupError:  # it had no time to make its group
        os.kill(leader, signal.SIGTERM)


def kill_session(leader: int) -> None:
    """Kill what is left of a component: its group and, on Linux, the groups Airflow makes for its tasks."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
    for pid, (_, session) in process_table().items():
        if session == leader:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent dies."""
    if sys.platform != "linux":
        return
    pr_set_pdeathsig = 1
    try:
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:
        os._exit(1)


def give_back_memory() -> None:
    """Return what importing has freed to the system; glibc would keep it."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
