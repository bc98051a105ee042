"""The lock of a deployment: a config on the engine, which only one can make.

Its holder touches it from every wait. One that has not been touched for a minute of the engine's own clock, or
whose process on this machine is gone, is nobody's any more: what it says was begun goes to whoever comes next.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import time
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from astro_cli.deploy.swarm_api import CONFLICT, NOT_FOUND, config_text, parse_time
from astro_cli.deploy.target import StrandedError, Unfinished
from astro_cli.foundation import labels, process
from astro_cli.foundation.errors import LockedError, TargetError
from astro_cli.runtime.docker_api import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from astro_cli.deploy.stack import Names
    from astro_cli.deploy.swarm_api import SwarmApi

STALE_SECONDS = 60.0
BEAT_SECONDS = 10.0
LOOK_SECONDS = 1.0
STEP, RELEASE, BACKUP = "astro.step", "astro.release", "astro.backup"


class SwarmLock:
    """A lock that is held.

    `step` and `beat` raise `LockedError` once somebody has taken it away, for example while this machine slept.
    """

    def __init__(self, api: SwarmApi, config_id: str, unfinished: Unfinished | None) -> None:
        self._api = api
        self._id = config_id
        self._touched = time.monotonic()
        self.unfinished = unfinished

    def step(self, name: str, **marks: str) -> None:
        """Write down what begins, and about which `release` and `backup`."""
        self._mark({STEP: name, **{f"astro.{key}": text for key, text in marks.items()}})

    def beat(self) -> None:
        """Touch the lock, at most every few seconds."""
        if time.monotonic() - self._touched >= BEAT_SECONDS:
            self._mark({"astro.beat": str(int(time.time()))})

    def _mark(self, marks: Mapping[str, str]) -> None:
        try:
            self._api.mark_config(self._id, marks)
        except RefusedError as exc:
            if exc.status != NOT_FOUND:
                raise
            raise LockedError(
                "another run has taken this one's lock, which was not heard of for a minute",
                hint="nothing more was done here; `astro deployment ps` shows what runs",
            ) from exc
        self._touched = time.monotonic()


@contextmanager
def hold(api: SwarmApi, names: Names, purpose: str, wait: float) -> Iterator[SwarmLock]:
    """Hold the lock of a deployment.

    Args:
        purpose: the command, for whoever finds it locked.
        wait: seconds to wait for another holder.

    Raises:
        LockedError: another run holds it.
    """
    name = names.of("lock")
    config_id, unfinished = _take(api, names, name, purpose, wait)
    try:
        yield SwarmLock(api, config_id, unfinished)
    except StrandedError:
        raise
    except BaseException:
        with suppress(TargetError):
            api.forget("configs", config_id)
        raise
    api.forget("configs", config_id)


def holder(api: SwarmApi, names: Names) -> str:
    """Who holds the lock, in words; empty when it is free."""
    found = api.stored("configs", _label(names)).get(names.of("lock"))
    return _words(found) if found else ""


def release(api: SwarmApi, names: Names) -> Unfinished | None:
    """Take the lock away from whoever has it; returns what was begun, or None when it was free."""
    found = api.stored("configs", _label(names)).get(names.of("lock"))
    if found is None:
        return None
    api.forget("configs", names.of("lock"))
    return _unfinished(found)


def _take(api: SwarmApi, names: Names, name: str, purpose: str, wait: float) -> tuple[str, Unfinished | None]:
    deadline = time.monotonic() + wait
    left: Unfinished | None = None
    pid = os.getpid()
    me = {
        "who": f"{getpass.getuser()}@{socket.gethostname()}",
        "purpose": purpose,
        "machine": this_machine(),
        "pid": pid,
        "started": process.identity(pid).started,
    }
    while True:
        try:
            config_id = api.store("configs", name, json.dumps(me), names.labels)
        except RefusedError as exc:
            if exc.status != CONFLICT:
                raise
        else:
            return config_id, left
        found = api.stored("configs", _label(names)).get(name)
        if found is None:
            continue
        if _is_abandoned(api, found):
            left = _unfinished(found)
            api.forget("configs", found["ID"])
            continue
        if time.monotonic() >= deadline:
            raise LockedError(
                f"the deployment is locked: {_words(found)}",
                hint="wait with `--lock-wait SECONDS`; if that run is gone for good: `astro deployment unlock`",
            )
        time.sleep(LOOK_SECONDS)


def _is_abandoned(api: SwarmApi, found: dict[str, Any]) -> bool:
    who = json.loads(config_text(found))
    if who["machine"] == this_machine() and not process.Identity(who["pid"], who["started"]).is_alive:
        return True
    return (api.now() - parse_time(found["UpdatedAt"])).total_seconds() > STALE_SECONDS


def this_machine() -> str:
    """Where process ids mean what they mean here; host names are no help, for many machines have the same."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        return f"{socket.gethostname()} {uuid.getnode()}"


def _unfinished(found: dict[str, Any]) -> Unfinished:
    who, marks = json.loads(config_text(found)), found["Spec"]["Labels"]
    number = marks.get(RELEASE)
    return Unfinished(
        who=who["who"],
        purpose=who["purpose"],
        step=marks.get(STEP, "begin"),
        release=int(number) if number else None,
        backup=marks.get(BACKUP, ""),
    )


def _words(found: dict[str, Any]) -> str:
    left = _unfinished(found)
    return f"{left.who} runs `{left.purpose}` since {found['CreatedAt'][:19]} UTC (step: {left.step})"


def _label(names: Names) -> str:
    return f"{labels.DEPLOYMENT}={names.deployment}"
