"""Two sandboxes beside each other on one engine, the second in a folder whose name is as awkward as names get."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import docker
import httpx
import pytest

from tests.engine.astro import Astro, environment, wait_for_dag

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

AWKWARD = "my shop: Ünï, $HOME 100% 'quoted'"
LINKED_DAG = """
from airflow.sdk import dag, task

@dag(schedule=None)
def linked():
    @task
    def nothing():
        pass
    nothing()

linked()
"""


@pytest.fixture(scope="module")
def both(engine_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Astro, Astro]]:
    """Two started projects of one user; the second's `dags` is a link to a folder outside."""
    parent = tmp_path_factory.mktemp("projects")
    environ = environment(tmp_path_factory.mktemp("home"), engine_url)
    outside = Astro(parent, environ)
    outside("airflow", "init", "shop")
    outside("airflow", "init", AWKWARD)
    first, second = Astro(parent / "shop", environ), Astro(parent / AWKWARD, environ)
    link_dags(second.folder, parent / "elsewhere")
    try:
        first.start()
        second.start()
        yield first, second
    finally:
        first("airflow", "kill", "--yes", "--no-snapshot", code=None)
        second("airflow", "kill", "--yes", "--no-snapshot", code=None)


def link_dags(project: Path, target: Path) -> None:
    (project / "dags").rename(target)
    (target / "linked.py").write_text(LINKED_DAG)
    (project / "dags").symlink_to(target)


def test_both_are_healthy_on_ports_of_their_own(both: tuple[Astro, Astro]):
    for astro in both:
        astro.wait_until_healthy()
    first, second = (astro.json("airflow", "ps") for astro in both)
    assert first["sandbox_id"] != second["sandbox_id"]
    assert second["port"] > first["port"]
    for status, name in ((first, "shop"), (second, "my-shop-Uni-HOME-100-quoted")):
        page = httpx.get(f"{status['url']}/api/v2/monitor/health", trust_env=False, timeout=60)
        assert page.status_code == 200
        assert status["project_name"] == name


def test_a_linked_dags_folder_is_seen_inside(both: tuple[Astro, Astro]):
    wait_for_dag(both[1].json("airflow", "ps")["url"], "linked")


def test_list_shows_both_from_anywhere(both: tuple[Astro, Astro]):
    listed = both[0].json("airflow", "list", "-C", "/")["sandboxes"]
    paths = {found["path"] for found in listed}
    assert {str(astro.folder) for astro in both} <= paths


def test_a_port_that_another_sandbox_holds_is_an_error_that_names_it(both: tuple[Astro, Astro]):
    first, second = both
    port = first.json("airflow", "ps")["port"]
    done = second("start", "--no-browser", "--port", str(port), code=1)
    assert f"port {port} is already in use by the sandbox of shop ({first.folder})" in done.stderr
    second.wait_until_healthy()


def test_another_folder_with_a_copy_of_the_project_is_not_the_same_sandbox(both: tuple[Astro, Astro]):
    first = both[0]
    Astro(first.folder.parent, first.environ)("airflow", "init", "third")
    third = Astro(first.folder.parent / "third", first.environ)
    (third.folder / ".astro/checkout").write_text((first.folder / ".astro/checkout").read_text())
    assert "no sandbox yet" in third("airflow", "ps", code=1).stderr


def test_kill_of_one_leaves_the_other_alone(both: tuple[Astro, Astro]):
    first, second = both
    before = second.services()
    first("airflow", "kill", "--yes")
    after = second.services()
    assert {name: found["started_at"] for name, found in before.items()} == {
        name: found["started_at"] for name, found in after.items()
    }
    second.wait_until_healthy()


def test_poweroff_stops_every_sandbox_and_keeps_the_data(both: tuple[Astro, Astro], engine_url: str):
    first, second = both
    mine = {str(astro.folder) for astro in both}
    running = [found for found in first.json("airflow", "list")["sandboxes"] if found["state"] != "stopped"]
    if strangers := [found["path"] for found in running if found["path"] not in mine]:
        pytest.skip(f"sandboxes of others run on this engine: {', '.join(strangers)}")
    stopped = json.loads(first("airflow", "poweroff", "--json").stdout)["data"]["stopped"]
    assert "my-shop-Uni-HOME-100-quoted" in stopped
    assert second.json("airflow", "ps")["state"] == "stopped"
    client = docker.DockerClient(base_url=engine_url, timeout=60)
    try:
        assert client.volumes.list(filters={"label": f"astro.path={second.folder}"})
    finally:
        client.close()
