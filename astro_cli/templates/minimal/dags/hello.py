"""The smallest DAG worth having: one task, with a parameter."""

from datetime import datetime

from airflow.sdk import dag, task


@task
def greet(params: dict) -> str:
    """Greet whom the run is for."""
    greeting = f"hello, {params['name']}"
    print(greeting)
    return greeting


@dag(
    schedule=None,  # runs when you trigger it; try "@daily"
    start_date=datetime(2026, 1, 1),
    catchup=False,
    params={"name": "world"},
    is_paused_upon_creation=False,  # ready at once
    tags=["example"],
    doc_md=__doc__,
)
def hello():
    greet()


hello()
