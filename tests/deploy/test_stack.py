"""Releases as services of an engine in swarm mode."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from astro_cli.deploy import stack
from astro_cli.deploy.secret_store import address_and_password
from astro_cli.deploy.swarm import specs
from astro_cli.deploy.swarm.proxy import proxy_container
from astro_cli.domain.deployments import Deployment, Host, Publish, Resources
from astro_cli.domain.releases import Release
from astro_cli.domain.workers import WorkerGroup

NAMES = stack.Names("abcdef123456", "My Shop!", "prod")
SECRETS = {
    "keys": "keys-1",
    "connection": "connection-1",
    "environment": "environment-3",
    "login": "login-1",
    "database": "database-1",
    "address": "address-1",
}
IDS = {name: f"id-of-{name}" for name in SECRETS.values()}
DEPLOYMENT = Deployment(
    "prod",
    (Host("ssh://vm", "vm"),),
    replicas={"api-server": 2},
    resources={"scheduler": Resources(memory=2 * 1024**3, cpus=1.5)},
    drain=90,
    env={"ENVIRONMENT": "production"},
    secrets=("TOKEN",),
)


def release(deployment: Deployment = DEPLOYMENT) -> Release:
    return Release(
        id=7,
        time="",
        image="sha256:1",
        content="c",
        airflow_version="3.3.2",
        heads="h",
        configuration=deployment.on_target(),
        secrets=SECRETS,
        companions={"postgres": "sha256:2", "proxy": "sha256:3"},
    )


def services(deployment: Deployment = DEPLOYMENT) -> dict[str, Any]:
    made = release(deployment)
    return {
        service.name: specs.airflow_service(NAMES, service, made, IDS) for service in stack.airflow_services()
    }


def container(service: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = service["TaskTemplate"]["ContainerSpec"]
    return found


def environment(service: dict[str, Any]) -> dict[str, str]:
    return dict(line.split("=", 1) for line in container(service)["Env"])


def test_names_hold_the_project_and_the_deployment_and_are_no_hostname_trouble():
    assert NAMES.of("api-server") == "my-shop-prod-api-server"
    assert stack.Names("x", "!", "a").prefix == "project-a"
    assert len(stack.Names("x", "p" * 50, "d" * 24).of("postgres-0123456789ab")) <= 63


def test_every_row_of_the_table_but_the_database_is_a_service_of_the_release():
    assert list(services()) == ["api-server", "scheduler", "dag-processor", "triggerer", "janitor"]
    for service in services().values():
        assert container(service)["Image"] == "sha256:1"
        assert service["Labels"]["astro.release"] == "7"


def test_new_ones_start_before_old_ones_end_and_no_service_is_undone_alone():
    for service in services().values():
        assert service["UpdateConfig"]["Order"] == "start-first"
        assert service["UpdateConfig"]["FailureAction"] == "pause"


def test_services_find_each_other_without_virtual_addresses():
    assert {service["EndpointSpec"]["Mode"] for service in services().values()} == {"dnsrr"}
    assert services()["api-server"]["TaskTemplate"]["Networks"][0]["Aliases"] == ["api-server"]


def test_the_scheduler_may_finish_its_tasks():
    grace = {
        name: container(service)["StopGracePeriod"] // specs.SECOND for name, service in services().items()
    }

    assert grace.pop("scheduler") == 90
    assert set(grace.values()) == {30}
    assert environment(services()["scheduler"])["AIRFLOW__CORE__EXECUTOR"] == "astro_executor.LocalExecutor"


def test_old_logs_and_history_go_after_the_days_of_the_configuration():
    assert container(services()["janitor"])["Args"][-4:] == [
        "/opt/airflow/logs",
        "30",
        "90",
        "/run/astro/dags",
    ]


def test_the_janitor_alone_may_remove_versions_of_the_dags():
    writers = [
        name
        for name, service in services().items()
        for mount in container(service)["Mounts"]
        if mount["Target"] == stack.DAGS_FOLDER and not mount["ReadOnly"]
    ]

    assert writers == ["janitor"]


def test_a_release_that_knew_no_janitor_has_none():
    old = replace(release(), configuration={"replicas": {}})

    parts = [service.name for service in stack.airflow_services() if stack.is_part_of(service, old)]

    assert parts == ["api-server", "scheduler", "dag-processor", "triggerer"]


def test_replicas_and_limits_are_those_of_the_configuration():
    api, scheduler = services()["api-server"], services()["scheduler"]

    assert api["Mode"] == {"Replicated": {"Replicas": 2}}
    assert scheduler["TaskTemplate"]["Resources"]["Limits"] == {
        "MemoryBytes": 2 * 1024**3,
        "NanoCPUs": 1_500_000_000,
    }


def test_nothing_has_rights_it_does_not_need():
    made = [*services().values(), postgres()]

    for service in made:
        assert container(service)["CapabilityDrop"] == ["ALL"]
        assert not container(service)["User"].startswith("0")
        assert "Ports" not in service["EndpointSpec"]


def test_what_runs_no_code_of_tasks_can_write_nothing_but_its_volumes_and_tmp():
    made = {**services(), "postgres": postgres()}

    read_only = {name for name, service in made.items() if container(service).get("ReadOnly")}

    assert read_only == {"api-server", "janitor", "postgres"}
    for name in read_only:
        assert "/tmp" in [mount["Target"] for mount in container(made[name])["Mounts"]]
    assert environment(services()["api-server"])["AIRFLOW_CONFIG"].startswith("/tmp/")


def postgres() -> dict[str, Any]:
    return specs.postgres_service(NAMES, release(), IDS, config=("settings-1", "id-of-settings-1"))


def test_secrets_are_files_for_those_who_need_them():
    airflow = {each["SecretName"] for each in container(services()["scheduler"])["Secrets"]}
    database = {each["SecretName"] for each in container(postgres())["Secrets"]}

    assert airflow == {"keys-1", "connection-1", "environment-3", "login-1"}
    assert database == {"database-1"}
    assert {each["File"]["Mode"] for each in container(postgres())["Secrets"]} == {0o400}


def test_login_is_needed_and_the_configuration_is_not_shown():
    variables = environment(services()["api-server"])

    assert variables["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS"] == "False"
    assert variables["AIRFLOW__API__EXPOSE_CONFIG"] == "False"


def test_an_auth_manager_of_the_users_own_replaces_ours():
    own = Deployment("prod", (Host("ssh://vm", "vm"),), env={"AIRFLOW__CORE__AUTH_MANAGER": "my.Manager"})

    variables = environment(services(own)["api-server"])

    assert variables["AIRFLOW__CORE__AUTH_MANAGER"] == "my.Manager"
    assert not [name for name in variables if "SIMPLE_AUTH" in name]


def test_a_job_runs_once_in_the_new_image_with_its_environment():
    job = specs.airflow_job(NAMES, "migrate", release(), IDS, ["airflow", "db", "migrate"])

    assert job["Mode"] == {"ReplicatedJob": {"MaxConcurrent": 1, "TotalCompletions": 1}}
    assert job["TaskTemplate"]["RestartPolicy"] == {"Condition": "none"}
    assert container(job)["Args"][-3:] == ["airflow", "db", "migrate"]
    assert container(job)["Env"] == container(services()["scheduler"])["Env"]


def test_the_database_does_not_depend_on_the_release():
    assert json.dumps(postgres()) == json.dumps(
        specs.postgres_service(
            NAMES,
            Release(**{**release().__dict__, "id": 8, "image": "sha256:9"}),
            IDS,
            config=("settings-1", "id-of-settings-1"),
        )
    )


@pytest.mark.parametrize("certificate", ["", "-----BEGIN CERTIFICATE-----"])
def test_the_proxy_speaks_tls_where_it_has_a_certificate(certificate: str):
    publish = DEPLOYMENT.on_target()["publish"]

    spec = proxy_container("sha256:3", publish, certificate)

    files = {file.path: file.content for file in spec.files}
    assert ("ssl crt /run/astro/tls.pem" in files["/run/astro/haproxy.cfg"]) is bool(certificate)
    assert files.get("/run/astro/tls.pem", "") == certificate
    assert spec.ports == {8080: 8080}


def test_the_address_in_the_browser_follows_the_configuration():
    assert Publish(8080).base_url == "http://localhost:8080"
    assert Publish(443, "203.0.113.7", "cert.pem").base_url == "https://203.0.113.7:443"
    assert Publish(8080, url="https://airflow.example").base_url == "https://airflow.example"


@pytest.mark.parametrize(
    ("address", "lines"),
    [
        ("postgresql://u:pw@h:5432/db", ["postgresql://u@h:5432/db", "pw"]),
        ("postgresql://u:p%40%3A%2F@h/db?sslmode=require", ["postgresql://u@h/db?sslmode=require", "p@:/"]),
        ("postgresql://u@h/db", ["postgresql://u@h/db", ""]),
    ],
)
def test_the_databases_password_is_no_argument(address: str, lines: list[str]):
    assert address_and_password(address).splitlines() == lines


SPREAD = replace(
    DEPLOYMENT,
    target="swarm",
    registry="registry.example:5000/team/shop",
    executor="celery",
    workers=(
        WorkerGroup("worker", count=3),
        WorkerGroup("gpu", count=1, concurrency=2, queues=("gpu", "big")),
    ),
)
SPREAD_SECRETS = {role: f"{role}-1" for role in ("broker", "broker-config", "registry", "authority")}
SPREAD_IDS = {**IDS, **{name: f"id-of-{name}" for name in SPREAD_SECRETS.values()}}


def spread_release(deployment: Deployment = SPREAD) -> Release:
    made = release(deployment)
    companions = {**made.companions, "broker": "sha256:4"}
    return replace(made, secrets={**SECRETS, **SPREAD_SECRETS}, companions=companions)


def spread_services(deployment: Deployment = SPREAD) -> dict[str, Any]:
    made = spread_release(deployment)
    return {row.name: specs.airflow_service(NAMES, row, made, SPREAD_IDS) for row in stack.services_of(made)}


def test_on_several_nodes_there_are_groups_of_workers_and_a_log_server_on_each():
    made = spread_services()
    assert list(made) == [
        *("api-server", "log-server", "scheduler", "dag-processor", "triggerer", "janitor", "worker", "gpu")
    ]
    assert made["log-server"]["Mode"] == {"Global": {}}
    assert made["worker"]["Mode"] == {"Replicated": {"Replicas": 3}}
    arguments = container(made["gpu"])["Args"]
    assert arguments[arguments.index("celery") :][:6] == [
        *("celery", "worker", "--concurrency", "2", "--queues", "gpu,big")
    ]


def test_workers_may_finish_their_tasks_and_the_scheduler_then_has_none():
    grace = {
        name: container(each)["StopGracePeriod"] // specs.SECOND for name, each in spread_services().items()
    }
    assert (grace["worker"], grace["gpu"], grace["scheduler"]) == (90, 90, 30)
    local = spread_services(replace(SPREAD, executor="local", workers=()))
    assert container(local["scheduler"])["StopGracePeriod"] // specs.SECOND == 90
    assert environment(local["scheduler"])["AIRFLOW__CORE__EXECUTOR"] == "astro_executor.LocalExecutor"


def test_the_log_server_of_a_node_is_called_as_its_tasks_say():
    made = spread_services()
    name = container(made["log-server"])["Hostname"]
    assert environment(made["worker"])["ASTRO_LOG_HOST"] == name == "logs-{{.Node.Hostname}}"
    assert environment(made["worker"])["AIRFLOW__CORE__HOSTNAME_CALLABLE"] == "astro_node.log_host"


def test_dags_come_from_the_registry_with_login_and_authority_from_secrets():
    worker = spread_services()["worker"]
    (bundle,) = json.loads(environment(worker)["AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"])
    assert bundle["kwargs"] == {
        "tag": "dags-my-shop-prod-7",
        "url": "https://registry.example:5000",
        "repository": "team/shop",
        "credentials": "/run/secrets/astro/registry",
        "ca": "/run/secrets/astro/authority",
        "refresh_interval": 2,
    }
    files = {each["File"]["Name"] for each in container(worker)["Secrets"]}
    assert {"/run/secrets/astro/registry", "/run/secrets/astro/authority"} <= files
    assert [each["Target"] for each in container(worker)["Mounts"]] == ["/opt/airflow/logs"]


def test_the_tag_of_a_version_of_the_dags_fits_into_a_registry():
    long = stack.Names("x", "p" * 50, "d" * 24)
    tag = stack.dags_tag(long, replace(spread_release(), id=99_999))
    assert len(f"{tag}-{'0' * 64}") <= 128


def test_database_broker_and_backups_are_where_their_data_is():
    made = spread_release()
    pinned = [
        specs.postgres_service(NAMES, made, SPREAD_IDS, config=("c", "i")),
        specs.broker_service(NAMES, made, SPREAD_IDS),
        specs.postgres_job(NAMES, "backup", made, SPREAD_IDS, "true"),
    ]
    for service in pinned:
        assert service["TaskTemplate"]["Placement"] == {
            "Constraints": ["node.labels.astro.data.my-shop-prod==true"]
        }
    assert "Placement" not in specs.postgres_job(NAMES, "backup", release(), IDS, "true")["TaskTemplate"]


def test_two_tasks_of_the_database_never_write_to_one_volume():
    made = specs.postgres_service(NAMES, spread_release(), SPREAD_IDS, config=("c", "i"))
    assert container(made)["Command"][:2] == ["flock", "--no-fork"]
    alone = specs.postgres_service(NAMES, release(), IDS, config=("c", "i"))
    assert "Command" not in container(alone), "a single node cannot be cut off from itself"


def test_with_a_database_of_ones_own_the_broker_may_be_anywhere():
    made = spread_release(replace(SPREAD, database="secret:DATABASE_URL"))
    assert "Placement" not in specs.broker_service(NAMES, made, SPREAD_IDS)["TaskTemplate"]


def test_the_proxy_has_the_port_of_every_node():
    made = specs.proxy_service(NAMES, spread_release(), SPREAD_IDS, config=("c", "i"))
    assert made["Mode"] == {"Global": {}}
    assert made["UpdateConfig"]["Order"] == "stop-first", "two cannot have one port"
    assert made["EndpointSpec"] == {
        "Mode": "dnsrr",
        "Ports": [{"Protocol": "tcp", "TargetPort": 8080, "PublishMode": "host", "PublishedPort": 8080}],
    }


def test_a_host_with_workers_shares_its_logs_and_dags_in_volumes():
    made = release(replace(DEPLOYMENT, executor="celery", workers=(WorkerGroup("worker", count=2),)))
    made = replace(made, secrets={**SECRETS, **SPREAD_SECRETS})
    rows = {row.name: row for row in stack.services_of(made)}
    assert "log-server" not in rows
    worker = specs.airflow_service(NAMES, rows["worker"], made, SPREAD_IDS)
    assert [each["Target"] for each in container(worker)["Mounts"]] == [
        "/opt/airflow/logs",
        stack.DAGS_FOLDER,
    ]
    assert "ASTRO_LOG_HOST" not in environment(worker)
    assert "Placement" not in worker["TaskTemplate"]
