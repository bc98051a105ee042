"""Where the values of secrets come from, and that none of them is told to anybody."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from astro_cli.deploy.secret_values import resolve_certificate, resolve_secrets
from astro_cli.domain.deployments import Deployment, Host, Publish
from astro_cli.foundation.errors import AstroError, ProjectError

HOST = Host("ssh://vm", "vm")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


def private(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_environment_wins_over_the_file_and_that_over_the_command(root: Path):
    file = private(root.parent / "prod.env", "A=file\nB=file\n")
    command = (sys.executable, "-c", "import sys; print('command', sys.argv[1])")
    deployment = Deployment(
        "prod", (HOST,), secrets=("A", "B", "C"), secret_file=str(file), secret_command=command
    )

    found = resolve_secrets(deployment, root, {"A": "environment"})

    assert found.user == {"A": "environment", "B": "file", "C": "command C"}


def test_database_and_certificate_are_no_variables_of_tasks(root: Path):
    deployment = Deployment(
        "prod", (HOST,), secrets=("A",), database="secret:DB", publish=Publish(certificate="secret:TLS")
    )

    found = resolve_secrets(deployment, root, {"A": "1", "DB": "postgresql://db", "TLS": "PEM"})

    assert (found.user, found.database, found.certificate) == ({"A": "1"}, "postgresql://db", "PEM")


def test_a_certificate_may_be_a_file(root: Path):
    file = private(root.parent / "tls.pem", "PEM\n")

    deployment = Deployment("prod", (HOST,), publish=Publish(certificate=str(file)))

    assert resolve_secrets(deployment, root, {}).certificate == "PEM\n"


def test_going_back_needs_no_secret_but_the_certificate(root: Path):
    deployment = Deployment(
        "prod", (HOST,), secrets=("A",), database="secret:DB", publish=Publish(certificate="secret:TLS")
    )

    found = resolve_certificate(deployment, root, {"TLS": "PEM"})

    assert (found.user, found.database, found.certificate) == ({}, "", "PEM")


def test_every_missing_one_is_named(root: Path):
    with pytest.raises(ProjectError, match="no value for the secrets A, C of `prod`"):
        resolve_secrets(Deployment("prod", (HOST,), secrets=("A", "B", "C")), root, {"B": "1"})


def test_a_file_that_others_can_read_is_refused(root: Path):
    file = private(root.parent / "prod.env", "A=1\n", mode=0o644)

    with pytest.raises(ProjectError, match="can be read by others"):
        resolve_secrets(Deployment("prod", (HOST,), secrets=("A",), secret_file=str(file)), root, {})


def test_a_file_inside_the_project_is_refused(root: Path):
    private(root / "prod.env", "A=1\n")

    with pytest.raises(ProjectError, match="lies inside the project"):
        resolve_secrets(Deployment("prod", (HOST,), secrets=("A",), secret_file="prod.env"), root, {})


def test_a_file_that_is_not_there_leaves_the_environment(root: Path):
    deployment = Deployment("prod", (HOST,), secrets=("A",), secret_file="~/of-somebody-else.env")

    assert resolve_secrets(deployment, root, {"A": "1"}).user == {"A": "1"}


def test_a_command_that_fails_is_named_but_not_what_it_wrote(root: Path):
    command = (sys.executable, "-c", "print('canary'); raise SystemExit(4)")

    with pytest.raises(AstroError, match=r"failed for A \(exit code 4\)") as error:
        resolve_secrets(Deployment("prod", (HOST,), secrets=("A",), secret_command=command), root, {})

    assert "canary" not in f"{error.value}{error.value.details}"


def test_values_do_not_show_when_somebody_prints_them(root: Path):
    deployment = Deployment("prod", (HOST,), secrets=("A",), database="secret:DB")

    assert "canary" not in repr(resolve_secrets(deployment, root, {"A": "canary", "DB": "canary"}))
