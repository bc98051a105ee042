"""The door to a cluster: what is sent, and what its refusals mean."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from astro_cli.deploy.kubernetes.api import KubernetesApi, RefusedError, refusal
from astro_cli.deploy.kubernetes.cluster import connect
from astro_cli.domain.deployments import KUBERNETES, Deployment
from astro_cli.foundation.errors import AstroError, TargetError
from tests.kubernetes.fakes import FakeChannel, FakeCluster

POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}
DEPLOYMENT = Deployment("prod", (), target=KUBERNETES, registry="r.example/shop")


def api(cluster: FakeCluster) -> KubernetesApi:
    return KubernetesApi(cluster, "shop", "Kubernetes (lab)")


def refused(status: int, message: str, reason: str = "") -> AstroError:
    return refusal("Kubernetes (lab)", status, json.dumps({"message": message, "reason": reason}).encode())


def test_an_object_is_applied_by_the_server_with_our_name_for_what_we_own():
    cluster = FakeCluster({"PATCH": (200, POD)})

    api(cluster).apply(POD)

    assert cluster.asked == ["PATCH /api/v1/namespaces/shop/pods/p?fieldManager=astro&force=true"]
    assert cluster.types == ["application/apply-patch+yaml"]
    assert cluster.bodies == [POD]


def test_a_dry_run_says_so():
    cluster = FakeCluster({"PATCH": (200, POD), "POST": (201, POD)})

    api(cluster).apply(POD, dry_run=True)
    api(cluster).create(POD, dry_run=True)

    assert all("dryRun=All" in asked for asked in cluster.asked)


def test_a_group_has_an_address_of_its_own():
    cluster = FakeCluster({"GET": (200, {"items": []})})

    api(cluster).list("Deployment", "a=b")

    assert cluster.asked == ["GET /apis/apps/v1/namespaces/shop/deployments?labelSelector=a%3Db"]


@pytest.mark.parametrize(
    ("minor", "group"), [("20", "policy/v1beta1"), ("21+", "policy/v1"), ("37", "policy/v1")]
)
def test_budgets_are_where_the_clusters_version_has_them(minor: str, group: str):
    cluster = FakeCluster(
        {"GET /version": (200, {"major": "1", "minor": minor}), "GET /apis": (200, {"items": []})}
    )

    api(cluster).list("PodDisruptionBudget", "")

    assert cluster.asked[-1].startswith(f"GET /apis/{group}/")


def test_what_is_not_there_is_none_and_need_not_be_deleted():
    assert api(FakeCluster()).get("Pod", "p") is None
    assert api(FakeCluster()).delete("Pod", "p") is False


def test_the_clusters_own_clock_is_that_of_its_answers():
    cluster = FakeCluster({"GET": (200, POD)}, headers={"Date": "Sat, 28 Nov 2026 12:00:00 GMT"})
    door = api(cluster)

    door.get("Pod", "p")

    assert door.now.isoformat() == "2026-11-28T12:00:00+00:00"


@pytest.mark.parametrize(
    ("told", "code"),
    [
        (b'{"status": "Success"}', 0),
        (b'{"status": "Failure", "details": {"causes": [{"message": "3"}]}}', 3),
        (b"", 137),
        (b"not JSON", 137),
    ],
)
def test_the_code_of_a_command_is_in_its_last_channel(told: bytes, code: int):
    channel = FakeChannel({1: b"out", 2: b"err", 3: told})

    assert api(FakeCluster(channel=channel)).output_of("p", ["ls", "-l"], container="c") == (code, "out")
    assert channel.closed


def test_a_commands_words_stay_apart():
    cluster = FakeCluster(channel=FakeChannel({}))

    api(cluster).output_of("p", ["sh", "-c", "a b"], container="c")

    assert "command=sh&command=-c&command=a+b" in cluster.asked[0]


def test_lines_of_a_log_are_whole():
    cluster = FakeCluster({"GET": (200, b"2026 one\n2026 two\n2026 last")})

    assert list(api(cluster).lines("p", container="c")) == ["2026 one", "2026 two", "2026 last"]


@pytest.mark.parametrize("status", [400, 404])
def test_a_pod_that_has_not_begun_has_no_lines(status: int):
    assert list(api(FakeCluster({"GET": (status, {"message": "waiting"})})).lines("p", container="c")) == []


def test_a_missing_right_names_verb_resource_and_place():
    error = refused(
        403,
        'deployments.apps "x" is forbidden: User "jo" cannot patch resource "deployments" in API group "apps" '
        'in the namespace "shop"',
        "Forbidden",
    )

    assert error.message == "`jo` may not patch deployments.apps in the namespace shop"
    assert (error.exit_code, bool(error.hint)) == (7, True)


def test_a_quota_names_itself_and_its_numbers():
    error = refused(
        403, 'pods "x" is forbidden: exceeded quota: small, requested: pods=1, used: pods=2, limited: pods=2'
    )

    assert error.message == (
        "the quota `small` of the namespace is exceeded: requested: pods=1, used: pods=2, limited: pods=2"
    )
    assert error.exit_code == 7


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "Unauthorized"),
        (403, 'pods is forbidden: User "system:anonymous" cannot list resource "pods" in API group ""'),
    ],
)
def test_an_expired_login_says_so(status: int, message: str):
    error = refused(status, message)

    assert isinstance(error, TargetError)
    assert "refuses the login" in error.message


def test_anything_else_is_told_in_kubernetes_own_words():
    error = refused(422, "Service is invalid: spec.ports: Required value", "Invalid")

    assert isinstance(error, RefusedError)
    assert error.message == "Kubernetes (lab) refuses: Service is invalid: spec.ports: Required value"
    assert error.exit_code == 7


@pytest.mark.parametrize("data", [b"", b"<html>teapot</html>", b"[]", b'{"message": null}'])
def test_what_no_kubernetes_answers_is_no_traceback(data: bytes):
    assert refusal("here", 502, data).exit_code == 7


def test_an_answer_that_is_no_json_is_no_traceback():
    with pytest.raises(TargetError, match="does not answer as a Kubernetes does"):
        api(FakeCluster({"GET": (200, b"<html>")})).get("Pod", "p")


def kubeconfig(tmp_path: Path, server: str = "https://127.0.0.1:1") -> dict[str, str]:
    path = tmp_path / "config"
    content: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "lab",
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        "clusters": [{"name": "lab", "cluster": {"server": server}}],
        "users": [{"name": "lab", "user": {"token": "t"}}],
    }
    path.write_text(json.dumps(content))
    return {"KUBECONFIG": str(path), "HOME": str(tmp_path)}


def test_a_cluster_that_nobody_answers_for_is_one_sentence(tmp_path: Path):
    with pytest.raises(TargetError) as error:
        KubernetesApi(connect(DEPLOYMENT, kubeconfig(tmp_path)), "shop", "Kubernetes").get("Pod", "p")

    assert "cannot be reached at https://127.0.0.1:1" in error.value.message
    assert "Connection refused" in error.value.message
    assert error.value.hint


def test_an_unknown_context_is_named(tmp_path: Path):
    other = Deployment("prod", (), target=KUBERNETES, registry="r.example/shop", context="prod")

    with pytest.raises(TargetError, match="has no context `prod`"):
        connect(other, kubeconfig(tmp_path))


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(TargetError, match=r"there is no kubeconfig .*/missing"):
        connect(DEPLOYMENT, {"KUBECONFIG": str(tmp_path / "missing")})


@pytest.mark.parametrize("text", ["{", "[]", "a: b", "\0", "clusters: 5"])
def test_a_kubeconfig_that_is_none_is_one_sentence(text: str):
    with pytest.raises(TargetError, match="ASTRO_KUBECONFIG leads to no cluster"):
        connect(DEPLOYMENT, {"ASTRO_KUBECONFIG": text})


def test_the_text_of_a_kubeconfig_is_enough_for_a_ci_job(tmp_path: Path):
    text = Path(kubeconfig(tmp_path)["KUBECONFIG"]).read_text()

    assert connect(DEPLOYMENT, {"ASTRO_KUBECONFIG": text})


def test_without_the_client_the_way_to_it_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "kubernetes", None)

    with pytest.raises(TargetError) as error:
        connect(DEPLOYMENT, {})

    assert "for which astro lacks the package `kubernetes`" in error.value.message
    assert f"--python {sys.executable} 'kubernetes>=36'" in str(error.value.hint)
