"""Makes a DAG for each customer in the Variable `customers`, which `customers_sync` keeps up to date.

Every task imports this file again. With 137 customers that would mean building 136 DAGs for nothing each time, so
there is a guard: while a task runs, only its own DAG is built.
"""

import json
from datetime import datetime

from airflow.sdk import DAG, Variable, dag, get_parsing_context, task

from include.customers import VARIABLE


@task
def count(customer: str, event: str) -> int:
    """Stands for real work: count the letters, so that there is a number to see."""
    print(f"{customer}: {event}")
    return len(customer) + len(event)


@task
def report(counts: list[int]) -> int:
    """Add up the counts of a customer."""
    return sum(counts)


def make_dag(customer: dict) -> DAG:
    """The DAG of one customer."""

    @dag(
        dag_id=f"customer_{customer['name']}",
        schedule=customer["schedule"],
        start_date=datetime(2026, 1, 1),
        catchup=False,
        max_active_runs=1,
        tags=["example", "dynamic", "customer"],
        doc_md=f"Made from the configuration of the customer `{customer['name']}`.",
    )
    def customer_dag():
        report(
            [
                count.override(task_id=f"count_{event}")(customer["name"], event)
                for event in customer["events"]
            ]
        )

    return customer_dag()


def make_dags(customers: list[dict]) -> list[DAG]:
    """The DAGs of all customers, or of the one whose task runs in this process."""
    wanted = get_parsing_context().dag_id
    return [make_dag(one) for one in customers if wanted in (None, f"customer_{one['name']}")]


# One row of the database each time this file is read, and no network. The API is asked by customers_sync alone.
make_dags(json.loads(Variable.get(VARIABLE, default="[]")))
