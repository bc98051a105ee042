"""What `init` will write, as values: names, dotfiles, rendering."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from astro_cli.cli import build_app
from astro_cli.domain.objects import parse_objects
from astro_cli.domain.project import check_name, name_from, read_project
from astro_cli.domain.project_services import read_services
from astro_cli.domain.scaffold import list_templates, own_template, project_files
from astro_cli.foundation.errors import ProjectError, UsageError
from astro_cli.foundation.render import write_files
from astro_cli.foundation.yamlfile import parse


def files(**changes):
    arguments = {
        "template": "default",
        "name": "shop",
        "project_id": "0f3a9c",
        "airflow_version": "3.3.2",
        **changes,
    }
    template = own_template(arguments.pop("template"))
    return {str(file.path): file for file in project_files(template, **arguments)}


@pytest.mark.parametrize("template", list_templates())
def test_every_template_is_a_whole_project(template):
    assert {
        ".astro/config.yaml", ".dockerignore", ".env", ".gitignore", "Dockerfile", "README.md",
        "airflow_settings.yaml", "packages.txt", "requirements.txt",
    } <= set(files(template=template))  # fmt: skip


@pytest.mark.parametrize("template", list_templates())
def test_every_template_says_what_it_shows_and_declares_what_it_needs(template, tmp_path):
    write_files(tmp_path, files(template=template).values())
    made = own_template(template)
    objects = files(template=template)["airflow_settings.yaml"].text

    assert made.summary
    assert tuple(service.name for service in read_services(tmp_path)) == made.services
    assert parse_objects(objects, {}, name="o") is not None


def test_the_list_shows_every_template():
    done = CliRunner().invoke(build_app(), ["airflow", "init", "--list", "--json"])

    listed = json.loads(done.stdout)["data"]["templates"]
    assert [one["name"] for one in listed] == list_templates()
    assert {one["name"]: one["services"] for one in listed}["clickstream-redshift"] == [
        "s3",
        "warehouse",
        "http-stub",
    ]


def test_the_default_template_comes_first():
    assert list_templates()[0] == "default"


def test_no_file_keeps_its_name_from_the_package():
    assert not [path for path in files() if "dot-" in path or path.endswith((".j2", ".pyc"))]


def test_the_config_holds_id_and_name_as_text():
    config = parse(
        files(name="123", project_id="123e45")[".astro/config.yaml"].text,
        name="c",
    )

    assert config.plain() == {"project": {"id": "123e45", "name": "123"}}


def test_a_written_project_is_read_back(tmp_path):
    write_files(tmp_path, files().values())

    project = read_project(tmp_path)
    assert (project.name, project.project_id) == ("shop", "0f3a9c")


def test_files_that_hold_secrets_are_for_their_owner_only():
    assert {path for path, file in files().items() if file.mode == 0o600} == {".env", "airflow_settings.yaml"}


@pytest.mark.parametrize("version", ["3", "3.3", "latest", "3.3.2\nUSER root", "", "3.3.2 "])
def test_a_version_that_is_none_is_refused(version):
    with pytest.raises(UsageError, match="is not a version of Airflow"):
        files(airflow_version=version)


@pytest.mark.parametrize("version", ["3.3.2", "3.4.0rc1", "3.10.0b2"])
def test_a_full_version_reaches_the_dockerfile(version):
    assert f"FROM localhost/astro/airflow:{version}\n" in files(airflow_version=version)["Dockerfile"].text


@pytest.mark.parametrize(
    ("template", "hint"), [("defautl", "did you mean `default`?"), ("../default", "default"), ("", "default")]
)
def test_an_unknown_template_is_refused_with_the_known_ones(template, hint):
    with pytest.raises(UsageError) as caught:
        files(template=template)

    assert hint in caught.value.hint


@pytest.mark.parametrize("name", ["a", "A", "0", "my-project_2", "a" * 50])
def test_a_good_name_is_taken_as_it_is(name):
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "-a", "_a", "a b", "a.b", "é", "a/b", "a\n", "a" * 51, "../x"])
def test_a_bad_name_is_refused_with_a_good_one(name):
    with pytest.raises(ProjectError) as caught:
        check_name(name)

    assert f"--name {name_from(name)}" in caught.value.hint


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("test-project", "test-project"),
        ("My Project", "My-Project"),
        ("Café 2.0", "Cafe-2-0"),
        ("..hidden..", "hidden"),
        ("__init__", "init"),
        ("a   b", "a-b"),
        ("x" * 80, "x" * 50),
        ("x" * 49 + "--y", "x" * 49),
        ("日本", "project"),
        ("", "project"),
        ("___", "project"),
    ],
)
def test_a_folder_gives_a_name(folder, name):
    assert name_from(folder) == name


@given(st.text())
def test_any_folder_gives_a_good_name(folder):
    assert check_name(name_from(folder)) == name_from(folder)
