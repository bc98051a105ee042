"""What workloads and pods on Kubernetes say about how they do. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from astro_cli.foundation import labels

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Object = Mapping[str, Any]

DEATHS = 3
"""A container that died this often will not come up."""
_NO_IMAGE = ("ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
_NO_START = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")


@dataclass(frozen=True)
class Trouble:
    """Why a pod does not run.

    Attributes:
        final: whether it will not pass by itself.
        cluster: whether the cluster is at fault, and not what runs in the pod.
    """

    words: str
    final: bool = False
    cluster: bool = False


def release_of(thing: Object) -> int | None:
    """The release that an object belongs to; None for one that no release replaces."""
    found = (thing["metadata"].get("labels") or {}).get(labels.RELEASE)
    return int(found) if found else None


def is_ending(pod: Object) -> bool:
    """Whether a pod was told to end."""
    return "deletionTimestamp" in pod["metadata"]


def is_ready(pod: Object) -> bool:
    """Whether all of a pod's containers are well."""
    return not is_ending(pod) and _condition(pod, "Ready") == "True"


def is_up(workload: Object) -> bool:
    """Whether all pods of a Deployment or StatefulSet are of its present specification, and ready."""
    status, wanted = workload.get("status") or {}, workload["spec"].get("replicas", 1)
    if status.get("observedGeneration", 0) < workload["metadata"]["generation"]:
        return False
    ready = (
        status.get("availableReplicas", 0)
        if workload["kind"] == "Deployment"
        else status.get("readyReplicas", 0)
    )
    return bool(status.get("updatedReplicas", 0) == status.get("replicas", 0) == ready == wanted)


def lost(workload: Object) -> str:
    """Why a workload says that it will not come up; empty while it may."""
    status = workload.get("status") or {}
    if status.get("observedGeneration", 0) < workload["metadata"]["generation"]:
        return ""
    for condition in status.get("conditions", ()):
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return str(condition["message"])
        if condition["type"] == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded":
            return "did not become ready in time"
    return ""


def trouble(pod: Object, known: str = "") -> Trouble | None:
    """What keeps a pod from running.

    Args:
        known: what was the trouble before; why an image cannot be pulled is told only now and then.
    """
    status = pod.get("status") or {}
    for condition in status.get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return Trouble(f"no node takes it: {condition.get('message', '')}", cluster=True)
    for each in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        waiting = each["state"].get("waiting") or {}
        reason, message = waiting.get("reason", ""), waiting.get("message", "")
        if reason == "ErrImagePull":
            return Trouble(f"its node cannot pull {each['image']}: {message}", cluster=True)
        if reason in _NO_IMAGE:
            words = known or f"its node cannot pull {each['image']}: {message or reason}"
            return Trouble(words, final=True, cluster=True)
        if reason in _NO_START:
            return Trouble(f"its container cannot be made: {message or reason}", final=True, cluster=True)
        ended = (each.get("lastState") or {}).get("terminated") or each["state"].get("terminated") or {}
        if each.get("restartCount", 0) >= DEATHS or reason == "CrashLoopBackOff":
            times = each.get("restartCount", 0)
            return Trouble(f"died {times} times ({_ending(ended)})", final=times >= DEATHS)
        if ended and ended.get("exitCode"):
            return Trouble(f"died ({_ending(ended)})")
    if status.get("reason") == "Evicted":
        return Trouble(f"was evicted: {status.get('message', '')}", cluster=True)
    return None


def _ending(ended: Object) -> str:
    return (
        "out of memory" if ended.get("reason") == "OOMKilled" else f"exit code {ended.get('exitCode', '?')}"
    )


def newest(pods: Iterable[Object]) -> list[Object]:
    """Pods, the newest first."""
    return sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), reverse=True)


def _condition(pod: Object, kind: str) -> str:
    conditions = (pod.get("status") or {}).get("conditions", ())
    return next((str(each["status"]) for each in conditions if each["type"] == kind), "")
