"""Asks the API which customers there are, and keeps the answer in the Variable `customers`.

This is the only place that talks to the API. If it is down or answers nonsense, this DAG turns red and the Variable
keeps what was good last: the customers' own DAGs go on.
"""

from datetime import datetime, timedelta

from airflow.sdk import Variable, dag, task

from include.customers import VARIABLE, as_text, sort_out


@task(retries=2, retry_delay=timedelta(seconds=2))
def fetch() -> list:
    """The API's answer."""
    from airflow.providers.http.hooks.http import HttpHook

    answer = HttpHook("GET", http_conn_id="customers_api").run("customers").json()
    if not isinstance(answer, list):
        raise TypeError(f"the API answered a {type(answer).__name__}, not a list of customers")
    return answer


@task
def keep(answer: list) -> dict:
    """Keep the good ones if they differ from what is kept already."""
    customers, _ = sort_out(answer)
    text = as_text(customers)
    changed = Variable.get(VARIABLE, default="") != text
    if changed:
        Variable.set(VARIABLE, text)
    return {"customers": len(customers), "changed": changed}


@task
def complain(answer: list) -> None:
    """Turn red for those that are left out: somebody must correct them."""
    _, bad = sort_out(answer)
    if bad:
        raise ValueError("; ".join(bad))


@dag(
    schedule=timedelta(minutes=15),
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,  # it runs at once, so the customers' DAGs are there soon
    tags=["example", "dynamic"],
    doc_md=__doc__,
)
def customers_sync():
    answer = fetch()
    keep(answer) >> complain(answer)


customers_sync()
