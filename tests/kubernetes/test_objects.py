"""Releases as objects of Kubernetes, and whether Kubernetes knows all that is in them."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import kubernetes_validate
import pytest

from astro_cli.domain.deployments import Deployment, Storage
from tests.kubernetes.rendered import (
    BUNDLED,
    FULL,
    OWN,
    PLAIN,
    QUEUED,
    SHAPES,
    TASKS,
    WORKERS,
    by_name,
    objects,
    pods,
)

OLDEST, NEWEST = "1.25", "1.37"
"""The oldest and the newest release whose schemas are at hand; what Kubernetes 1.20 takes the lab shows."""


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_object_of_every_configuration_is_what_kubernetes_knows(shape: str, version: str):
    for each in objects(*SHAPES[shape]):
        kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_the_template_of_tasks_is_a_pod_that_kubernetes_knows(version: str):
    text = by_name(FULL)["ConfigMap/tasks-7"]["data"]["pod.yaml"]

    kubernetes_validate.validate(json.loads(text), version, strict=True)


def test_a_slip_of_the_pen_would_be_seen():
    wrong = copy.deepcopy(by_name()["Deployment/scheduler"])
    container = wrong["spec"]["template"]["spec"]["containers"][0]
    container["imagePullPolicyy"] = "Always"

    with pytest.raises(kubernetes_validate.ValidationError, match="imagePullPolicyy"):
        kubernetes_validate.validate(wrong, NEWEST, strict=True)


def test_the_newest_schemas_are_those_that_are_looked_at():
    assert kubernetes_validate.latest_version().startswith(NEWEST)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_pod_fulfils_the_standard_restricted(shape: str):
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted"""
    for name, pod in pods(*SHAPES[shape]).items():
        security = pod["securityContext"]
        assert security["runAsNonRoot"], name
        assert security["runAsUser"], name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
        assert all("hostPath" not in volume for volume in pod["volumes"]), name


def test_what_the_table_says_to_be_read_only_is():
    read_only = {
        name.partition("/")[2]
        for name, pod in pods().items()
        if pod["containers"][0]["securityContext"].get("readOnlyRootFilesystem")
    }

    assert read_only == {"api-server", "janitor", "postgres", "heads"}


def test_nobody_gets_a_token_of_the_cluster_but_who_needs_it():
    def tokens(deployment: Any) -> dict[str, str]:
        found = pods(deployment).items()
        return {name: pod["serviceAccountName"] for name, pod in found if pod["automountServiceAccountToken"]}

    assert tokens(PLAIN) == {}
    assert tokens(TASKS) == {"Deployment/scheduler": "scheduler", "Deployment/api-server": "api-server"}


