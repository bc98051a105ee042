"""An hourly DAG for each customer: wait for the hour's event files, load each into the warehouse exactly once.

The customers are in the Variable `clickstream_customers`, which `clickstream_config_sync` keeps up to date. Each of
them says in which style its files are waited for:

- `sensors`: a sensor and a load for each type of event. A file that does not come is *skipped*, not failed;
- `listing`: one sensor waits for the marker that the hour is complete, one look lists the files, and only those
  that are there get a task: half as many task instances, and one that waits.
"""

import json
from datetime import datetime, timedelta

from airflow.providers.amazon.aws.sensors.s3 import S3KeySensor
from airflow.sdk import (
    DAG,
    Asset,
    CronDataIntervalTimetable,
    Variable,
    dag,
    get_parsing_context,
    task,
)

from include.clickstream import BUCKET, VARIABLE, key_of, marker_of

HOUR = "{{ (dag_run.data_interval_start or dag_run.run_after).strftime('%Y-%m-%dT%H') }}"
DEFAULTS = {"owner": "clickstream", "retries": 2, "retry_delay": timedelta(seconds=5)}


def wait_for(task_id: str, key: str, seconds: int) -> S3KeySensor:
    """A sensor that gives its slot back between two looks, and is skipped when its time is up."""
    return S3KeySensor(
        task_id=task_id,
        bucket_name=BUCKET,
        bucket_key=key,
        mode="reschedule",
        poke_interval=min(seconds, 60),
        timeout=seconds,
        soft_fail=True,
    )


@task(pool="warehouse")
def load(customer: str, event: str, key: str) -> dict:
    """Load one file; lines that are no event go to a dead-letter key beside it."""
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    from include.clickstream import load as loader

    s3 = S3Hook()
    file = s3.get_key(key, BUCKET).get()
    content, etag = file["Body"].read(), file["ETag"]
    connection = PostgresHook("warehouse").get_conn()
    try:
        done = loader.load(connection, key=key, etag=etag, content=content, customer=customer, event=event)
    finally:
        connection.close()
    rejected = done.pop("rejected")
    if rejected:
        s3.load_string("\n".join(rejected) + "\n", f"dead/{key}", BUCKET, replace=True)
    return {"key": key, **done, "rejected": len(rejected)}


@task
def present(customer: str, events: list[str], hour: str) -> list[dict]:
    """The files of the hour that are there, as arguments of `load`."""
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    known = set(S3Hook().list_keys(BUCKET, prefix=f"events/{customer}/") or [])
    wanted = [(event, key_of(customer, event, hour)) for event in events]
    return [{"event": event, "key": key} for event, key in wanted if key in known]


def make_dag(customer: dict) -> DAG:
    """The DAG of one customer."""
    name, events, seconds = customer["name"], customer["events"], customer["wait_seconds"]

    @task(outlets=[Asset(f"warehouse://clickstream/{name}")], trigger_rule="none_failed")
    def totals() -> dict[str, int]:
        """What the warehouse holds of this customer."""
        from airflow.providers.postgres.hooks.postgres import PostgresHook

        query = "SELECT event, sum(loaded)::int FROM loads WHERE customer = %s GROUP BY event ORDER BY event"
        return dict(PostgresHook("warehouse").get_records(query, parameters=(name,)))

    @dag(
        dag_id=f"clickstream_{name}",
        schedule=CronDataIntervalTimetable("@hourly", timezone="UTC"),
        start_date=datetime(2026, 1, 1),
        catchup=False,
        max_active_runs=1,
        default_args=DEFAULTS,
        is_paused_upon_creation=False,
        tags=["clickstream", "customer"],
        doc_md=__doc__,
    )
    def clickstream():
        if customer["style"] == "listing":
            found = present(name, events, HOUR)
            wait_for("wait", marker_of(name, HOUR), seconds) >> found
            load.partial(customer=name).expand_kwargs(found) >> totals()
            return
        loads = []
        for event in events:
            key = key_of(name, event, HOUR)
            loads.append(load.override(task_id=f"load_{event}")(name, event, key))
            wait_for(f"wait_{event}", key, seconds) >> loads[-1]
        loads >> totals()

    return clickstream()


def make_dags(customers: list[dict]) -> list[DAG]:
    """The DAGs of all customers, or of the one whose task runs in this process."""
    wanted = get_parsing_context().dag_id
    return [make_dag(one) for one in customers if wanted in (None, f"clickstream_{one['name']}")]


make_dags(json.loads(Variable.get(VARIABLE, default="[]")))
