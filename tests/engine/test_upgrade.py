"""An upgrade test beside a sandbox in Docker, with the database of that sandbox."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.engine.astro import Astro, environment, get
from tests.free_port import free_port
from tests.standalone.conftest import UV_CACHE

if TYPE_CHECKING:
    from collections.abc import Iterator

OBJECTS = """
airflow:
  variables:
    - variable_name: fruit
      variable_value: apple
"""
ASKS = """
from airflow.sdk import Variable, dag, task

@dag(dag_id="asks_for_" + Variable.get("fruit"), schedule=None)
def asks():
    @task
    def nothing(): ...
    nothing()

asks()
"""


@pytest.fixture
def shop(tmp_path: Path, engine_url: str, shared_cache: Path) -> Iterator[Astro]:
    """A sandbox in Docker that has a variable, and a DAG that cannot be imported without it."""
    environ = {**environment(tmp_path / "home", engine_url), "UV_CACHE_DIR": UV_CACHE}
    environ |= {"XDG_CACHE_HOME": str(shared_cache), "ASTRO_SANDBOX_PORT": str(free_port())}
    Astro(tmp_path, environ)("airflow", "init", "shop")
    astro = Astro(tmp_path / "shop", {**environ, "ASTRO_ENGINE": "docker"})
    astro.write("airflow_settings.yaml", OBJECTS)
    astro.write("dags/asks.py", ASKS)
    yield astro
    astro("airflow", "kill", "--yes", "--no-snapshot", code=None)


def databases(shop: Astro) -> set[str]:
    listed = shop("airflow", "bash", "postgres", input="psql -At -c 'SELECT datname FROM pg_database'\n")
    return set(listed.stdout.split())


@pytest.mark.long  # tests/standalone/test_upgrade.py has the test itself
def test_the_sandboxs_objects_are_there_and_the_sandbox_is_not_touched(shop: Astro, shared_cache: Path):
    url = shop.start()["url"]
    before = databases(shop), shop.services()
    said = shop("airflow", "upgrade-test", "--airflow-version", "3.2.2", code=6).stdout
    after = databases(shop), shop.services()
    assert after[0] == before[0]
    assert {name: one["started_at"] for name, one in after[1].items()} == {
        name: one["started_at"] for name, one in before[1].items()
    }
    assert get(url, "/api/v2/version")["version"] == "3.3.2"
    assert "cannot be migrated: Airflow 3.2.2 does not know revision" in said
    assert said.count("breaks: ") == 1, said
    assert "3 parsed, 0 broken\n" in said
    assert list((shared_cache / "astro/upgrade-tests").iterdir()) == []