def test_the_executor_may_do_no_more_than_it_must_and_nowhere_else():
    found = by_name(TASKS)

    assert found["Role/scheduler"]["rules"] == [
        {
            "apiGroups": [""],
            "resources": ["pods"],
            "verbs": ["create", "delete", "get", "list", "patch", "watch"],
        },
        {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
    ]
    assert found["Role/api-server"]["rules"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
        {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
    ]
    assert not [name for name in found if name.startswith("Cluster")]
    assert not [name for name in by_name(PLAIN) if name.startswith("Role")]


def test_a_task_gets_the_users_secrets_and_neither_keys_nor_the_database():
    def secrets(pod: dict[str, Any]) -> list[str]:
        volume = next(each for each in pod["volumes"] if each["name"] == "secrets")
        return [each["secret"]["name"] for each in volume["projected"]["sources"]]

    assert secrets(pods(TASKS)["task"]) == [BUNDLED["environment"]]
    assert BUNDLED["keys"] in secrets(pods(TASKS)["Deployment/scheduler"])


def test_no_value_of_a_secret_is_in_what_may_be_read():
    for name, each in by_name(FULL).items():
        if each["kind"] != "Secret":
            assert "horse" not in json.dumps(each), name


def test_secrets_never_change():
    assert by_name()["Secret/keys-1"]["immutable"] is True


def test_a_database_of_ones_own_needs_no_volume_and_no_server():
    found = by_name(PLAIN, OWN)

    assert not {"StatefulSet/postgres", "PersistentVolumeClaim/database", "Service/postgres"} & set(found)
    assert "PersistentVolumeClaim/backups" in found


def test_old_pods_serve_until_new_ones_are_ready():
    for name, each in by_name(FULL).items():
        if each["kind"] == "Deployment":
            assert each["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}, name
            assert each["spec"]["progressDeadlineSeconds"] == 300, name


def test_the_scheduler_may_finish_tasks_that_it_runs_itself():
    local, remote = pods()["Deployment/scheduler"], pods(FULL)["Deployment/scheduler"]

    assert local["terminationGracePeriodSeconds"] == 1800
    assert remote["terminationGracePeriodSeconds"] < 60, "its tasks are pods of their own"


def test_each_group_of_workers_is_a_deployment_that_finishes_its_tasks():
    found = by_name(WORKERS, QUEUED)
    worker, heavy = (found[f"Deployment/{name}"]["spec"] for name in ("worker", "heavy"))

    assert (worker["replicas"], heavy["replicas"]) == (2, 1)
    assert heavy["template"]["spec"]["terminationGracePeriodSeconds"] == 90
    assert found["Deployment/scheduler"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] < 60
    (container,) = heavy["template"]["spec"]["containers"]
    assert "--queues heavy,slow" in " ".join(container["args"])
    assert container["resources"]["limits"] == {"memory": str(2 * 1024**3)}
    assert {"name": "AIRFLOW__CORE__EXECUTOR", "value": "CeleryExecutor"} in container["env"]
    assert "PodDisruptionBudget/worker" in found
    assert "PodDisruptionBudget/heavy" not in found


def test_workers_hand_out_their_logs_where_no_volume_is_shared():
    def words(deployment: Deployment) -> str:
        (container,) = pods(deployment, QUEUED)["Deployment/worker"]["containers"]
        return " ".join([*container["args"], *(each["name"] for each in container["env"])])

    own, shared = words(WORKERS), words(replace(WORKERS, storage=Storage("fast", "20Gi", "shared")))
    assert ("--skip-serve-logs" in own, "HOSTNAME_CALLABLE" in own) == (False, True)
    assert ("--skip-serve-logs" in shared, "HOSTNAME_CALLABLE" in shared) == (True, False)


def test_the_brokers_password_is_with_it_and_with_airflow_alone():
    def roles(pod: dict[str, Any]) -> set[str]:
        volume = next((each for each in pod["volumes"] if each["name"] == "secrets"), None)
        return {each["secret"]["name"] for each in volume["projected"]["sources"]} if volume else set()

    found = {name: roles(pod) for name, pod in pods(WORKERS, QUEUED).items()}
    assert found["StatefulSet/broker"] == {QUEUED["broker-config"]}
    assert {name for name, each in found.items() if QUEUED["broker-config"] in each} == {"StatefulSet/broker"}
    assert QUEUED["broker"] in found["Deployment/worker"] & found["Deployment/scheduler"]
    assert QUEUED["broker"] not in found["StatefulSet/postgres"]


def test_copies_are_on_different_nodes_and_survive_their_maintenance():
    found = by_name(FULL)
    spread = found["Deployment/api-server"]["spec"]["template"]["spec"]["topologySpreadConstraints"]

    assert spread[0]["topologyKey"] == "kubernetes.io/hostname"
    assert spread[0]["labelSelector"]["matchLabels"]["astro.release"] == "7", "not beside those that go"
    assert found["PodDisruptionBudget/api-server"]["spec"]["maxUnavailable"] == 1
    assert "PodDisruptionBudget/triggerer" not in found, (
        "a budget for one pod would stop the node's maintenance"
    )
    assert "topologySpreadConstraints" not in pods()["Deployment/api-server"]


def test_what_is_limited_is_also_asked_for():
    resources = pods(FULL)["Deployment/scheduler"]["containers"][0]["resources"]

    assert resources["limits"] == {"memory": str(2 * 1024**3), "cpu": "1500m"}
    assert resources["requests"] == resources["limits"]
    assert pods()["Deployment/scheduler"]["containers"][0]["resources"] == {
        "requests": {"memory": "512Mi", "cpu": "100m"}
    }


def test_an_ingress_answers_for_the_url_with_the_certificate():
    found = by_name(FULL)
    ingress = found["Ingress/web"]["spec"]

    assert ingress["ingressClassName"] == "nginx"
    assert ingress["rules"][0]["host"] == "airflow.example"
    assert ingress["tls"] == [{"hosts": ["airflow.example"], "secretName": "certificate"}]
    assert found["Service/api-server"]["spec"]["type"] == "LoadBalancer"
    assert "Ingress/web" not in by_name()
    tls = found["Secret/certificate"]
    assert tls["type"] == "kubernetes.io/tls"
    assert ("BEGIN CERT" in tls["stringData"]["tls.crt"], "PRIVATE" in tls["stringData"]["tls.crt"]) == (
        True,
        False,
    )
    assert "PRIVATE" in tls["stringData"]["tls.key"]


def test_every_port_names_its_protocol():
    """Kubernetes 1.20 refuses to apply a Service without."""
    for name, each in by_name(FULL).items():
        if each["kind"] == "Service":
            assert all(port["protocol"] == "TCP" for port in each["spec"]["ports"]), name


def test_everything_carries_the_deployments_labels():
    for name, each in by_name(FULL).items():
        if name != "Secret/keys-1":
            marks = each["metadata"]["labels"]
            assert (marks["astro.project"], marks["astro.deployment"]) == ("abcdef123456", "prod"), name


def test_data_is_not_among_what_is_pruned():
    for name, each in by_name(FULL).items():
        pruned = each["metadata"]["labels"].get("astro.kind") == "object"
        assert not (pruned and each["kind"] == "PersistentVolumeClaim"), name


def test_task_logs_are_kept_where_a_class_of_shared_volumes_is_named():
    def logs(pod: dict[str, Any]) -> dict[str, Any]:
        return next(each for each in pod["volumes"] if each["name"].endswith("logs"))

    claim = by_name(FULL)["PersistentVolumeClaim/logs"]["spec"]
    assert (claim["accessModes"], claim["storageClassName"]) == (["ReadWriteMany"], "shared")
    assert logs(pods(FULL)["task"])["persistentVolumeClaim"] == {"claimName": "logs"}
    assert logs(pods(TASKS)["task"])["emptyDir"] == {}
