"""A worker outside of a deployment as a container and as files, and what the deployment knows of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import yaml

from astro_cli.deploy import stack
from astro_cli.deploy.edge import plan
from astro_cli.deploy.swarm import specs
from astro_cli.domain import image
from astro_cli.domain.deployments import Publish
from astro_cli.domain.edge import EdgeGroup
from tests.deploy.test_stack import (
    DEPLOYMENT,
    IDS,
    NAMES,
    SECRETS,
    SPREAD,
    SPREAD_IDS,
    release,
    spread_release,
)

EDGE = (EdgeGroup("onsite", ("plc", "camera"), 2, secrets=("TOKEN",)), EdgeGroup("lab", ("lab",)))
URL = "https://airflow.example"
OUTSIDE = replace(DEPLOYMENT, edge=EDGE, publish=Publish(url=URL))
TOLD = {"key": "the-key", "secrets": {"TOKEN": "the-token"}}
BUNDLES = "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"


def environment(made: Any, service: str = "scheduler") -> dict[str, str]:
    rows = {row.name: row for row in stack.services_of(made)}
    ids = SPREAD_IDS if stack.is_spread(made) else IDS
    container = specs.airflow_service(NAMES, rows[service], made, ids)["TaskTemplate"]["ContainerSpec"]
    return dict(line.split("=", 1) for line in container["Env"])


def test_a_release_has_two_executors_and_an_api_for_workers():
    found = environment(release(OUTSIDE))
    edge = "edge:airflow.providers.edge3.executors.EdgeExecutor"
    assert found["AIRFLOW__CORE__EXECUTOR"] == f"astro_executor.LocalExecutor,{edge}"
    assert found["AIRFLOW__EDGE__API_ENABLED"] == "True"
    assert found["ASTRO_EDGE_QUEUES"] == "plc,camera,lab"
    spread = environment(spread_release(replace(SPREAD, edge=EDGE, publish=Publish(url=URL))))
    assert spread["AIRFLOW__CORE__EXECUTOR"] == f"CeleryExecutor,{edge}"


def test_a_release_without_is_what_it_was():
    assert not {name for name in environment(release()) if "EDGE" in name}
    assert environment(release())["AIRFLOW__CORE__EXECUTOR"] == "astro_executor.LocalExecutor"


def test_a_worker_reaches_the_deployment_by_its_web_address_alone():
    found = plan.worker_environment(NAMES, release(OUTSIDE))
    assert found["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == f"{URL}/execution/"
    assert found["AIRFLOW__EDGE__API_URL"] == f"{URL}/edge_worker/v1/rpcapi"
    (bundle,) = json.loads(found[BUNDLES])
    assert bundle["classpath"] == "astro_edge_bundle.EdgeDagBundle"
    assert bundle["kwargs"] == {"tag": "release-7", "url": URL, "refresh_interval": 2}
    assert found["AIRFLOW__EDGE__DRAIN_TIMEOUT_SEC"] == "90"
    assert found["ENVIRONMENT"] == "production"
    assert "api-server" not in " ".join(found.values())


def test_a_worker_of_a_swarm_knows_neither_its_nodes_nor_its_registry():
    made = spread_release(replace(SPREAD, edge=EDGE, publish=Publish(url=URL)))
    found = plan.worker_environment(NAMES, made)
    assert "ASTRO_LOG_HOST" not in found
    assert "AIRFLOW__CORE__HOSTNAME_CALLABLE" not in found
    assert "registry.example" not in " ".join(found.values())


def test_the_container_has_its_secrets_in_a_file_and_nowhere_else():
    spec = plan.container(
        NAMES, release(OUTSIDE), "onsite", "plant1", image="sha256:9", secrets=plan.secrets_text(TOLD)
    )
    assert spec.name == "onsite-plant1-7"
    assert spec.command[-5:] == ("onsite-plant1-7", "--queues", "plc,camera", "--concurrency", "2")
    assert spec.user == "50000:0"
    assert spec.stop_seconds > OUTSIDE.drain
    (file,) = spec.files
    assert json.loads(file.content) == {
        "TOKEN": "the-token",
        "AIRFLOW__API_AUTH__JWT_SECRET": "the-key",
    }
    shown = repr(replace(spec, files=()))
    assert "the-key" not in shown
    assert "the-token" not in shown
    assert spec.marks["astro.edge"] == "onsite"


def test_the_compose_file_is_whole_and_holds_no_secret():
    made = replace(release(OUTSIDE), image="registry.example/team/shop@sha256:1")
    text = plan.compose_text(NAMES, made, "lab", "bench")
    body = yaml.safe_load(text)
    worker = body["services"]["worker"]
    assert worker["image"] == made.image
    assert worker["volumes"] == ["./secrets.json:/run/secrets/astro/edge.json:ro"]
    assert worker["cap_drop"] == ["ALL"]
    assert worker["user"] == "50000:0"
    assert worker["stop_grace_period"] == "150s"
    assert "lab-bench-7" in worker["command"]
    assert worker["environment"]["AIRFLOW__EDGE__API_URL"].startswith(URL)
    assert not [value for value in SECRETS.values() if value in text]
    assert "sudo chown 50000 secrets.json" in text


def test_a_dollar_is_one_for_compose_too():
    made = release(replace(OUTSIDE, env={"PRICE": "5$ or ${MORE}"}))
    worker = yaml.safe_load(plan.compose_text(NAMES, made, "lab", "bench"))["services"]["worker"]
    assert worker["environment"]["PRICE"] == "5$$ or $${MORE}"


def test_workers_of_other_releases_that_still_take_tasks_are_told():
    workers = [
        {"name": "onsite-a-7", "state": "idle"},
        {"name": "onsite-b-6", "state": "running"},
        {"name": "onsite-c-6", "state": "terminating"},
        {"name": "onsite-d-5", "state": "offline"},
        {"name": "by-hand", "state": "idle"},
    ]
    assert plan.older(workers, release(OUTSIDE)) == ["onsite-b-6"]


@pytest.mark.parametrize(("remote", "pinned"), [("", True), ("False", True), ("True", False)])
def test_api_servers_of_a_swarm_share_the_volume_that_logs_from_outside_go_to(remote: str, pinned: bool):
    env = {"AIRFLOW__LOGGING__REMOTE_LOGGING": remote} if remote else {}
    made = spread_release(replace(SPREAD, edge=EDGE, publish=Publish(url=URL), env=env))
    api_server = specs.airflow_service(NAMES, stack.services_of(made)[0], made, SPREAD_IDS)
    assert ("Constraints" in api_server["TaskTemplate"]["Placement"]) is pinned
    plain = specs.airflow_service(NAMES, stack.services_of(made)[0], spread_release(), SPREAD_IDS)
    assert "Constraints" not in plain["TaskTemplate"]["Placement"]


def test_the_layer_brings_provider_and_programs_and_leaves_the_user():
    text = image.layer_dockerfile(image.EDGE_LAYER, "base", "50000:0")
    assert "import airflow.providers.edge3" in text
    assert text.endswith("COPY code/ /opt/astro/deploy/\nUSER 50000:0\n")
    names = {file.name for file in image.layer_files(image.EDGE_LAYER)}
    assert {"edge.lock", "code/edge_worker.py", "code/astro_edge-1.dist-info/entry_points.txt"} <= names
    other = image.layer_files(image.KUBERNETES_LAYER)
    assert [file.name for file in other] == ["kubernetes.lock"]
    assert "COPY code/" not in image.layer_dockerfile(image.KUBERNETES_LAYER, "base", "root")
