"""What is understood of what workloads and pods say about themselves."""

from __future__ import annotations

from typing import Any

import pytest

from astro_cli.deploy.kubernetes.pod_state import Trouble, is_ready, is_up, lost, trouble


def workload(generation: int = 2, observed: int = 2, **status: Any) -> dict[str, Any]:
    counts = {"replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}
    return {
        "kind": "Deployment",
        "metadata": {"generation": generation},
        "spec": {"replicas": 1},
        "status": {"observedGeneration": observed, **counts, **status},
    }


def pod(*, restarts: int = 0, **state: Any) -> dict[str, Any]:
    container = {"image": "r/shop:1", "state": state, "restartCount": restarts}
    return {"metadata": {}, "status": {"containerStatuses": [container]}}


def test_a_deployment_is_up_once_all_its_pods_are_new_and_ready():
    assert is_up(workload())
    assert not is_up(workload(generation=3)), "the cluster has not seen the newest specification"
    assert not is_up(workload(replicas=2)), "an old one is still there"
    assert not is_up(workload(availableReplicas=0))
    assert not is_up({**workload(), "status": {}})


def test_a_set_is_up_by_its_ready_pods():
    assert is_up({**workload(readyReplicas=1), "kind": "StatefulSet"})
    assert not is_up({**workload(), "kind": "StatefulSet"})


def test_a_deployment_says_when_it_will_not_come_up():
    late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    refused = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: small"}

    assert lost(workload(conditions=[late])) == "did not become ready in time"
    assert lost(workload(conditions=[refused])) == "exceeded quota: small"
    assert lost(workload(observed=1, conditions=[late])) == "", "that was said of the one before"
    assert lost(workload()) == ""


def test_a_pod_that_no_node_takes_may_still_be_taken():
    waiting = {
        "type": "PodScheduled",
        "status": "False",
        "message": "0/2 nodes are available: 2 Insufficient memory.",
    }

    assert trouble({"metadata": {}, "status": {"conditions": [waiting]}}) == Trouble(
        "no node takes it: 0/2 nodes are available: 2 Insufficient memory.", cluster=True
    )


def test_why_an_image_cannot_be_pulled_is_remembered_until_it_is_final():
    first = trouble(pod(waiting={"reason": "ErrImagePull", "message": "x509: unknown authority"}))
    assert first == Trouble("its node cannot pull r/shop:1: x509: unknown authority", cluster=True)

    again = pod(waiting={"reason": "ImagePullBackOff", "message": "Back-off pulling image"})
    assert trouble(again, first.words) == Trouble(first.words, final=True, cluster=True)


def test_a_container_may_die_but_not_for_ever():
    died = {"lastState": {"terminated": {"exitCode": 1}}}

    def crashed(restarts: int) -> Trouble | None:
        found = pod(restarts=restarts, waiting={"reason": "CrashLoopBackOff"})
        found["status"]["containerStatuses"][0] |= died
        return trouble(found)

    assert crashed(1) == Trouble("died 1 times (exit code 1)")
    assert crashed(3) == Trouble("died 3 times (exit code 1)", final=True)


def test_too_little_memory_is_said_in_words():
    found = pod(restarts=3, waiting={"reason": "CrashLoopBackOff"})
    found["status"]["containerStatuses"][0]["lastState"] = {
        "terminated": {"exitCode": 137, "reason": "OOMKilled"}
    }

    assert trouble(found) == Trouble("died 3 times (out of memory)", final=True)


def test_what_cannot_be_mounted_is_the_clusters_fault():
    found = trouble(
        pod(waiting={"reason": "CreateContainerConfigError", "message": 'secret "keys-1" not found'})
    )

    assert found == Trouble(
        'its container cannot be made: secret "keys-1" not found', final=True, cluster=True
    )


@pytest.mark.parametrize(
    "status", [{}, {"phase": "Running", "containerStatuses": [{"image": "", "state": {"running": {}}}]}]
)
def test_a_pod_without_trouble_has_none(status: dict[str, Any]):
    assert trouble({"metadata": {}, "status": status}) is None


def test_a_pod_that_ends_is_not_ready_whatever_it_says():
    ready = {"metadata": {}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}

    assert is_ready(ready)
    assert not is_ready({**ready, "metadata": {"deletionTimestamp": "2026"}})
