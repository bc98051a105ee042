"""What must the coffee bar order? Everything that the plugin `acme_ops` brings, at work in one DAG.

`check` is the plugin's operator, once for each item: its instances have a button *Stock room* under *Details*.
Its log ends with a line of the plugin's listener. `order` sums up; its first line uses the plugin's macro.
"""

from datetime import datetime

from airflow.sdk import dag, task

from acme_ops.operator import StockCheckOperator

ITEMS = ["espresso beans", "oat milk", "whole milk", "paper cups"]


@task(templates_dict={"day": "{{ macros.acme_ops.weekday(dag_run.run_after) }}"})
def order(shortages: list[dict], *, templates_dict: dict) -> dict[str, int]:
    """Say what to order: how many of each item."""
    needed = {one["item"]: one["missing"] for one in shortages if one["missing"]}
    print(f"To order this {templates_dict['day']}: {needed}")
    return needed


@dag(
    schedule=None,
    start_date=datetime(2026, 1, 1),
    catchup=False,
    params={"minimum": 5},
    is_paused_upon_creation=False,
    tags=["example", "plugin"],
    doc_md=__doc__,
)
def stock_check():
    check = StockCheckOperator.partial(task_id="check", minimum="{{ params.minimum }}").expand(item=ITEMS)
    order(check.output)


stock_check()
