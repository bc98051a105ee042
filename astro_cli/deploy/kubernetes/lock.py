"""Where the lock of a deployment lies on Kubernetes: in a Lease, whose annotations are its marks."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from astro_cli.deploy.kubernetes.api import CONFLICT, NOT_FOUND, RefusedError
from astro_cli.deploy.kubernetes.objects import LOCK
from astro_cli.deploy.lock import STALE_SECONDS, Found, Holder
from astro_cli.foundation import labels
from astro_cli.foundation.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from astro_cli.deploy.kubernetes.api import KubernetesApi
    from astro_cli.deploy.stack import Names

NAME = "lock"
_HOLDER = "astro.holder"


class LeaseStore:
    """See `LockStore`."""

    def __init__(self, api: KubernetesApi, names: Names) -> None:
        self._api = api
        self._names = names

    def make(self, holder: Holder) -> str | None:
        """See `LockStore.make`."""
        now = _written(self._api.now)
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": NAME,
                "labels": {**self._names.labels, labels.KIND: LOCK},
                "annotations": {_HOLDER: holder.to_json()},
            },
            "spec": {
                "holderIdentity": holder.who,
                "leaseDurationSeconds": int(STALE_SECONDS),
                "acquireTime": now,
                "renewTime": now,
            },
        }
        try:
            return str(self._api.create(lease)["metadata"]["uid"])
        except RefusedError as exc:
            if exc.status != CONFLICT:
                raise
            return None

    def find(self) -> Found | None:
        """See `LockStore.find`."""
        lease = self._api.get("Lease", NAME)
        if lease is None:
            return None
        head, spec = lease["metadata"], lease["spec"]
        if (head.get("labels") or {}).get(labels.DEPLOYMENT) != self._names.deployment:
            raise TargetError(
                f"the namespace `{self._api.namespace}` has a Lease `{NAME}` of somebody else's",
                hint="give the deployment a namespace of its own, with `namespace` in .astro/config.yaml",
            )
        renewed = datetime.fromisoformat(spec["renewTime"].replace("Z", "+00:00"))
        holder = Holder.from_json(head["annotations"][_HOLDER])
        return Found(head["uid"], holder, head["annotations"], spec["acquireTime"], renewed)

    def touch(self, uid: str, marks: Mapping[str, str]) -> bool:
        """See `LockStore.touch`."""
        patch = {
            "metadata": {"uid": uid, "annotations": dict(marks)},
            "spec": {"renewTime": _written(self._api.now)},
        }
        try:
            self._api.merge("Lease", NAME, patch)
        except RefusedError as exc:
            if exc.status not in (NOT_FOUND, CONFLICT):
                raise
            return False
        return True

    def remove(self, uid: str) -> None:
        """See `LockStore.remove`."""
        self._api.delete("Lease", NAME, uid=uid)

    def now(self) -> datetime:
        """See `LockStore.now`."""
        return self._api.now


def _written(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
