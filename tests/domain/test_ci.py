"""What `astro ci init` writes. Its lines are run for real in tests/deploy/test_ci_jobs.py."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path, PurePosixPath

import pytest
import yaml

from astro_cli.domain.ci import PATHS, workflow
from astro_cli.domain.deployments import Deployment, Host
from tests.deploy.ci_jobs import scripts
from tests.test_cli import astro

SSH_HOST = Host("ssh://deploy@vm1:2222", address="deploy@vm1", port=2222)
PROD = Deployment("prod", (SSH_HOST,), registry="registry.example/team/shop", secrets=("SLACK_TOKEN",))


@pytest.mark.parametrize("system", PATHS)
def test_every_script_is_valid_shell_and_names_no_expression_of_the_ci_system(system: str) -> None:
    found = scripts(system, workflow(system, PROD, branch="main").content)
    assert any("astro deploy prod --dry-run" in text for text in found)
    assert any("astro deploy prod --yes" in text for text in found)
    for text in found:
        assert "${{" not in text, "a branch's name could become a command"
        subprocess.run(["bash", "-n", "-c", text], check=True)


@pytest.mark.parametrize("system", PATHS)
def test_it_asks_for_the_secrets_that_this_deployment_needs_and_no_others(system: str) -> None:
    names = {"ASTRO_SSH_KEY", "ASTRO_SSH_KNOWN_HOSTS", "ASTRO_REGISTRY_USERNAME", "ASTRO_REGISTRY_PASSWORD"}
    whole = workflow(system, PROD, branch="main").content
    assert all(name in whole for name in (*names, "SLACK_TOKEN"))
    plain = workflow(system, Deployment("prod", (SSH_HOST,)), branch="main").content
    assert "ASTRO_SSH_KEY" in plain
    assert "ASTRO_REGISTRY" not in plain
    assert "SLACK_TOKEN" not in plain


@pytest.mark.parametrize("system", [name for name in PATHS if name != "jenkins"])
def test_it_is_yaml_without_empty_parts(system: str) -> None:
    for deployment in (PROD, Deployment("prod", (SSH_HOST,))):
        text = workflow(system, deployment, branch="release/1").content
        assert None not in _values(yaml.safe_load(text)), text
        assert "release/1" in text
        assert not re.search(r"[ \t]$|\n\n\n|{[{%]", text.replace("${{", ""), re.MULTILINE)


def _values(node: object) -> list[object]:
    if isinstance(node, dict):
        # `on: pull_request:` has no value by GitHub's own rules.
        return [each for key, value in node.items() if key != "pull_request" for each in _values(value)]
    if isinstance(node, list):
        return [each for value in node for each in _values(value)]
    return [node]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    assert astro("airflow", "init", cwd=tmp_path).returncode == 0
    with (tmp_path / ".astro/config.yaml").open("a") as file:
        file.write("deployments:\n  prod:\n    host: ssh://deploy@vm1\n  test:\n    host: ssh://deploy@vm2\n")
    return tmp_path


@pytest.mark.parametrize(("system", "path"), PATHS.items())
def test_the_command_writes_where_the_system_looks(project: Path, system: str, path: PurePosixPath) -> None:
    told = astro("ci", "init", system, "--deployment", "test", cwd=project)
    assert told.returncode == 0, told.stderr
    assert "astro deploy test --yes" in (project / path).read_text()
    assert "ASTRO_SSH_KEY" in told.stderr


def test_a_file_that_is_there_stays_unless_forced(project: Path) -> None:
    mine = project / "Jenkinsfile"
    mine.write_text("mine\n")
    told = astro("ci", "init", "jenkins", "--deployment", "prod", cwd=project)
    assert told.returncode == 3
    assert "--force" in told.stderr
    assert mine.read_text() == "mine\n"
    assert astro("ci", "init", "jenkins", "--deployment", "prod", "--force", cwd=project).returncode == 0
    assert "pipeline {" in mine.read_text()


def test_a_deployment_is_never_guessed(project: Path) -> None:
    told = astro("ci", "init", "github", cwd=project)
    assert told.returncode == 2
    assert "prod" in told.stderr
    assert "test" in told.stderr


def test_a_branch_that_would_be_a_command_is_refused(project: Path) -> None:
    told = astro("ci", "init", "gitlab", "--deployment", "prod", "--branch", "main;reboot", cwd=project)
    assert told.returncode == 2
    assert not (project / ".gitlab-ci.yml").exists()


@pytest.mark.parametrize("system", PATHS)
def test_a_job_for_a_cluster_brings_the_client_and_asks_for_its_login(system: str):
    cluster = Deployment("prod", (), target="kubernetes", registry="r.example/shop")

    text = workflow(system, cluster, branch="main").content

    assert "ASTRO_EXTRAS=kubernetes bash" in text
    assert "ASTRO_KUBECONFIG" in text
    assert "ASTRO_SSH_KEY" not in text
    assert (
        "ASTRO_EXTRAS"
        not in workflow(system, Deployment("prod", (Host("ssh://vm", "vm"),)), branch="main").content
    )
