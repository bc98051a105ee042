from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astro_cli.domain.ide import NAME, merge_launch, pycharm_configuration, vscode_configuration
from astro_cli.foundation.errors import ProjectError
from astro_cli.workflows.debugging import write_ide_file

WITH_COMMENTS = """{
    // Use IntelliSense to learn about possible attributes.
    "version": "0.2.0", /* "configurations": [] */
    "configurations": [
        {
            "name": "mine", // "not a comment"
            "url": "http://x//y",
            "args": ["a", "b",],
        },
    ],
}
"""


def test_a_new_launch_file_attaches_to_the_port_with_the_projects_folder_mapped():
    found = json.loads(merge_launch(None, 5679, "/opt/airflow"))
    assert found["configurations"] == [vscode_configuration(5679, "/opt/airflow")]
    configuration = found["configurations"][0]
    assert configuration["connect"] == {"host": "127.0.0.1", "port": 5679}
    assert configuration["pathMappings"] == [
        {"localRoot": "${workspaceFolder}", "remoteRoot": "/opt/airflow"}
    ]


def test_what_the_user_has_stays_with_its_comments():
    merged = merge_launch(WITH_COMMENTS, 5678, "/opt/airflow")
    place = WITH_COMMENTS.index('"configurations": [\n') + len('"configurations": [')
    added = len(merged) - len(WITH_COMMENTS)
    assert merged[:place] + merged[place + added :] == WITH_COMMENTS
    new = merged[place : place + added].strip().rstrip(",")
    assert json.loads(new) == vscode_configuration(5678, "/opt/airflow")


def test_a_second_time_nothing_changes_and_another_port_changes_only_that():
    once = merge_launch(WITH_COMMENTS, 5678, "/opt/airflow")
    assert merge_launch(once, 5678, "/opt/airflow") == once
    other = merge_launch(once, 5999, "/opt/airflow")
    assert other == once.replace('"port": 5678', '"port": 5999')


def test_a_change_of_the_users_in_astros_configuration_stays():
    mine = merge_launch(None, 5678, "/opt/airflow").replace('"justMyCode": false', '"justMyCode": true')
    again = json.loads(merge_launch(mine, 5999, "/opt/airflow"))["configurations"][0]
    assert again["justMyCode"] is True
    assert again["connect"]["port"] == 5999


@pytest.mark.parametrize("text", ['{"configurations": []}', '{"a": 1, "configurations": [ ],}', "", "  \n"])
def test_an_empty_list_or_file_gets_the_configuration(text: str):
    merged = merge_launch(text, 5678, "/opt/airflow").replace(",}", "}")
    assert json.loads(merged)["configurations"] == [vscode_configuration(5678, "/opt/airflow")]


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"version": "0.2.0"}', '{"configurations": {}}', '{"configurations": [', "/* {}", '{"a'],
)
def test_a_file_that_is_not_understood_is_refused_with_what_to_add(text: str):
    with pytest.raises(ProjectError) as raised:
        merge_launch(text, 5678, "/opt/airflow")
    assert json.loads("\n".join(raised.value.details))["name"] == NAME


@given(
    st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.lists(st.text())), max_size=3),
    st.sampled_from([None, 2, "\t"]),
)
def test_any_list_of_configurations_is_kept(
    configurations: list[dict[str, object]], indent: int | str | None
):
    text = json.dumps({"configurations": configurations, "inputs": []}, indent=indent)
    merged = json.loads(merge_launch(text, 5678, "/opt/airflow"))
    others = [each for each in merged["configurations"] if each.get("name") != NAME]
    assert others == [each for each in configurations if each.get("name") != NAME]
    assert merged["inputs"] == []


def test_pycharms_file_is_an_attach_to_dap_configuration():
    configuration = ElementTree.fromstring(pycharm_configuration(5678, "/opt/a&b")).find("configuration")
    assert configuration is not None
    assert configuration.get("type") == "PythonDapAttachConfiguration"
    assert {option.get("name"): option.get("value") for option in configuration.findall("option")} == {
        "remoteAddress": "127.0.0.1:5678",
        "localRoot": "$PROJECT_DIR$",
        "remoteRoot": "/opt/a&b",
    }


def test_an_editors_file_is_written_below_the_project_once(tmp_path: Path):
    first = write_ide_file(tmp_path, "vscode", 5678, "/opt/airflow")
    assert (str(first.path), first.changed) == (".vscode/launch.json", True)
    assert not write_ide_file(tmp_path, "vscode", 5678, "/opt/airflow").changed
    assert write_ide_file(tmp_path, "pycharm", 5678, "/opt/airflow").changed
    assert (tmp_path / ".idea/runConfigurations/airflow_task_astro.xml").stat().st_mode & 0o777 == 0o644


def test_a_launch_file_that_is_refused_is_left_alone(tmp_path: Path):
    (tmp_path / ".vscode").mkdir()
    (tmp_path / ".vscode/launch.json").write_text("{ broken")
    with pytest.raises(ProjectError):
        write_ide_file(tmp_path, "vscode", 5678, "/opt/airflow")
    assert (tmp_path / ".vscode/launch.json").read_text() == "{ broken"
