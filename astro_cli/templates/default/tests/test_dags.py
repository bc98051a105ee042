"""Fast tests: they import the DAGs and call the tasks' functions; no scheduler, no database."""

from pathlib import Path

import hello_astro
from airflow.dag_processing.dagbag import DagBag

PROJECT = Path(__file__).parents[1]


def test_every_dag_file_can_be_imported():
    dags = DagBag(PROJECT / "dags")

    assert dags.import_errors == {}
    assert {"hello_astro", "asset_report"} <= set(dags.dag_ids)


def test_the_coffee_bar_earned_what_the_readme_says():
    chunks = [hello_astro.clean.function(orders) for orders in hello_astro.extract.function()]
    cents = sum(map(sum, chunks))

    assert cents == 4200
    assert f"**{cents / 100:.2f} euros**" in (PROJECT / "README.md").read_text()


def test_only_paid_orders_count():
    orders = [{"price": "2.50", "status": " paid"}, {"price": "9.99", "status": "refunded"}]

    assert hello_astro.clean.function(orders) == [250]
