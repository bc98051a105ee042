"""What `astro export` writes: files for other tools, rendered from the table of services. One is run for real in
tests/engine/test_export.py."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from astro_cli.cli import build_app
from astro_cli.domain.deployments import Deployment, Host, Publish, Resources
from astro_cli.domain.project import Project, find_project
from astro_cli.domain.services import SERVICES
from astro_cli.foundation.errors import ProjectError
from astro_cli.workflows.export import EXECUTORS, compose, helm_values

HOST = Host("ssh://vm1", "vm1")
PROD = Deployment(
    "prod",
    (HOST,),
    registry="registry.example/team/shop",
    replicas={"api-server": 2, "scheduler": 2},
    resources={"scheduler": Resources(memory=2 * 1024**3, cpus=1.5), "postgres": Resources(memory=1024**3)},
    parallelism=8,
    drain=90,
    env={"PRICE": "5$ {{ no template }} \"quoted\" 'ünï'"},
    secrets=("SLACK_TOKEN",),
)
SERVICES_OF_THE_PROJECT = """
services:
  redis:
  http-stub:
    fixtures: dags
    connections: {github: /github}
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    done = CliRunner().invoke(build_app(), ["airflow", "init", str(tmp_path / "shop"), "--name", "My_Shop"])
    assert done.exit_code == 0, done.output
    return find_project(tmp_path / "shop")


def composed(project: Project, deployment: Deployment | None = None) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(compose(project, deployment, folder=project.root, environ={}).text)
    return found


def values(project: Project, deployment: Deployment | None = None, executor: str = "local") -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(helm_values(project, deployment, executor=executor).text)
    return found


# compose


def test_compose_has_every_row_of_the_table_and_the_migration(project: Project):
    services = composed(project)["services"]

    assert set(services) == {*(row.name for row in SERVICES), "migrate"}
    for row in SERVICES:
        if row.command and row.name != "api-server":  # that one first writes the admin's password
            assert services[row.name]["command"] == ["airflow", *row.command]
        assert (services[row.name].get("read_only") is True) is row.read_only
        assert (row.health in str(services[row.name].get("healthcheck"))) or not row.health


def test_nothing_runs_before_the_migration_and_that_not_before_the_database(project: Project):
    services = composed(project)["services"]
    after = {"migrate": {"condition": "service_completed_successfully"}}

    assert {str(services[row.name]["depends_on"]) for row in SERVICES if row.command} == {str(after)}
    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert services["migrate"]["restart"] == "no"


def test_nothing_in_compose_is_root_or_open_to_the_network(project: Project):
    for service in composed(project)["services"].values():
        assert not service["user"].startswith("0")
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_every_secret_is_asked_for_and_none_is_in_the_file(project: Project):
    (project.root / ".env").write_text("API_TOKEN=hunter2\nAIRFLOW_CONN_X=http://u:hunter3@h\n")

    exported = compose(project, None, folder=project.root, environ={})

    assert "hunter" not in exported.text
    assert set(re.findall(r"\$\{(\w+):\?\}", exported.text)) == set(exported.needed)
    assert "AIRFLOW_ADMIN_PASSWORD" not in composed(project)["services"]["scheduler"]["environment"]


def test_without_a_deployment_the_projects_env_file_holds_and_wins(project: Project):
    (project.root / ".env").write_text(
        "AIRFLOW__CORE__PARALLELISM=3\nAIRFLOW__API__BASE_URL=http://elsewhere\n"
    )

    scheduler = composed(project)["services"]["scheduler"]

    assert scheduler["env_file"] == "./.env"
    assert "AIRFLOW__CORE__PARALLELISM" not in scheduler["environment"]
    assert scheduler["environment"]["AIRFLOW__API__BASE_URL"] == "http://localhost:${AIRFLOW_PORT:-8080}"


def test_a_broken_env_file_is_said_with_its_line(project: Project):
    (project.root / ".env").write_text("A=1\njust words\n")

    with pytest.raises(ProjectError, match=r"\.env:2"):
        compose(project, None, folder=project.root, environ={})


def test_a_deployments_configuration_is_in_compose(project: Project):
    (project.root / ".env").write_text("A=1\n")

    services = composed(project, PROD)["services"]

    scheduler = services["scheduler"]
    assert (scheduler["scale"], scheduler["mem_limit"], scheduler["cpus"]) == (2, 2 * 1024**3, 1.5)
    assert scheduler["stop_grace_period"] == "90s"
    assert scheduler["environment"]["AIRFLOW__CORE__PARALLELISM"] == "8"
    assert scheduler["environment"]["SLACK_TOKEN"] == "${SLACK_TOKEN:?}"
    assert scheduler["environment"]["PRICE"] == PROD.env["PRICE"].replace("$", "$$")
    assert services["postgres"]["mem_limit"] == 1024**3
    assert "env_file" not in scheduler, ".env is the sandbox's"
    assert "scale" not in services["api-server"], "one port has room for one"


