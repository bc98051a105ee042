"""Asks the API which customers there are, and keeps the answer in the Variable `clickstream_customers`.

If the API is down or answers nonsense, this DAG turns red and the last good answer stays: loading goes on.
"""

import json
from datetime import datetime, timedelta

from airflow.sdk import Variable, dag, task

from include.clickstream import VARIABLE, problem


@task(retries=2, retry_delay=timedelta(seconds=2))
def fetch() -> list:
    """The API's answer, if all of it is good."""
    from airflow.providers.http.hooks.http import HttpHook

    customers = HttpHook("GET", http_conn_id="houston").run("customers").json()
    problems = [f"{one}: {why}" for one in customers if (why := problem(one))]
    if problems:
        raise ValueError("; ".join(problems))
    return customers


@task
def keep(customers: list) -> dict:
    """Keep the answer if it differs from what is kept already."""
    text = json.dumps(sorted(customers, key=lambda one: one["name"]), sort_keys=True)
    changed = Variable.get(VARIABLE, default="") != text
    if changed:
        Variable.set(VARIABLE, text)
    return {"customers": len(customers), "changed": changed}


@dag(
    schedule=timedelta(minutes=15),
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,  # it runs at once, so the customers' DAGs are there soon
    tags=["clickstream"],
    doc_md=__doc__,
)
def clickstream_config_sync():
    keep(fetch())


clickstream_config_sync()
