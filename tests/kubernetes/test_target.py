"""Decisions of the target that need no cluster: whose things are whose, whose lock it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from astro_cli.deploy.kubernetes.api import KubernetesApi
from astro_cli.deploy.kubernetes.lock import LeaseStore
from astro_cli.deploy.kubernetes.target import KubernetesTarget, RegistryDoor
from astro_cli.deploy.lock import HeldLock, Holder, hold_lock, this_machine
from astro_cli.deploy.target import Secrets
from astro_cli.domain.repository import IDENTITY_TOKEN, Credentials, parse_repository
from astro_cli.foundation.errors import AstroError, LockedError, TargetError, UsageError
from tests.kubernetes.fakes import FakeCluster
from tests.kubernetes.rendered import NAMES, PLAIN

MINE = {"astro.project": "abcdef123456", "astro.deployment": "prod"}
LEASES = "/apis/coordination.k8s.io/v1/namespaces/shop/leases"
CONFLICT = (409, {"message": "it exists", "reason": "AlreadyExists"})


def door(cluster: FakeCluster) -> KubernetesApi:
    cluster.headers = {"Date": "Sat, 28 Nov 2026 12:01:00 GMT"}
    return KubernetesApi(cluster, "shop", "Kubernetes")


def target(cluster: FakeCluster, login: Credentials | None = None) -> KubernetesTarget:
    repository = parse_repository("r.example/shop")
    registry = RegistryDoor(repository, login, cast("Any", None), cast("Any", None))
    return KubernetesTarget(door(cluster), NAMES, PLAIN, registry)


def lease(*, renewed: str = "12:00:30", machine: str = "elsewhere", pid: int = 1) -> dict[str, Any]:
    notes = {
        "astro.holder": Holder("jo@far", "astro deploy", machine, pid, "2").to_json(),
        "astro.step": "roll",
        "astro.release": "4",
    }
    spec = {"acquireTime": "2026-11-28T11:00:00.000000Z", "renewTime": f"2026-11-28T{renewed}.000000Z"}
    return {"metadata": {"uid": "u", "labels": MINE, "annotations": notes}, "spec": spec}


def locks(cluster: FakeCluster) -> LeaseStore:
    return LeaseStore(door(cluster), NAMES)


def test_a_namespace_of_others_is_refused_with_the_way_to_give_it():
    cluster = FakeCluster({"GET /api/v1/namespaces/shop": (200, {"metadata": {"labels": {"team": "b"}}})})

    with pytest.raises(TargetError) as error:
        target(cluster).check()

    assert "the namespace `shop` exists and is not this deployment's" in error.value.message
    assert "kubectl label namespace shop astro.project=abcdef123456 astro.deployment=prod" in str(
        error.value.hint
    )


def test_a_namespace_that_is_ours_or_is_not_there_is_fine():
    target(FakeCluster({"GET /api/v1/namespaces/shop": (200, {"metadata": {"labels": MINE}})})).check()
    target(FakeCluster()).check()


def test_an_object_of_others_is_never_touched():
    foreign = (200, {"metadata": {"name": "airflow", "labels": {"app": "theirs"}}})
    cluster = FakeCluster({"GET /api/v1/namespaces/shop/serviceaccounts/airflow": foreign})

    with pytest.raises(
        AstroError, match="already has a ServiceAccount `airflow`, which is not this deployment's"
    ):
        target(cluster)._put({"kind": "ServiceAccount", "metadata": {"name": "airflow"}})

    assert not [asked for asked in cluster.asked if not asked.startswith("GET")]


def test_nodes_of_one_kind_are_the_platform():
    def node(architecture: str) -> dict[str, Any]:
        return {"status": {"nodeInfo": {"operatingSystem": "linux", "architecture": architecture}}}

    def platform(*nodes: dict[str, Any]) -> str:
        return target(FakeCluster({"GET /api/v1/nodes": (200, {"items": list(nodes)})})).platform()

    assert platform(node("arm64"), node("arm64")) == "linux/arm64"
    assert platform(node("arm64"), node("amd64")) == ""
    assert target(FakeCluster({"GET /api/v1/nodes": (403, {"message": "no"})})).platform() == ""


def test_whoever_makes_the_lease_holds_the_lock_and_takes_away_just_that_one():
    cluster = FakeCluster(
        {f"POST {LEASES}": (201, lease()), f"DELETE {LEASES}/lock": (200, {}), f"PATCH {LEASES}": (200, {})}
    )

    with hold_lock(locks(cluster), "astro deploy", 0) as held:
        held.step("roll", release="4")

    assert cluster.bodies[1]["metadata"]["annotations"] == {"astro.step": "roll", "astro.release": "4"}
    assert cluster.bodies[1]["metadata"]["uid"] == "u", "another's lease must not be renewed"
    assert cluster.bodies[-1]["preconditions"] == {"uid": "u"}


def test_a_second_one_is_told_who_is_at_work():
    cluster = FakeCluster({f"POST {LEASES}": CONFLICT, f"GET {LEASES}/lock": (200, lease())})

    with pytest.raises(
        LockedError, match=r"jo@far runs `astro deploy` since 2026-11-28T11:00:00 UTC .step: roll."
    ):
        hold_lock(locks(cluster), "astro deploy", 0).__enter__()


@pytest.mark.parametrize(
    "abandoned",
    [lease(renewed="11:59:30"), lease(machine=this_machine(), pid=4194304)],
    ids=["not renewed for a minute", "its process here is gone"],
)
def test_an_abandoned_lease_goes_to_the_next_with_what_was_begun(abandoned: dict[str, Any]):
    class Once(FakeCluster):
        def request(self, method: str, path: str, **options: Any) -> Any:
            answer = super().request(method, path, **options)
            if method == "DELETE":
                self.answers[f"POST {LEASES}"] = (201, lease())
            return answer

    cluster = Once(
        {
            f"POST {LEASES}": CONFLICT,
            f"GET {LEASES}/lock": (200, abandoned),
            f"DELETE {LEASES}/lock": (200, {}),
        }
    )

    with hold_lock(locks(cluster), "astro deploy", 0) as held:
        left = held.unfinished

    assert left is not None
    assert (left.step, left.release, left.who) == ("roll", 4, "jo@far")


def test_a_lock_that_was_taken_away_is_told(tmp_path: Path):
    cluster = FakeCluster({f"PATCH {LEASES}": (409, {"message": "uid differs"})})

    with pytest.raises(LockedError, match="another run has taken"):
        HeldLock(locks(cluster), "u", None).step("roll")


def test_a_lease_of_somebody_elses_is_no_lock_of_ours():
    theirs = {"metadata": {"uid": "t", "labels": {"team": "b"}}, "spec": {"holderIdentity": "them"}}
    cluster = FakeCluster({f"POST {LEASES}": CONFLICT, f"GET {LEASES}/lock": (200, theirs)})

    with pytest.raises(TargetError, match="the namespace `shop` has a Lease `lock` of somebody else's"):
        hold_lock(locks(cluster), "astro deploy", 0).__enter__()

    assert not [asked for asked in cluster.asked if asked.startswith("DELETE")]


def test_an_identity_token_is_no_login_with_which_nodes_could_pull():
    cluster = FakeCluster()
    with pytest.raises(UsageError, match=r"the login for r\.example is an identity token"):
        target(cluster, Credentials(IDENTITY_TOKEN, "secret"))._ensure_registry_login(Secrets())
    assert not [asked for asked in cluster.asked if not asked.startswith("GET")]
