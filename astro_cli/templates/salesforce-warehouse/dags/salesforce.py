"""Every day: each Salesforce object to S3 as it is, and from there into a table that follows the object's fields.

`sync_schema` adds a column for each new field. It never drops one and never changes a type: what has drifted apart
is told in what the task returns, and people decide.
"""

import json
from datetime import datetime, timedelta

from airflow.sdk import dag, task, task_group

from include.salesforce import BUCKET, OBJECTS, columns, drift


def ask(path: str, **parameters: str) -> dict:
    """One answer of Salesforce's REST API."""
    from airflow.providers.http.hooks.http import HttpHook

    return HttpHook("GET", http_conn_id="salesforce").run(path, data=parameters).json()


@task
def sync_schema(name: str) -> dict:
    """Make the object's table, or add what it lacks."""
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    wanted = columns(ask(f"sobjects/{name}/describe"))
    table = f"sf_{name.lower()}"
    warehouse = PostgresHook("warehouse")
    warehouse.run(f"CREATE TABLE IF NOT EXISTS {table} (id text PRIMARY KEY)")
    query = "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = %s"
    found = drift(wanted, dict(warehouse.get_records(query, parameters=(table,))))
    for column in found["add"]:
        warehouse.run(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {column} {wanted[column]}")
    return found


@task
def extract(name: str, *, run_id: str) -> str:
    """Write all records to S3; returns the key."""
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    fields = sorted(one["name"] for one in ask(f"sobjects/{name}/describe")["fields"])
    answer = ask("query", q=f"SELECT {', '.join(fields)} FROM {name}")
    records = answer["records"]
    while not answer["done"]:
        answer = ask(answer["nextRecordsUrl"])
        records += answer["records"]
    key = f"{name}/{run_id}.jsonl"
    S3Hook().load_string("\n".join(map(json.dumps, records)), key, BUCKET, replace=True)
    return key


@task
def load(name: str, key: str) -> int:
    """Bring the records into the object's table, by id, all at once."""
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    records = [json.loads(line) for line in S3Hook().read_key(key, BUCKET).splitlines()]
    if not records:
        return 0
    fields = sorted(records[0])
    PostgresHook("warehouse").insert_rows(
        f"sf_{name.lower()}",
        [tuple(record[field] for field in fields) for record in records],
        target_fields=[field.lower() for field in fields],
        commit_every=len(records),  # all at once; 0 would insert nothing
        executemany=True,
        replace=True,
        replace_index=["id"],
    )
    return len(records)


@dag(
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=5)},
    is_paused_upon_creation=False,
    tags=["salesforce"],
    doc_md=__doc__,
)
def salesforce():
    for name in OBJECTS:

        @task_group(group_id=name.lower())
        def one_object(name: str):
            sync_schema(name) >> load(name, extract(name))

        one_object(name)


salesforce()
