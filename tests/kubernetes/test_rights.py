"""What a deployment must be allowed to do, and how it is told what it may not."""

from __future__ import annotations

from typing import Any

import pytest

from astro_cli.deploy.kubernetes.api import KubernetesApi
from astro_cli.deploy.kubernetes.rights import Right, needed, require
from astro_cli.foundation.errors import TargetError
from tests.kubernetes.fakes import FakeCluster
from tests.kubernetes.rendered import FULL, PLAIN, TASKS

REVIEWS = "POST /apis/authorization.k8s.io/v1/selfsubject"


def cluster(rules: list[dict[str, Any]], *, allowed: bool = False) -> FakeCluster:
    return FakeCluster(
        {
            f"{REVIEWS}rulesreviews": (201, {"status": {"resourceRules": rules}}),
            f"{REVIEWS}accessreviews": (201, {"status": {"allowed": allowed}}),
        }
    )


def check(found: FakeCluster, *rights: Right) -> None:
    require(KubernetesApi(found, "shop", "Kubernetes"), rights)


EVERYTHING = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}


def test_who_may_do_everything_is_asked_once():
    found = cluster([EVERYTHING])

    check(found, *needed(FULL, new=True))

    assert len(found.asked) == 1


def test_what_is_missing_is_named_by_verb_and_resource():
    rules = [{"verbs": ["get", "list"], "apiGroups": ["", "apps"], "resources": ["*"]}]

    with pytest.raises(TargetError) as error:
        check(
            cluster(rules),
            Right("pods", "get"),
            Right("pods", "create"),
            *[Right("deployments", verb, "apps") for verb in ("get", "patch", "delete")],
        )

    assert error.value.message == (
        "the login may not do this in the namespace shop: create pods; patch, delete deployments.apps"
    )
    assert error.value.exit_code == 7


def test_a_list_of_rules_that_is_not_complete_is_no_refusal():
    check(cluster([], allowed=True), Right("pods", "create"))


def test_a_right_to_one_object_is_none_to_all():
    rules = [{**EVERYTHING, "resourceNames": ["one"]}]

    with pytest.raises(TargetError):
        check(cluster(rules), Right("pods", "create"))


def test_part_of_a_resource_is_a_right_of_its_own():
    found = cluster([{"verbs": ["*"], "apiGroups": [""], "resources": ["pods"]}])

    with pytest.raises(TargetError, match="get pods/log"):
        check(found, Right("pods/log", "get"))
    assert found.bodies[-1]["spec"]["resourceAttributes"]["subresource"] == "log"


def test_no_right_is_asked_for_that_nothing_needs():
    def resources(deployment: Any) -> set[str]:
        return {right.resource for right in needed(deployment, new=False)}

    assert resources(TASKS) - resources(PLAIN) == {"roles", "rolebindings"}
    assert resources(FULL) - resources(TASKS) == {"ingresses", "poddisruptionbudgets"}
    assert Right("namespaces", "create") in needed(PLAIN, new=True)
    assert Right("namespaces", "create") not in needed(PLAIN, new=False)
    assert not [right for right in needed(FULL, new=False) if right.verb == "*"]
