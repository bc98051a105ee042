"""Deploys to a real Kubernetes: what runs there, what goes wrong, and what is left."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from tests.deploy.deployed import NAME, SECRET, Poller
from tests.kubernetes.live import NAMESPACE

if TYPE_CHECKING:
    from tests.kubernetes.live import Live

pytestmark = [pytest.mark.long, pytest.mark.engine, pytest.mark.deploy]


@pytest.fixture(autouse=True)
def _whole(live: Live) -> None:
    """No test begins while pods of the one before still end."""
    live.wait_whole()


def test_a_dag_runs_with_a_pod_for_each_task_that_sees_the_users_secrets_alone(live: Live) -> None:
    run = live.trigger(seconds=20)
    live.wait_for_task(run, "running")
    (pod,) = live.tasks()
    files = live.kubectl("exec", pod, "--", "sh", "-c", "ls /run/secrets/astro; id -u").split()
    assert files == ["user.json", "50000"]
    assert live.wait_for_run(run) == "success", live.story(run)
    assert live.result(run) == "v1 v1"
    assert "sleeping 20" in live.story(run), "the log of a task whose pod is gone"
    assert SECRET not in live.kubectl("get", "pods,deployments,configmaps,jobs", "-o", "yaml")
    row = {each["name"]: each for each in live.astro.json("deployment", "ps", NAME)["services"]}
    assert set(row) == {"postgres", "api-server", "scheduler", "dag-processor", "triggerer", "janitor"}
    assert all(each["running"] == each["wanted"] == 1 for each in row.values())


def test_dags_alone_restart_nothing(live: Live) -> None:
    before = live.names("pods", "astro.kind=object")
    live.write_version("v3")
    live.deploy("--dags")
    assert live.run() == "v3 v3"
    assert live.names("pods", "astro.kind=object") == before


def test_looking_into_what_runs(live: Live) -> None:
    assert live.astro("deployment", "run", "--of", NAME, "version").stdout.strip().startswith("3.")
    assert live.astro("deployment", "run", "--of", NAME, "nonsense", code=None).returncode == 2
    lines = live.astro.json("deployment", "logs", "scheduler", "--of", NAME, "--tail", "5")["lines"]
    assert lines
    assert {line["service"] for line in lines} == {"scheduler"}


def test_a_task_whose_pod_is_killed_runs_again(live: Live) -> None:
    run = live.trigger(seconds=60)
    live.wait_for_task(run, "running")
    (pod,) = live.tasks()
    live.kubectl("delete", pod, "--grace-period=0", "--force")
    assert live.wait_for_run(run, seconds=420) == "success", live.story(run)
    task = live.task(run)
    assert (task["state"], task["try_number"]) == ("success", 2)


def test_a_dry_run_shows_what_the_cluster_would_change_and_changes_nothing(live: Live) -> None:
    before = live.versions()
    with live.configured("    drain: 10m\n", "    drain: 10m\n    replicas: {api-server: 2}\n"):
        objects = live.astro.json("deploy", NAME, "--dry-run")["objects"]
        text = live.astro("deploy", NAME, "--dry-run").stdout
    assert live.versions() == before
    changed = {(each["action"], each["kind"], each["name"]): each["fields"] for each in objects}
    assert "spec.replicas: 1 → 2" in changed["change", "Deployment", "api-server"]
    assert ("create", "PodDisruptionBudget", "api-server") in changed
    assert ("change", "StatefulSet", "postgres") not in changed
    assert "create     PodDisruptionBudget/api-server" in text


def test_a_release_that_never_gets_ready_is_taken_back_and_the_old_one_serves(live: Live) -> None:
    release, images = live.release(), live.images()
    began = live.names("pods", "astro.service in (api-server,scheduler,postgres)")
    environment = "    env: {AIRFLOW__API__SSL_CERT: /nowhere.pem, AIRFLOW__API__SSL_KEY: /nowhere.pem}\n"
    with live.configured("    drain: 10m\n", f"    drain: 10m\n{environment}"), Poller(live.url) as poller:
        error = live.deploy("--wait", "240", code=5)
    assert f"release {live.current()} runs again" in error["message"]
    assert "api-server died" in error["message"], error
    assert poller.requests > 50
    assert poller.failures == []
    assert live.release() == release
    assert live.images() == images
    assert live.names("pods", "astro.service in (api-server,scheduler,postgres)") >= began
    assert live.releases()[-1]["result"] == "failed"


def test_no_node_that_takes_a_pod_ends_with_the_schedulers_own_reason(live: Live) -> None:
    with live.configured("    drain: 10m\n", "    drain: 10m\n    resources: {api-server: {memory: 900g}}\n"):
        error = live.deploy("--wait", "20", code=7)
    assert "0/2 nodes are available: 2 Insufficient memory" in error["message"]
    assert f"release {live.current()} runs again" in error["message"]


def test_a_quota_that_is_used_up_is_told_before_a_pod_is_made(live: Live) -> None:
    release, deployments = live.release(), live.images()
    pods = len(live.names("pods", "astro.kind=object"))
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"}}
    quota["spec"] = {"hard": {"pods": str(pods)}}  # type: ignore[assignment]
    live.kubectl("create", "-f", "-", input=json.dumps(quota))
    try:
        end = time.monotonic() + 60
        while not live.kubectl("get", "resourcequota", "small", "-o", "jsonpath={.status.hard.pods}"):
            assert time.monotonic() < end
            time.sleep(0.5)
        with live.configured("    drain: 10m\n", "    drain: 10m\n    env: {A: b}\n"):
            error = live.deploy(code=7)
    finally:
        live.kubectl("delete", "resourcequota", "small")
    assert "the quota `small` of the namespace is exceeded: requested: pods=1" in error["message"], error
    assert live.images() == deployments
    assert live.release() == release


def test_an_image_that_the_nodes_cannot_pull_is_told_before_anything_is_replaced(live: Live) -> None:
    release, images = live.release(), live.images()
    live.write_version("unpullable")
    for node in live.lab.nodes:
        node.run("mv", f"/etc/docker/certs.d/{live.lab.registry}", "/run/untrusted")
    try:
        error = live.deploy(code=7)
    finally:
        for node in live.lab.nodes:
            node.run("mv", "/run/untrusted", f"/etc/docker/certs.d/{live.lab.registry}")
    assert "its node cannot pull" in error["message"]
    assert "x509" in error["message"]
    assert live.images() == images
    assert live.release() == release


def test_a_rollback_and_another_executor(live: Live) -> None:
    """Tasks on the scheduler; what only the other executor needs goes."""
    release = live.release()
    live.write_version("v2")
    with live.configured("executor: kubernetes", "executor: local\n    replicas: {api-server: 2}"):
        live.deploy()
        assert live.run() == "v2 v2"
        nodes = live.kubectl(
            "get", "pods", "-l", "astro.service=api-server", "-o", "jsonpath={.items[*].spec.nodeName}"
        )
        assert set(nodes.split()) == {"node1", "node2"}
        budgets = live.kubectl(
            "get", "--raw", f"/apis/policy/v1beta1/namespaces/{NAMESPACE}/poddisruptionbudgets"
        )
        assert [each["spec"]["maxUnavailable"] for each in json.loads(budgets)["items"]] == [1]
        assert not live.names("roles")
        assert not live.names("configmaps", "astro.kind=object") - {"configmap/postgres"}
    live.astro("deployment", "rollback", NAME, str(release))
    assert live.run() == "v1 v1"
    assert live.names("roles") == {
        "role.rbac.authorization.k8s.io/api-server", "role.rbac.authorization.k8s.io/scheduler",
    }  # fmt: skip


def test_a_backup_that_is_put_back_is_the_database_of_then(live: Live) -> None:
    backup = live.astro.json("deployment", "backup", NAME)["backup"]
    live.request("POST", "/api/v2/variables", json={"key": "late", "value": "1"})
    live.astro("deployment", "restore", backup, "--of", NAME, "--yes")
    assert live.variable("late") is None
    assert live.run().startswith("v")
