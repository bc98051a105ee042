"""What is asked of pods: whether they would be let in, whether they are gone, and their lines."""

from __future__ import annotations

import heapq
import queue
import threading
import time
from typing import TYPE_CHECKING, Any

from astro_cli.deploy.target import RollError
from astro_cli.foundation import labels
from astro_cli.foundation.errors import AstroError
from astro_cli.runtime.engine import LogLine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from astro_cli.deploy.kubernetes.api import KubernetesApi
    from astro_cli.runtime.engine import LogQuery

LOOK_SECONDS = 1.0
GONE_SECONDS = 120.0
LAST_LINES = 20


class ClusterError(RollError):
    """What runs in a pod is not at fault that it does not run, but the cluster: no room, no image, no right."""

    code = "target"
    exit_code = 7


def cluster_error(words: str) -> ClusterError:
    """The error for what a pod's trouble says, with what to do about it."""
    hints = {
        "cannot pull": "the nodes must reach the registry, trust its certificate, and its login must be right",
        "no node takes it": "make room: lower `resources`, or add a node",
        "quota": "lower `replicas` or `resources`, or ask for a larger quota",
    }
    hint = next((hint for text, hint in hints.items() if text in words), "`kubectl describe pod` tells more")
    return ClusterError(words, hint=hint)


def try_pod(api: KubernetesApi, workload: Mapping[str, Any]) -> None:
    """Let the cluster say now what it would refuse a pod for later: a quota, a limit, a policy."""
    template = workload["spec"]["template"]
    marks = {"generateName": "astro-try-", "labels": template["metadata"]["labels"]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": marks, "spec": template["spec"]}
    api.create(pod, dry_run=True)


def wait_gone(
    look: Callable[[], object], failure: str, beat: Callable[[], None], seconds: float = GONE_SECONDS
) -> None:
    """Wait until nothing is seen any more.

    Args:
        beat: called while something still is.

    Raises:
        AstroError: it took longer.
    """
    end = time.monotonic() + seconds
    while look():
        if time.monotonic() > end:
            raise AstroError(failure)
        beat()
        time.sleep(LOOK_SECONDS)


def lines_of(api: KubernetesApi, pod: Mapping[str, Any], tail: int | None = None) -> list[str]:
    """Lines of a pod, at most the last `tail`; of its container before where the present one has said nothing."""
    name, container = pod["metadata"]["name"], pod["spec"]["containers"][0]["name"]
    lines = list(api.lines(name, container=container, tail=tail))
    if not lines and any(each.get("restartCount") for each in pod["status"].get("containerStatuses", ())):
        lines = list(api.lines(name, container=container, tail=tail, previous=True))
    return [line.partition(" ")[2] for line in lines]


def pod_logs(api: KubernetesApi, mine: str, query: LogQuery) -> Iterator[LogLine]:
    """Lines of every pod there is, tasks' included, merged in order of time.

    Args:
        mine: selects the pods.
    """
    since = int(time.time() - query.since) + 1 if query.since is not None else None
    pods: dict[str, tuple[str, str]] = {}
    for pod in api.list("Pod", mine):
        marks = pod["metadata"]["labels"]
        service = marks.get(labels.SERVICE) or marks.get(labels.KIND, "")
        if service and (not query.services or service in query.services):
            pods[pod["metadata"]["name"]] = (service, pod["spec"]["containers"][0]["name"])

    def lines(pod: str, *, follow: bool) -> Iterator[LogLine]:
        service, container = pods[pod]
        tail, past = (0, None) if follow else (query.tail, since)
        for line in api.lines(pod, container=container, follow=follow, tail=tail, since=past):
            moment, _, text = line.partition(" ")
            yield LogLine(moment, service, text)

    yield from heapq.merge(*(lines(pod, follow=False) for pod in pods), key=lambda line: line.timestamp)
    if query.follow:
        yield from _together([lines(pod, follow=True) for pod in pods])


def _together(streams: Sequence[Iterator[LogLine]]) -> Iterator[LogLine]:
    """Lines of several streams as they come, until all have ended."""
    inbox: queue.Queue[LogLine | AstroError | None] = queue.Queue()

    def listen(stream: Iterator[LogLine]) -> None:
        try:
            for line in stream:
                inbox.put(line)
        except AstroError as exc:
            inbox.put(exc)
        inbox.put(None)

    for stream in streams:
        threading.Thread(target=listen, args=(stream,), daemon=True).start()
    left = len(streams)
    while left:
        item = inbox.get()
        if isinstance(item, AstroError):
            raise item
        if item is None:
            left -= 1
        else:
            yield item
