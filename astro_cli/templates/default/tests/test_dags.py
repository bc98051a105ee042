"""`astro airflow pytest` runs these in the sandbox, on a database of their own.

`dag_bag` holds the project's DAGs, `run_dag` runs one from beginning to end; both come with the sandbox.
"""

from pathlib import Path

import hello_astro
import pytest

PROJECT = Path(__file__).parents[1]


def test_every_dag_file_can_be_imported(dag_bag):
    assert dag_bag.import_errors == {}
    assert {"hello_astro", "asset_report"} <= set(dag_bag.dags)


def test_only_paid_orders_count():
    orders = [{"price": "2.50", "status": " paid"}, {"price": "9.99", "status": "refunded"}]

    assert hello_astro.clean.function(orders) == [250]


def test_a_whole_run_adds_up_the_day(run_dag):
    run = run_dag("hello_astro")

    assert run.state == "success"
    assert run.tasks["receipt"] == "success"
    assert run.xcom("total") == "42.00"


@pytest.mark.parametrize("price, cents", [("2.50", 250), ("0.99", 99), ("10", 1000)])
def test_prices_become_cents(price, cents):
    assert hello_astro.clean.function([{"price": price, "status": "paid"}]) == [cents]
