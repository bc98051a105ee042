"""A pytest plugin with fixtures that need the project's real Airflow; `astro airflow pytest` loads it."""

from __future__ import annotations

import importlib
import logging
import os
from dataclasses import dataclass, field
from typing import Any

import pytest


@dataclass(frozen=True)
class Run:
    """A finished run: its state, and the states of its tasks; a mapped task is called `name[0]`, `name[1]`."""

    state: str
    tasks: dict[str, str]
    run: Any = field(repr=False)

    def xcom(self, task_id: str, key: str = "return_value") -> Any:
        """What a task returned, or pushed under `key`; a list of all for a mapped task."""
        xcoms = importlib.import_module("airflow.models.xcom").XComModel
        sdk = importlib.import_module("airflow.sdk.bases.xcom").BaseXCom
        query = xcoms.get_many(run_id=self.run.run_id, dag_ids=self.run.dag_id, task_ids=task_id, key=key)
        with importlib.import_module("airflow.utils.session").create_session() as session:
            rows = sorted(session.scalars(query).all(), key=lambda row: row.map_index)
            values = [sdk.deserialize_value(row) for row in rows]
        mapped = any(row.map_index >= 0 for row in rows)
        return values if mapped else next(iter(values), None)


@pytest.fixture(scope="session")
def dag_bag() -> Any:
    """All DAGs of the project, as an Airflow `DagBag`: `dag_bag.dags`, `dag_bag.import_errors`."""
    dagbag = importlib.import_module("airflow.dag_processing.dagbag")
    folder = os.environ["AIRFLOW__CORE__DAGS_FOLDER"]
    return dagbag.BundleDagBag(folder, bundle_path=folder, bundle_name="dags-folder", safe_mode=False)


@pytest.fixture
def run_dag(dag_bag: Any) -> Any:
    """Run a DAG to its end on this test session's own database: `run_dag("orders", conf={"day": 1}).state`."""

    def run(dag: Any, *, conf: dict[str, Any] | None = None, logical_date: Any = None) -> Run:
        if isinstance(dag, str):
            if dag not in dag_bag.dags:
                pytest.fail(f"there is no DAG `{dag}`; import errors: {dag_bag.import_errors or 'none'}")
            dag = dag_bag.dags[dag]
        logging.getLogger("airflow.sdk.definitions.dag").setLevel(logging.WARNING)
        options = {} if logical_date is None else {"logical_date": logical_date}
        finished = dag.test(run_conf=conf, **options)
        states = {
            one.task_id if one.map_index < 0 else f"{one.task_id}[{one.map_index}]": _word(one.state)
            for one in finished.get_task_instances()
        }
        return Run(_word(finished.state), states, finished)

    return run


def _word(state: Any) -> str:
    return str(getattr(state, "value", state))