def test_a_database_of_ones_own_needs_no_other(project: Project):
    found = composed(project, replace(PROD, database="secret:DATABASE_URL"))

    assert "postgres" not in found["services"]
    assert list(found["volumes"]) == ["logs"]
    variables = found["services"]["triggerer"]["environment"]
    assert variables["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == "${DATABASE_URL:?}"
    assert "DATABASE_URL" not in variables


def test_an_auth_manager_of_ones_own_needs_no_password_of_ours(project: Project):
    own = replace(PROD, env={"AIRFLOW__CORE__AUTH_MANAGER": "my.Manager"})

    exported = compose(project, own, folder=project.root, environ={})

    assert "AIRFLOW_ADMIN_PASSWORD" not in exported.text
    assert yaml.safe_load(exported.text)["services"]["api-server"]["command"] == ["airflow", "api-server"]
    assert "login" not in str(values(project, own)["apiServer"])


def test_no_file_needs_a_program_of_astro(project: Project):
    assert "/opt/astro" not in compose(project, PROD, folder=project.root, environ={}).text
    assert "astro_executor" not in compose(project, PROD, folder=project.root, environ={}).text
    assert "/opt/astro" not in helm_values(project, PROD, executor="local").text


def test_the_project_is_found_from_the_folder_of_the_file(project: Project, tmp_path: Path):
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)

    text = compose(project, None, folder=folder, environ={}).text

    context = yaml.safe_load(text)["x-airflow"]["build"]["context"]
    assert (folder / context).resolve() == project.root.resolve()


@pytest.mark.parametrize("deployment", [None, PROD], ids=["alone", "prod"])
def test_docker_compose_takes_the_file(project: Project, tmp_path: Path, deployment: Deployment | None):
    if shutil.which("docker-compose") is None:
        pytest.skip("the program docker-compose is missing: apt-get install docker-compose")
    exported = compose(project, deployment, folder=project.root, environ={})
    file = project.root / "docker-compose.yaml"
    file.write_text(exported.text)
    secrets = {name: f"value-of-{name}" for name in exported.needed}
    check = ["docker-compose", "--file", str(file), "config"]

    done = subprocess.run(check, env={**os.environ, **secrets}, text=True, capture_output=True)

    assert done.returncode == 0, done.stderr
    told = yaml.safe_load(done.stdout)["services"]["scheduler"]["environment"]
    assert told["AIRFLOW__CORE__FERNET_KEY"] == "value-of-AIRFLOW__CORE__FERNET_KEY"
    if deployment is not None:  # `config` writes a plain $ as $$
        assert told["PRICE"].replace("$$", "$") == PROD.env["PRICE"]
    refused = subprocess.run(check, env=dict(os.environ), text=True, capture_output=True)
    assert refused.returncode != 0
    assert any(name in refused.stderr for name in exported.needed), refused.stderr


# helm

CHART: dict[str, Any] = {
    "airflowVersion": str,
    "executor": str,
    "images": {"airflow": {"repository": str, "pullPolicy": str}},
    "dags": {"persistence": {"enabled": bool}, "gitSync": {"enabled": bool}},
    "postgresql": {"enabled": bool},
    "redis": {"enabled": bool},
    "workers": {"replicas": int},
    "data": {"metadataSecretName": str},
    "fernetKeySecretName": str,
    "apiSecretKeySecretName": str,
    "jwtSecretName": str,
    "env": [{"name": str, "value": str}],
    "secret": [{"envName": str, "secretName": str, "secretKey": str}],
    "migrateDatabaseJob": {"enabled": bool, "useHelmHooks": bool},
    "createUserJob": {"enabled": bool},
    **{
        name: {
            "enabled": bool,
            "replicas": int,
            "args": [str],
            "resources": {"limits": {"memory": str, "cpu": str}},
            "podDisruptionBudget": {"enabled": bool, "config": {"maxUnavailable": int}},
            "livenessProbe": {"command": [str]},
            "startupProbe": {"command": [str]},
            "logGroomerSidecar": {"enabled": bool},
            "extraVolumes": [
                {"name": str, "secret": {"secretName": str, "items": [{"key": str, "path": str}]}}
            ],
            "extraVolumeMounts": [{"name": str, "mountPath": str, "readOnly": bool}],
        }
        for name in ("apiServer", "scheduler", "dagProcessor", "triggerer")
    },
}
"""Where the chart 1.22 has which kind of value, as far as we write any: from its documentation."""


