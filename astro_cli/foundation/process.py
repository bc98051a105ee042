"""The one door to other programs: run one and read it, join one to this terminal, or leave one behind.

A process left behind is known by its id *and* the moment it started, because the system gives ids out again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

LOOK_SECONDS = 0.05
MOMENT_SECONDS = 3.0
"""Clocks that count from the boot and clocks that count from the epoch drift apart by this much at most."""


@dataclass(frozen=True)
class Completed:
    """How a program ended, and everything it wrote to both of its outputs."""

    code: int
    output: str

    @property
    def lines(self) -> tuple[str, ...]:
        """The lines that are not empty."""
        return tuple(line for line in self.output.splitlines() if line.strip())


@dataclass(frozen=True)
class Identity:
    """One process and no other.

    Attributes:
        started: when it started, in the system's own words; only good for comparing.
    """

    pid: int
    started: str

    @property
    def is_alive(self) -> bool:
        """Whether this very process still runs; one that has ended and waits to be reaped does not."""
        return _started(self.pid) == self.started


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    on_line: Callable[[str], None] | None = None,
) -> Completed:
    """Run a program to its end without input.

    Args:
        argv: the program and its arguments; never a shell.
        env: its whole environment; None hands on this process's.
        on_line: is given each line as it comes.

    Raises:
        OSError: the program cannot be run.
    """
    said = []
    with subprocess.Popen(  # noqa: S603
        list(argv),
        env=None if env is None else dict(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if on_line is not None:
                on_line(line.rstrip())
    return Completed(process.returncode, "".join(said))


def ask(argv: Sequence[str], text: str, *, env: Mapping[str, str], seconds: float) -> Completed:
    """Give a program `text` to read and take what it writes to its first output; the second one is not kept.

    Raises:
        OSError: the program cannot be run, or has not ended after `seconds` (it is killed).
    """
    try:
        done = subprocess.run(  # noqa: S603
            list(argv),
            input=text,
            env=dict(env),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise TimeoutError(f"`{argv[0]}` did not answer within {seconds:.0f} seconds") from exc
    return Completed(done.returncode, done.stdout)


def attach(
    argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, stdin: bool = True, interactive: bool = False
) -> int:
    """Run a program on this process's own streams; returns its exit code, negative for a signal.

    Ctrl-C reaches the program by itself where it shares our terminal; an `interactive` one decides what it means.

    Raises:
        KeyboardInterrupt: not `interactive`, and we were interrupted; the program has been told and has ended.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if interactive else None
    try:
        process = subprocess.Popen(  # noqa: S603
            list(argv),
            env=dict(env),
            cwd=cwd,
            stdin=None if stdin else subprocess.DEVNULL,
            # what is ignored here would be ignored there as well
            preexec_fn=_default_interrupt if interactive else None,
        )
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


def _default_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def leave_behind(
    argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path, stdin: int = subprocess.DEVNULL
) -> Identity:
    """Start a program in a session of its own, which goes on when this process ends.

    What it writes is appended to `log`, which only this user may read. It has no terminal, and no input unless
    `stdin` is a file descriptor.
    """
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "ab") as output:
        process = subprocess.Popen(  # noqa: S603
            list(argv),
            env=dict(env),
            cwd=cwd,
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    identity = Identity(process.pid, _started(process.pid) or "")
    process.returncode = 0  # it is not ours to wait for: no warning when this object goes
    return identity


def end(identity: Identity, *, seconds: float) -> bool:
    """TERM, then KILL for it and its process group after `seconds`; returns whether it ended by itself."""
    _signal(identity, signal.SIGTERM)
    if _ended(identity, seconds):
        return True
    _signal(identity, signal.SIGKILL, group=True)
    _ended(identity, 5.0)
    return False


def _ended(identity: Identity, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while identity.is_alive:
        if time.monotonic() >= deadline:
            return False
        time.sleep(LOOK_SECONDS)
    return True


def _signal(identity: Identity, number: signal.Signals, *, group: bool = False) -> None:
    if not identity.is_alive:
        return
    try:
        if group:
            os.killpg(identity.pid, number)
        else:
            os.kill(identity.pid, number)
    except ProcessLookupError:
        pass


def identity(pid: int) -> Identity:
    """Which process has this id now."""
    return Identity(pid, _started(pid) or "")


def find(pid: int, *, started_at: float) -> Identity | None:
    """The process with this id if it started at `started_at` (seconds since the epoch), give or take a moment."""
    started = _started(pid)
    if started is None or sys.platform != "linux":
        return Identity(pid, started) if started and _same_moment(started, started_at) else None
    table = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    booted = next(int(line.split()[1]) for line in table if line.startswith("btime "))
    seconds = booted + int(started.split()[1]) / os.sysconf("SC_CLK_TCK")
    return Identity(pid, started) if abs(seconds - started_at) < MOMENT_SECONDS else None


def _same_moment(told: str, started_at: float) -> bool:
    try:  # as `ps` writes it
        seconds = time.mktime(time.strptime(told, "%a %b %d %H:%M:%S %Y"))
    except ValueError:
        return False
    return abs(seconds - started_at) < MOMENT_SECONDS


def _started(pid: int) -> str | None:
    """When a living process started, comparable as text; None when there is no such process."""
    if sys.platform == "linux":
        try:
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        except OSError:
            return None
        return None if fields[0] in (b"Z", b"X") else f"{boot} {int(fields[19])}"
    told = run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], env={**os.environ, "LC_ALL": "C"})
    state, _, started = told.output.strip().partition(" ")
    return None if told.code or state.startswith("Z") else started.strip() or None
