from __future__ import annotations

import os
from pathlib import Path

import pytest

from astro_cli.domain.project import read_project
from astro_cli.domain.scaffold import own_template
from astro_cli.foundation.errors import AstroError, ProjectError, UsageError
from astro_cli.workflows.project_init import InitReport, init_project


def init(root: Path, **options: object) -> InitReport:
    values = {
        "name": None,
        "template": None,
        "airflow_version": None,
        "may_fill": lambda: None,
        **options,
    }
    return init_project(root, **values)  # type: ignore[arg-type]


def test_a_new_folder_becomes_a_project_with_the_folders_name(tmp_path: Path):
    report = init(tmp_path / "my shop")
    assert report.name == read_project(tmp_path / "my shop").name == "my-shop"
    assert report.kept == ()


def test_a_second_init_keeps_every_file_and_the_identity(tmp_path: Path):
    root = tmp_path / "shop"
    init(root)
    before = read_project(root)
    (root / "requirements.txt").write_text("mine\n")
    (root / "packages.txt").unlink()
    report = init(root)
    assert [str(path) for path in report.created] == ["packages.txt"]
    assert (root / "requirements.txt").read_text() == "mine\n"
    assert read_project(root) == before


def test_a_second_init_brings_no_examples_back(tmp_path: Path):
    init(tmp_path / "shop")
    (tmp_path / "shop/dags/hello_astro.py").unlink()
    assert init(tmp_path / "shop").created == ()


def test_the_same_template_again_completes_the_project(tmp_path: Path):
    init(tmp_path / "shop", template=own_template("dynamic-dags"))
    (tmp_path / "shop/include/customers.py").unlink()
    report = init(tmp_path / "shop", template=own_template("dynamic-dags"))
    assert [str(path) for path in report.created] == ["include/customers.py"]


def test_another_template_is_not_mixed_into_a_project(tmp_path: Path):
    init(tmp_path / "shop")
    with pytest.raises(ProjectError, match="is a project already"):
        init(tmp_path / "shop", template=own_template("minimal"))
    assert not (tmp_path / "shop/dags/hello.py").exists()


def test_an_init_that_fails_leaves_nothing(tmp_path: Path):
    (tmp_path / "shop/.astro").mkdir(parents=True)
    (tmp_path / "shop/.astro/config.yaml").symlink_to("/nowhere/else")
    (tmp_path / "shop/packages.txt").mkdir()
    with pytest.raises(ProjectError):
        init(tmp_path / "shop", may_fill=lambda: True)
    assert sorted(path.name for path in (tmp_path / "shop").iterdir()) == [".astro", "packages.txt"]


def test_a_project_is_never_renamed(tmp_path: Path):
    init(tmp_path / "shop")
    with pytest.raises(ProjectError, match="`shop`"):
        init(tmp_path / "shop", name="other")


def test_a_folder_with_other_files_needs_a_yes(tmp_path: Path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ProjectError) as caught:
        init(tmp_path)
    assert "--force" in str(caught.value.hint)
    with pytest.raises(AstroError, match="nothing was written"):
        init(tmp_path, may_fill=lambda: False)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    init(tmp_path, may_fill=lambda: True)
    assert (tmp_path / "dags/hello_astro.py").exists()


def test_a_fresh_git_checkout_counts_as_empty(tmp_path: Path):
    (tmp_path / ".git").mkdir()
    assert init(tmp_path).created


def test_a_project_inside_a_project_needs_a_yes(tmp_path: Path):
    init(tmp_path / "shop")
    with pytest.raises(ProjectError, match="inside the project"):
        init(tmp_path / "shop" / "dags" / "inner")


def test_an_airflow_without_an_engine_is_refused_with_those_that_have_one(tmp_path: Path):
    with pytest.raises(UsageError) as caught:
        init(tmp_path / "shop", airflow_version="2.10.0")
    assert "3.3.2" in str(caught.value.hint)
    assert not (tmp_path / "shop").exists()


def test_root_opens_the_folders_to_its_group_because_airflow_never_runs_as_root(tmp_path: Path):
    init(tmp_path / "shop")
    open_to_group = bool((tmp_path / "shop/include").stat().st_mode & 0o020)
    assert open_to_group == (os.geteuid() == 0)
