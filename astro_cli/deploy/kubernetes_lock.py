"""The lock of a deployment on Kubernetes: a Lease, which only one can make.

As on an engine (`swarm_lock`) its holder renews it from every wait, and one that was not renewed for a minute of
the cluster's own clock, or whose process on this machine is gone, is nobody's any more.
"""

from __future__ import annotations

import getpass
import os
import socket
import time
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from astro_cli.deploy.kubernetes_api import CONFLICT, NOT_FOUND, RefusedError
from astro_cli.deploy.kubernetes_objects import LOCK
from astro_cli.deploy.swarm_lock import (
    BACKUP,
    BEAT_SECONDS,
    LOOK_SECONDS,
    RELEASE,
    STALE_SECONDS,
    STEP,
    this_machine,
)
from astro_cli.deploy.target import StrandedError, Unfinished
from astro_cli.foundation import labels, process
from astro_cli.foundation.errors import LockedError, TargetError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from astro_cli.deploy.kubernetes_api import KubernetesApi
    from astro_cli.deploy.stack import Names

NAME = "lock"
_WHO, _PURPOSE, _MACHINE, _PROCESS = "astro.who", "astro.purpose", "astro.machine", "astro.process"


class KubernetesLock:
    """A lock that is held; `step` and `beat` raise `LockedError` once somebody has taken it away."""

    def __init__(self, api: KubernetesApi, uid: str, unfinished: Unfinished | None) -> None:
        self._api = api
        self._uid = uid
        self._touched = time.monotonic()
        self.unfinished = unfinished

    def step(self, name: str, **marks: str) -> None:
        """Write down what begins, and about which `release` and `backup`."""
        self._mark({STEP: name, **{f"astro.{key}": text for key, text in marks.items()}})

    def beat(self) -> None:
        """Renew the lock, at most every few seconds."""
        if time.monotonic() - self._touched >= BEAT_SECONDS:
            self._mark({})

    def _mark(self, notes: Mapping[str, str]) -> None:
        patch = {
            "metadata": {"uid": self._uid, "annotations": dict(notes)},
            "spec": {"renewTime": _written(self._api.now)},
        }
        try:
            self._api.merge("Lease", NAME, patch)
        except RefusedError as exc:
            if exc.status not in (NOT_FOUND, CONFLICT):
                raise
            raise LockedError(
                "another run has taken this one's lock, which was not heard of for a minute",
                hint="nothing more was done here; `astro deployment ps` shows what runs",
            ) from exc
        self._touched = time.monotonic()


@contextmanager
def hold(api: KubernetesApi, names: Names, purpose: str, wait: float) -> Iterator[KubernetesLock]:
    """Hold the lock of a deployment; see `swarm_lock.hold`."""
    uid, unfinished = _take(api, names, purpose, wait)
    try:
        yield KubernetesLock(api, uid, unfinished)
    except StrandedError:
        raise
    except BaseException:
        with suppress(TargetError):
            api.delete("Lease", NAME, uid=uid)
        raise
    api.delete("Lease", NAME, uid=uid)


def holder(api: KubernetesApi) -> str:
    """Who holds the lock, in words; empty when it is free."""
    found = api.get("Lease", NAME)
    return _words(found) if found else ""


def release(api: KubernetesApi) -> Unfinished | None:
    """Take the lock away from whoever has it; returns what was begun, or None when it was free."""
    found = api.get("Lease", NAME)
    if found is None:
        return None
    api.delete("Lease", NAME)
    return _unfinished(found)


def _take(api: KubernetesApi, names: Names, purpose: str, wait: float) -> tuple[str, Unfinished | None]:
    deadline = time.monotonic() + wait
    left: Unfinished | None = None
    pid = os.getpid()
    who = f"{getpass.getuser()}@{socket.gethostname()}"
    notes = {
        _WHO: who,
        _PURPOSE: purpose,
        _MACHINE: this_machine(),
        _PROCESS: f"{pid} {process.identity(pid).started}",
    }
    while True:
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": NAME, "labels": {**names.labels, labels.KIND: LOCK}, "annotations": notes},
            "spec": {
                "holderIdentity": who,
                "leaseDurationSeconds": int(STALE_SECONDS),
                "acquireTime": _written(api.now),
                "renewTime": _written(api.now),
            },
        }
        try:
            return api.create(lease)["metadata"]["uid"], left
        except RefusedError as exc:
            if exc.status != CONFLICT:
                raise
        found = api.get("Lease", NAME)
        if found is None:
            continue
        if _is_abandoned(api, found):
            left = _unfinished(found)
            api.delete("Lease", NAME, uid=found["metadata"]["uid"])
            continue
        if time.monotonic() >= deadline:
            raise LockedError(
                f"the deployment is locked: {_words(found)}",
                hint="wait with `--lock-wait SECONDS`; if that run is gone for good: `astro deployment unlock`",
            )
        time.sleep(LOOK_SECONDS)


def _is_abandoned(api: KubernetesApi, found: Mapping[str, Any]) -> bool:
    notes = _notes(found)
    pid, _, started = notes.get(_PROCESS, "").partition(" ")
    if notes.get(_MACHINE) == this_machine() and not process.Identity(int(pid), started).is_alive:
        return True
    renewed = datetime.fromisoformat(found["spec"]["renewTime"].replace("Z", "+00:00"))
    return (api.now - renewed).total_seconds() > STALE_SECONDS


def _notes(found: Mapping[str, Any]) -> Mapping[str, str]:
    return found["metadata"].get("annotations") or {}


def _unfinished(found: Mapping[str, Any]) -> Unfinished:
    notes = _notes(found)
    number = notes.get(RELEASE)
    return Unfinished(
        who=notes.get(_WHO, "somebody"),
        purpose=notes.get(_PURPOSE, "something"),
        step=notes.get(STEP, "begin"),
        release=int(number) if number else None,
        backup=notes.get(BACKUP, ""),
    )


def _words(found: Mapping[str, Any]) -> str:
    left = _unfinished(found)
    since = str(found["spec"].get("acquireTime", ""))[:19]
    return f"{left.who} runs `{left.purpose}` since {since} UTC (step: {left.step})"


def _written(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
