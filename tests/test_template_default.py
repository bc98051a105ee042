"""The default template, as far as it can be checked without Airflow; its own tests run in the engine's image."""

from __future__ import annotations

import ast
import csv
import io

import pytest

from astro_cli.domain.envfile import parse_env
from astro_cli.domain.objects import Objects, parse_objects
from astro_cli.domain.scaffold import own_template, project_files

FILES = {
    str(file.path): file.text
    for file in project_files(
        own_template("default"), name="shop", project_id="0f3a9c", airflow_version="3.3.2"
    )
}
PYTHON = [path for path in FILES if path.endswith(".py")]


def test_it_has_these_files_and_no_others():
    assert list(FILES) == [
        ".astro/config.yaml",
        ".dockerignore",
        ".env",
        ".gitignore",
        "Dockerfile",
        "README.md",
        "airflow_settings.yaml",
        "dags/asset_report.py",
        "dags/hello_astro.py",
        "include/orders.csv",
        "packages.txt",
        "plugins/README.md",
        "requirements.txt",
        "tests/conftest.py",
        "tests/test_dags.py",
    ]


def test_the_dockerfile_shows_its_steps():
    steps = [line for line in FILES["Dockerfile"].splitlines() if line and not line.startswith("#")]

    assert steps == [
        "FROM localhost/astro/airflow:3.3.2",
        "USER root",
        "COPY packages.txt .",
        "RUN install-packages packages.txt",
        "COPY requirements.txt .",
        "RUN install-requirements requirements.txt",
        "USER astro",
        "COPY --chown=astro:0 . .",
    ]


@pytest.mark.parametrize("secret", [".env", "airflow_settings.yaml"])
@pytest.mark.parametrize("ignore", [".gitignore", ".dockerignore"])
def test_secrets_stay_out_of_git_and_of_the_image(secret, ignore):
    assert {secret, f"**/{secret}"} & set(FILES[ignore].splitlines())


def test_git_keeps_the_project_but_not_the_marker_of_a_checkout():
    ignored = FILES[".gitignore"].splitlines()

    assert ".astro/checkout" in ignored
    assert not {".astro", ".astro/"} & set(ignored)


def test_history_and_tool_state_stay_out_of_the_image():
    assert {".git", ".astro"} <= set(FILES[".dockerignore"].splitlines())


def test_the_env_file_sets_nothing_yet():
    assert parse_env(FILES[".env"], {}, name=".env") == {}


def test_the_objects_file_holds_nothing_yet():
    assert parse_objects(FILES["airflow_settings.yaml"], {}, name="o") == Objects()


def test_the_example_in_the_objects_file_is_valid():
    lines = FILES["airflow_settings.yaml"].splitlines()
    example = [line.removeprefix("# ") for line in lines if line.startswith("#   ")]
    environment = {"WAREHOUSE_PASSWORD": "a", "API_TOKEN": "b"}

    objects = parse_objects("airflow:\n" + "\n".join(example), environment, name="o")

    assert [item.conn_id for item in objects.connections] == ["warehouse", "api"]
    assert objects.connections[0].password == "a"
    assert (objects.connections[1].host, objects.connections[1].schema) == ("api.example.com", "https")
    assert len(objects.pools) == len(objects.variables) == 1


def test_the_readme_has_the_number_that_the_orders_give():
    orders = csv.DictReader(io.StringIO(FILES["include/orders.csv"]))
    cents = sum(round(float(order["price"]) * 100) for order in orders if order["status"].strip() == "paid")

    assert f"**{cents / 100:.2f} euros**" in FILES["README.md"]
    assert f"cents == {cents}" in FILES["tests/test_dags.py"]


@pytest.mark.parametrize("path", PYTHON)
def test_python_files_compile_and_import_airflow_only_from_its_public_side(path):
    imports = [node for node in ast.walk(ast.parse(FILES[path])) if isinstance(node, ast.ImportFrom)]
    modules = {node.module for node in imports if node.module and node.module.startswith("airflow")}

    assert modules <= ({"airflow.sdk"} if path.startswith("dags/") else {"airflow.dag_processing.dagbag"})


@pytest.mark.parametrize("path", [path for path in PYTHON if path.startswith("dags/")])
def test_a_dag_says_when_it_runs_and_that_it_does_not_catch_up(path):
    calls = [node for node in ast.walk(ast.parse(FILES[path])) if isinstance(node, ast.Call)]
    (dag,) = [call for call in calls if getattr(call.func, "id", "") == "dag"]

    assert {"schedule", "start_date", "catchup", "tags", "doc_md"} <= {
        keyword.arg for keyword in dag.keywords
    }
