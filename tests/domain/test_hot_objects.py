from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from astro_cli.domain.airflow import CONTAINER
from astro_cli.domain.build_context import project_context
from astro_cli.domain.hot_objects import BACKEND, backend_environment, read_hot_files
from astro_cli.foundation.errors import ProjectError
from tests.domain.test_services import make_stack

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """
warehouse:
  conn_type: postgres
  host: db.example
  port: 5432
  extra: {sslmode: require}
api: https://user:token@api.example
other: {uri: "http://x"}
"""


def write(root: Path, connections: str | None = None, variables: str | None = None) -> Path:
    (root / "secrets").mkdir(exist_ok=True)
    if connections is not None:
        (root / "secrets/connections.yaml").write_text(connections)
    if variables is not None:
        (root / "secrets/variables.yaml").write_text(variables)
    return root


def test_a_project_without_the_files_has_none_and_configures_no_backend(tmp_path: Path):
    assert read_hot_files(tmp_path) == {}
    assert backend_environment((), "/opt/airflow") == {}
    assert not any(name.startswith("AIRFLOW__SECRETS__") for name in make_stack().environment)


def test_the_ids_in_both_files_are_found(tmp_path: Path):
    write(tmp_path, GOOD, "greeting: hello\nday: '1'\n")
    assert read_hot_files(tmp_path) == {
        "connections": ("warehouse", "api", "other"),
        "variables": ("greeting", "day"),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:\n  conn_type: x\n  hots: y\n", 'secrets/connections.yaml:3: unknown key "hots" in a'),
        ("a:\n  host: y\n", 'secrets/connections.yaml:2: missing key "conn_type" in a'),
        ("a:\n  conn_type: x\n  port: many\n", "secrets/connections.yaml:3: a.port must be a whole number"),
        ("a:\n  conn_type: x\n  password: 123\n", "secrets/connections.yaml:3: a.password must be text"),
        ("a:\n  uri: x://y\n  host: z\n", "secrets/connections.yaml:2: a has a `uri` and other parts"),
        ("a: warehouse\n", "secrets/connections.yaml:1: a is neither a URI nor a mapping"),
        ("a: [x, y]\n", "secrets/connections.yaml:1: a must be a mapping"),
        ("a: {conn_type: x, extra: {b: 1}, extra_dejson: {b: 1}}\n", "both `extra` and `extra_dejson`"),
        ("- a\n", "must be a mapping"),
        ("# nothing yet\n", "secrets/connections.yaml:1: the file is empty"),
        ("a: {conn_type: x\n", "secrets/connections.yaml:"),
    ],
)
def test_what_airflow_would_not_understand_is_an_error_with_its_line(tmp_path: Path, text: str, message: str):
    with pytest.raises(ProjectError) as raised:
        read_hot_files(write(tmp_path, text))
    assert message in raised.value.message


def test_a_variable_that_is_no_text_is_an_error_with_its_line(tmp_path: Path):
    with pytest.raises(ProjectError, match=r"secrets/variables.yaml:2: day must be text"):
        read_hot_files(write(tmp_path, variables="greeting: hello\nday: 1\n"))


def test_no_value_is_in_a_message(tmp_path: Path):
    with pytest.raises(ProjectError) as raised:
        read_hot_files(write(tmp_path, "a:\n  conn_type: x\n  password: [hunter2]\n"))
    assert "hunter2" not in raised.value.message


def test_airflow_is_told_of_the_files_that_are_there():
    stack = make_stack(hot_objects_kinds=("connections",))
    assert stack.environment["AIRFLOW__SECRETS__BACKEND"] == BACKEND
    assert json.loads(stack.environment["AIRFLOW__SECRETS__BACKEND_KWARGS"]) == {
        "connections_file_path": f"{CONTAINER.project}/secrets/connections.yaml"
    }


def test_a_secrets_backend_of_the_users_own_is_not_mixed_with_ours():
    own = {"AIRFLOW__SECRETS__BACKEND": "acme.Vault"}
    stack = make_stack(hot_objects_kinds=("connections",), user_environment=own)
    assert not any(name.startswith("AIRFLOW__SECRETS__") for name in stack.environment)
    assert stack.private["AIRFLOW__SECRETS__BACKEND"] == "acme.Vault"


def test_the_files_never_enter_an_image(tmp_path: Path):
    write(tmp_path, GOOD, "greeting: hello\n")
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    (tmp_path / ".dockerignore").write_text("!secrets\n")
    (tmp_path / "secrets/notes.txt").write_text("mine")
    assert [file.name for file in project_context(tmp_path)] == [
        ".dockerignore",
        "Dockerfile",
        "secrets",
        "secrets/notes.txt",
    ]
