"""Runs when `github_extract` has brought something: its files into the warehouse, by id, so twice is like once."""

import json
from datetime import datetime, timedelta

from airflow.sdk import Asset, dag, task

from include.github_stats import BUCKET, row

raw = Asset("github_raw")
items = Asset("github_items")

COLUMNS = ["object", "id", "org", "repo", "author", "created_at", "closed_at"]


@task
def files(*, triggering_asset_events) -> list[str]:
    """The files of all runs of `github_extract` that led to this one."""
    return [key for event in triggering_asset_events[raw] for key in event.extra["keys"]]


@task
def load(key: str) -> int:
    """One file in one transaction."""
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    _, org, kind, _ = key.split("/", 3)
    lines = map(json.loads, S3Hook().read_key(key, BUCKET).splitlines())
    rows = {one["item"]["id"]: row(kind, org, one["repo"], one["item"]) for one in lines}
    PostgresHook("warehouse").insert_rows(
        "github_items",
        list(rows.values()),
        target_fields=COLUMNS,
        commit_every=len(rows),  # all at once; 0 would insert nothing
        executemany=True,
        replace=True,
        replace_index=["object", "id"],
    )
    return len(rows)


@task(outlets=[items])
def done(counts: list[int]) -> int:
    """Start the statistics."""
    return sum(counts)


@dag(
    schedule=[raw],
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=2)},
    is_paused_upon_creation=False,
    tags=["github"],
    doc_md=__doc__,
)
def github_load():
    done(load.expand(key=files()))


github_load()