def misfits(found: object, shape: object, path: str = "") -> list[str]:
    """Places of `found` that are not of the shape."""
    if isinstance(shape, dict) and isinstance(found, dict):
        unknown = [f"{path}.{key}: unknown" for key in found if key not in shape]
        return unknown + [
            line for key in found if key in shape for line in misfits(found[key], shape[key], f"{path}.{key}")
        ]
    if isinstance(shape, list) and isinstance(found, list):
        return [line for i, each in enumerate(found) for line in misfits(each, shape[0], f"{path}[{i}]")]
    if isinstance(shape, type) and type(found) is shape:
        return []
    return [f"{path}: {found!r}"]


@pytest.mark.parametrize("deployment", [None, PROD], ids=["alone", "prod"])
@pytest.mark.parametrize("executor", EXECUTORS)
def test_helm_values_are_where_the_chart_looks_for_them(
    project: Project, executor: str, deployment: Deployment | None
):
    found = values(project, deployment, executor)

    assert misfits(found, CHART) == []
    assert misfits({**found, "exekutor": "x"}, CHART) == [".exekutor: unknown"]
    assert found["executor"] == EXECUTORS[executor]
    assert found["redis"]["enabled"] is (executor == "celery")


def test_helm_values_name_secrets_and_hold_none(project: Project):
    exported = helm_values(project, PROD, executor="kubernetes")
    found = yaml.safe_load(exported.text)

    assert found["secret"] == [
        {"envName": "SLACK_TOKEN", "secretName": "my-shop-airflow", "secretKey": "SLACK_TOKEN"}
    ]
    assert {"fernet-key", "jwt-secret", "api-secret-key", "connection", "SLACK_TOKEN"} < set(exported.needed)
    names = {entry["name"] for entry in found["env"]}
    assert not names & {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__CORE__FERNET_KEY", "SLACK_TOKEN"}


def test_a_deployments_configuration_is_in_helm_values(project: Project):
    found = values(project, replace(PROD, publish=Publish(url="https://airflow.example")))
    variables = {entry["name"]: entry["value"] for entry in found["env"]}

    assert found["images"]["airflow"]["repository"] == "registry.example/team/shop"
    assert found["scheduler"]["replicas"] == 2
    assert found["scheduler"]["resources"] == {"limits": {"memory": str(2 * 1024**3), "cpu": "1.5"}}
    assert variables["PRICE"] == PROD.env["PRICE"]
    assert variables["AIRFLOW__API__BASE_URL"] == "https://airflow.example"
    assert "AIRFLOW__CORE__EXECUTOR" not in variables, "the chart sets it"


def test_helm_values_say_that_nobody_ran_them_here(project: Project):
    assert "astro has NOT run it with helm" in helm_values(project, None, executor="local").text


# the commands


def test_what_is_left_out_is_said(project: Project, monkeypatch: pytest.MonkeyPatch):
    with (project.root / ".astro/config.yaml").open("a") as stream:
        stream.write(SERVICES_OF_THE_PROJECT)
    monkeypatch.chdir(project.root)

    for words in (["export", "compose"], ["export", "helm-values"]):
        done = CliRunner().invoke(build_app(), words)

        assert done.exit_code == 0, done.output
        assert "http-stub: set AIRFLOW_CONN_GITHUB" in done.stderr
        assert "redis: set AIRFLOW_CONN_REDIS_DEFAULT" in done.stdout, "in the file as well"
        assert set(yaml.safe_load(done.stdout).get("services", {})) <= {
            *(row.name for row in SERVICES),
            "migrate",
        }


@pytest.mark.parametrize("what", ["compose", "helm-values"])
def test_a_file_that_is_there_is_replaced_only_with_force(
    project: Project, monkeypatch: pytest.MonkeyPatch, what: str
):
    monkeypatch.chdir(project.root)
    for force, code in ((), 0), ((), 2), (("--force",), 0):
        done = CliRunner().invoke(build_app(), ["export", what, "--output", "out.yaml", *force])
        assert done.exit_code == code, done.output
    assert yaml.safe_load(Path("out.yaml").read_text())
    assert Path("out.yaml").stat().st_mode & 0o777 == 0o644
