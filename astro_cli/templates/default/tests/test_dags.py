"""`astro airflow pytest` runs these in the sandbox, on a database of their own.

The fixtures come with the sandbox: `dag_bag` holds the project's DAGs, `run_dag` runs one from beginning to end.
"""

import hello_astro


def test_every_dag_file_can_be_imported(dag_bag):
    assert dag_bag.import_errors == {}
    assert {"hello_astro", "asset_report"} <= set(dag_bag.dag_ids)


def test_only_paid_orders_count():
    orders = [{"price": "2.50", "status": " paid"}, {"price": "9.99", "status": "refunded"}]

    assert hello_astro.clean.function(orders) == [250]


def test_the_coffee_bar_earned_what_the_readme_says():
    chunks = [hello_astro.clean.function(orders) for orders in hello_astro.extract.function()]
    cents = sum(map(sum, chunks))

    assert cents == 4200


def test_a_whole_run_adds_up_the_day(run_dag):
    run = run_dag("hello_astro")

    assert run.state == "success"
    assert run.tasks["receipt"] == "success"
    assert run.xcom("total") == "42.00"
