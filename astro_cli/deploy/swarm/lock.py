"""Where the lock of a deployment lies on an engine in swarm mode: in a config, whose labels are its marks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from astro_cli.deploy.lock import Found, Holder
from astro_cli.deploy.swarm.api import CONFLICT, NOT_FOUND, config_text, parse_time
from astro_cli.foundation import labels
from astro_cli.runtime.docker_api import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from astro_cli.deploy.stack import Names
    from astro_cli.deploy.swarm.api import SwarmApi

_BEAT = "astro.beat"  # an update that changes nothing would not count as one


class SwarmLockStore:
    """See `LockStore`."""

    def __init__(self, api: SwarmApi, names: Names) -> None:
        self._api = api
        self._names = names
        self._name = names.of("lock")

    def make(self, holder: Holder) -> str | None:
        """See `LockStore.make`."""
        try:
            return self._api.store("configs", self._name, holder.to_json(), self._names.labels)
        except RefusedError as exc:
            if exc.status != CONFLICT:
                raise
            return None

    def find(self) -> Found | None:
        """See `LockStore.find`."""
        mine = f"{labels.DEPLOYMENT}={self._names.deployment}"
        config = self._api.stored("configs", mine).get(self._name)
        if config is None:
            return None
        holder = Holder.from_json(config_text(config))
        touched = parse_time(config["UpdatedAt"])
        return Found(config["ID"], holder, config["Spec"]["Labels"], config["CreatedAt"], touched)

    def touch(self, uid: str, marks: Mapping[str, str]) -> bool:
        """See `LockStore.touch`."""
        try:
            self._api.mark_config(uid, {_BEAT: str(time.time()), **marks})
        except RefusedError as exc:
            if exc.status != NOT_FOUND:
                raise
            return False
        return True

    def remove(self, uid: str) -> None:
        """See `LockStore.remove`."""
        self._api.forget("configs", uid)

    def now(self) -> datetime:
        """See `LockStore.now`."""
        return self._api.now()
