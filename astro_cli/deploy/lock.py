"""The lock of a deployment: a record on its target, which only one can make.

Its holder touches it from every wait. One that has not been touched for a minute of the target's own clock, or
whose process on this machine is gone, is nobody's any more: what it says was begun goes to whoever comes next.
Where the record lies is the drivers' business (`swarm/lock.py`, `kubernetes/lock.py`).
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import time
import uuid
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from astro_cli.deploy.target import StrandedError, Unfinished
from astro_cli.foundation import process
from astro_cli.foundation.errors import LockedError, TargetError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

STALE_SECONDS = 60.0
BEAT_SECONDS = 10.0
LOOK_SECONDS = 1.0
STEP, RELEASE, BACKUP = "astro.step", "astro.release", "astro.backup"


@dataclass(frozen=True)
class Holder:
    """A run of astro that holds a lock, or did.

    Attributes:
        who: user and machine.
        purpose: the command.
        machine: where `pid` and `started` tell whether it lives.
    """

    who: str
    purpose: str
    machine: str
    pid: int
    started: str

    @classmethod
    def this_run(cls, purpose: str) -> Holder:
        """The one that asks."""
        me = process.identity(os.getpid())
        return cls(f"{getpass.getuser()}@{socket.gethostname()}", purpose, this_machine(), me.pid, me.started)

    @classmethod
    def from_json(cls, text: str) -> Holder:
        """What `to_json` wrote."""
        return cls(**json.loads(text))

    def to_json(self) -> str:
        """As it is kept."""
        return json.dumps(asdict(self))

    @property
    def is_gone(self) -> bool:
        """Whether it is known to be over, which only its own machine can know."""
        return self.machine == this_machine() and not process.Identity(self.pid, self.started).is_alive


@dataclass(frozen=True)
class Found:
    """A lock as it is on the target.

    Attributes:
        uid: of just this one; whoever holds the lock next has another.
        marks: what was written down by `HeldLock.step`.
        made: when, as the target writes it.
        touched: when last, by the target's clock.
    """

    uid: str
    holder: Holder
    marks: Mapping[str, str]
    made: str
    touched: datetime

    @property
    def unfinished(self) -> Unfinished:
        """What its holder had begun."""
        number = self.marks.get(RELEASE)
        return Unfinished(
            who=self.holder.who,
            purpose=self.holder.purpose,
            step=self.marks.get(STEP, "begin"),
            release=int(number) if number else None,
            backup=self.marks.get(BACKUP, ""),
        )

    def __str__(self) -> str:
        left = self.unfinished
        return f"{left.who} runs `{left.purpose}` since {self.made[:19]} UTC (step: {left.step})"


class LockStore(Protocol):
    """The place on a target where one deployment's lock lies."""

    def make(self, holder: Holder) -> str | None:
        """Make the lock; its uid, or None if there is one already."""

    def find(self) -> Found | None:
        """The lock that is there."""

    def touch(self, uid: str, marks: Mapping[str, str]) -> bool:
        """Set `marks` besides those it has, and the time; False if that lock is there no more."""

    def remove(self, uid: str) -> None:
        """Take away just this lock; one that is gone is fine."""

    def now(self) -> datetime:
        """The target's clock."""


class HeldLock:
    """A lock that is held.

    `step` and `beat` raise `LockedError` once somebody has taken it away, for example while this machine slept.
    """

    def __init__(self, store: LockStore, uid: str, unfinished: Unfinished | None) -> None:
        self._store = store
        self._uid = uid
        self._touched = time.monotonic()
        self.unfinished = unfinished

    def step(self, name: str, **marks: str) -> None:
        """Write down what begins, and about which `release` and `backup`."""
        self._mark({STEP: name, **{f"astro.{key}": text for key, text in marks.items()}})

    def beat(self) -> None:
        """Touch the lock, at most every few seconds."""
        if time.monotonic() - self._touched >= BEAT_SECONDS:
            self._mark({})

    def _mark(self, marks: Mapping[str, str]) -> None:
        if not self._store.touch(self._uid, marks):
            raise LockedError(
                "another run has taken this one's lock, which was not heard of for a minute",
                hint="nothing more was done here; `astro deployment ps` shows what runs",
            )
        self._touched = time.monotonic()


@contextmanager
def hold_lock(store: LockStore, purpose: str, wait: float) -> Iterator[HeldLock]:
    """Hold the lock of a deployment.

    Args:
        purpose: the command, for whoever finds it locked.
        wait: seconds to wait for another holder.

    Raises:
        LockedError: another run holds it.
    """
    uid, unfinished = _take(store, purpose, wait)
    try:
        yield HeldLock(store, uid, unfinished)
    except StrandedError:
        raise
    except BaseException:
        with suppress(TargetError):
            store.remove(uid)
        raise
    store.remove(uid)


def lock_holder(store: LockStore) -> str:
    """Who holds the lock, in words; empty when it is free."""
    found = store.find()
    return str(found) if found else ""


def break_lock(store: LockStore) -> Unfinished | None:
    """Take the lock away from whoever has it; returns what was begun, or None when it was free."""
    found = store.find()
    if found is None:
        return None
    store.remove(found.uid)
    return found.unfinished


def _take(store: LockStore, purpose: str, wait: float) -> tuple[str, Unfinished | None]:
    deadline = time.monotonic() + wait
    left: Unfinished | None = None
    me = Holder.this_run(purpose)
    while (uid := store.make(me)) is None:
        found = store.find()
        if found is None:
            continue
        if found.holder.is_gone or (store.now() - found.touched).total_seconds() > STALE_SECONDS:
            left = found.unfinished
            store.remove(found.uid)
            continue
        if time.monotonic() >= deadline:
            raise LockedError(
                f"the deployment is locked: {found}",
                hint="wait with `--lock-wait SECONDS`; if that run is gone for good: `astro deployment unlock`",
            )
        time.sleep(LOOK_SECONDS)
    return uid, left


def this_machine() -> str:
    """Where process ids mean what they mean here; host names are no help, for many machines have the same."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        return f"{socket.gethostname()} {uuid.getnode()}"
