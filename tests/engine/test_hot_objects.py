"""Connections and variables that tasks of a real sandbox read from the project's files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.engine.astro import Astro, environment, get, run_dag, wait_for_dag

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DAGS = """
from airflow.sdk import BaseHook, Variable, dag, task

@dag(schedule=None, is_paused_upon_creation=False)
def asks():
    @task
    def ask():
        found = BaseHook.get_connection("warehouse")
        return f"{found.host} {found.port} {found.extra_dejson} {Variable.get('greeting', default='none')}"
    ask()
asks()
"""

FIRST = """
warehouse:
  conn_type: postgres
  host: one.example
  password: "p@ss word"
  port: 5432
  extra: {sslMode: require}
"""

OBJECTS = """
airflow:
  connections:
    - {conn_id: warehouse, conn_type: postgres, conn_host: database.example}
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, engine_url: str) -> Iterator[Astro]:
    folder: Path = tmp_path_factory.mktemp("hot")
    environ = environment(tmp_path_factory.mktemp("home"), engine_url)
    Astro(folder, environ)("airflow", "init", "shop")
    astro = Astro(folder / "shop", environ)
    for name in ("hello_astro.py", "asset_report.py"):
        (astro.folder / "dags" / name).unlink()
    astro.write("dags/asks.py", DAGS)
    astro.write("airflow_settings.yaml", OBJECTS)
    astro.write("secrets/connections.yaml", FIRST)
    yield astro
    astro("airflow", "kill", "--yes", "--no-snapshot")


def answer(url: str) -> str:
    """What a task of a new run has found."""
    assert run_dag(url, "asks") == "success"
    run_id = get(url, "/api/v2/dags/asks/dagRuns?order_by=-id&limit=1")["dag_runs"][0]["dag_run_id"]
    path = f"/api/v2/dags/asks/dagRuns/{run_id}/taskInstances/ask/xcomEntries/return_value"
    return str(get(url, path)["value"]).strip('"')


def test_an_edit_applies_to_the_next_task_without_an_import(shop: Astro):
    url = shop.start()["url"]
    wait_for_dag(url, "asks")
    assert answer(url) == "one.example 5432 {'sslMode': 'require'} none"

    # as an editor saves: another file under the same name
    shop.write("secrets/new.yaml", "warehouse: postgres://two.example:5433/sales\n")
    (shop.folder / "secrets/new.yaml").replace(shop.folder / "secrets/connections.yaml")
    assert answer(url) == "two.example 5433 {} none"

    # broken, then gone: Airflow's own database answers, and nothing dies
    shop.write("secrets/connections.yaml", "warehouse: {\n")
    assert answer(url).startswith("database.example")
    (shop.folder / "secrets/connections.yaml").unlink()
    assert answer(url).startswith("database.example")
    shop.wait_until_healthy()


def test_start_names_what_is_wrong_and_takes_up_a_new_file(shop: Astro):
    shop.write("secrets/connections.yaml", "warehouse:\n  conn_type: postgres\n  hots: x\n")
    for command in (("start", "--no-browser"), ("airflow", "object", "validate")):
        said = shop(*command, code=3).stderr
        assert 'secrets/connections.yaml:3: unknown key "hots" in warehouse' in said
        assert "did you mean" in said
    shop.write("secrets/connections.yaml", FIRST)
    shop.write("secrets/variables.yaml", 'greeting: "hello"\n')
    assert "secrets/variables.yaml is valid: 1 variables" in shop("airflow", "object", "validate").stdout
    url = shop.start()["url"]
    assert answer(url).endswith(" hello")
