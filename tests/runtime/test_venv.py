from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from uv import find_uv_bin

from astro_cli.foundation.errors import EngineError
from astro_cli.runtime.venv import Inputs, clean_environment, missing_packages, requirement_lines, uv_program


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    lock = tmp_path / "requirements.lock"
    lock.write_text("apache-airflow==3.3.2\n")
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("cowsay==6.1\n")
    return Inputs("3.3.2", lock, requirements)


def test_comments_and_blank_lines_make_no_new_environment(inputs: Inputs):
    before = inputs.key
    assert inputs.requirements is not None
    inputs.requirements.write_text("# says moo\n\ncowsay==6.1  # the best\n")
    assert inputs.key == before


def test_equal_requirements_of_two_projects_share_an_environment(inputs: Inputs, tmp_path: Path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "requirements.txt").write_text("cowsay==6.1\n")
    assert replace(inputs, requirements=other / "requirements.txt").key == inputs.key


@pytest.mark.parametrize("change", ["requirements", "included", "lock", "python", "airflow"])
def test_every_input_makes_another_environment(inputs: Inputs, tmp_path: Path, change: str):
    assert inputs.requirements is not None
    inputs.requirements.write_text("-r more.txt\n")
    (tmp_path / "more.txt").write_text("cowsay==6.1\n")
    before = inputs.key
    if change == "requirements":
        inputs.requirements.write_text("-r more.txt\nrich\n")
    elif change == "included":
        (tmp_path / "more.txt").write_text("cowsay==6.0\n")
    elif change == "lock":
        inputs.lock.write_text("apache-airflow==3.3.2\nrich\n")
    elif change == "python":
        inputs = replace(inputs, python="3.11")
    else:
        inputs = replace(inputs, airflow_version="3.4.0")
    assert inputs.key != before


def test_files_that_include_each_other_are_read_once(tmp_path: Path):
    path = tmp_path / "requirements.txt"
    path.write_text("-r more.txt\nrich\n")
    (tmp_path / "more.txt").write_text("-r requirements.txt\ncowsay\n")
    assert requirement_lines(path) == ("-r more.txt", "-r requirements.txt", "cowsay", "rich")


def test_the_users_shell_does_not_lead_airflow_or_python_astray():
    kept = clean_environment(
        {
            "AIRFLOW__CORE__EXECUTOR": "x",
            "AIRFLOW_HOME": "x",
            "PYTHONPATH": "x",
            "VIRTUAL_ENV": "x",
            "HOME": "/h",
            "AWS_PROFILE": "p",
        }
    )
    assert kept == {"HOME": "/h", "AWS_PROFILE": "p"}


def test_a_project_without_system_packages_misses_none(tmp_path: Path):
    path = tmp_path / "packages.txt"
    assert missing_packages(path) == ()
    path.write_text("# none\n")
    assert missing_packages(path) == ()


def test_uv_is_our_own_or_that_of_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    users = tmp_path / "uv"
    users.write_text("#!/bin/sh\n")
    users.chmod(0o755)
    environ = {"PATH": str(tmp_path)}
    assert uv_program(environ) == Path(find_uv_bin())

    monkeypatch.setitem(sys.modules, "uv", None)  # as where the package is not installed
    assert uv_program(environ) == users

    users.unlink()
    with pytest.raises(EngineError, match="`uv` was not found"):
        uv_program(environ)
