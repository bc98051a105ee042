"""Runs Jobs to their end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from astro_cli.deploy.kubernetes import pod_state
from astro_cli.deploy.kubernetes.pods import (
    LAST_LINES,
    LOOK_SECONDS,
    cluster_error,
    lines_of,
    try_pod,
    wait_gone,
)
from astro_cli.foundation.errors import AstroError

if TYPE_CHECKING:
    from collections.abc import Callable

    from astro_cli.deploy.kubernetes.api import KubernetesApi

JOB_SECONDS = 3600.0
PENDING_SECONDS = 180.0
"""That a job may wait for a node, and for its image to arrive."""


class Jobs:
    """The Jobs of one namespace.

    Args:
        beat: called while something is waited for.
    """

    def __init__(self, api: KubernetesApi, beat: Callable[[], None]) -> None:
        self._api = api
        self._beat = beat

    def run(self, job: dict[str, Any], failure: str) -> list[str]:
        """Run a Job to its end; returns its lines.

        Args:
            failure: what it means to the user that it failed.

        Raises:
            AstroError: it failed.
            ClusterError: the cluster does not let it run.
        """
        name = job["metadata"]["name"]
        if self._api.delete("Job", name, foreground=True):  # left by a run that was killed
            wait_gone(lambda: self._api.get("Job", name), f"the job `{name}` does not go", self._beat)
        try_pod(self._api, job)
        made = self._api.create(job)
        try:
            return self._watch(name, made["metadata"]["uid"], failure)
        finally:
            self._api.delete("Job", name)

    def _watch(self, name: str, uid: str, failure: str) -> list[str]:
        began, known = time.monotonic(), ""
        while time.monotonic() < began + JOB_SECONDS:
            found = self._api.list("Pod", f"controller-uid={uid}")
            pod = found[0] if found else None
            phase = pod["status"].get("phase", "") if pod else ""
            trouble = pod_state.trouble(pod, known) if pod else None
            if pod and phase == "Succeeded":
                return lines_of(self._api, pod)
            if pod and phase == "Failed":
                reason = f": {trouble.words}" if trouble else ""
                lines = lines_of(self._api, pod, LAST_LINES)
                raise AstroError(f"{failure}{reason}", hint="nothing was replaced", details=tuple(lines))
            late = time.monotonic() > began + PENDING_SECONDS and phase != "Running"
            if trouble is not None and (trouble.final or late):
                raise cluster_error(f"the job `{name}` cannot run: {trouble.words}")
            if late:
                raise cluster_error(f"the job `{name}` did not begin within {PENDING_SECONDS:.0f} s")
            known = trouble.words if trouble else known
            self._beat()
            time.sleep(LOOK_SECONDS)
        raise AstroError(f"{failure}: it did not end within {JOB_SECONDS / 60:.0f} minutes")
