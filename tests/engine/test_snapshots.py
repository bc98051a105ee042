"""Snapshots where only Docker can make the trouble; tests/standalone/test_snapshots.py has what both engines do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import docker
import pytest

from tests.engine.astro import Astro, environment, get

OLDER = "3.2.0"


@pytest.fixture(scope="module")
def shop(engine_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Astro]:
    """A running project of the default template."""
    environ = environment(tmp_path_factory.mktemp("home"), engine_url)
    parent = tmp_path_factory.mktemp("projects")
    Astro(parent, environ)("airflow", "init", "shop")
    astro = Astro(parent / "shop", environ)
    astro.start()
    yield astro
    astro("airflow", "kill", "--yes", "--no-snapshot", code=None)


def listed(shop: Astro) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in shop.json("airflow", "snapshot", "list")["snapshots"]}


def test_a_migration_is_preceded_by_a_snapshot_of_the_older_database(shop: Astro):
    shop("airflow", "snapshot", "save", "newer")
    shop("airflow", "run", "db", "downgrade", "--to-version", OLDER, "--yes")
    shop("airflow", "stop")
    url = shop.start()["url"]
    (name,) = [name for name in listed(shop) if name.startswith("before-migration-")]
    found = listed(shop)
    assert found[name]["heads"] != found["newer"]["heads"]
    assert found[name]["key"] == found["newer"]["key"]
    error = shop.json("airflow", "snapshot", "restore", name, code=1)
    assert "is of another Airflow" in error["message"]
    assert get(url, "/api/v2/monitor/health")["metadatabase"]["status"] == "healthy"
    # The migrated database does not fit itself as it was before: force says what is to be done, and it can be.
    done = shop("airflow", "snapshot", "restore", name, "--force")
    assert "`astro airflow restart` migrates it" in done.stderr
    shop("airflow", "stop")
    shop.start()
    assert len([name for name in listed(shop) if name.startswith("before-migration-")]) == 2


def test_a_snapshot_needs_the_database_alone(shop: Astro, engine_url: str):
    client = docker.DockerClient(base_url=engine_url, timeout=60)
    try:
        marks = {"label": [f"astro.path={shop.folder}", "astro.service=airflow"]}
        (airflow,) = client.containers.list(filters=marks)
        airflow.kill()
        shop("airflow", "snapshot", "save", "without-airflow")
        shop("airflow", "snapshot", "restore", "without-airflow")
    finally:
        client.close()


def test_a_kill_removes_a_sandbox_whose_database_is_frozen(shop: Astro, engine_url: str):
    client = docker.DockerClient(base_url=engine_url, timeout=60)
    try:
        marks = {"label": [f"astro.path={shop.folder}", "astro.service=postgres"]}
        (postgres,) = client.containers.list(filters=marks)
        postgres.pause()
        done = shop("airflow", "kill", "--yes")
        assert "no snapshot was kept" in done.stderr
        assert client.containers.list(all=True, filters={"label": [f"astro.path={shop.folder}"]}) == []
    finally:
        client.close()
    assert listed(shop) == {}
