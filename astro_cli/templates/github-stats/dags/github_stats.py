"""Runs when new items are in the warehouse: the numbers of each organisation, and a message to Slack."""

import json
from datetime import datetime, timedelta

from airflow.sdk import Asset, dag, task

STATS = """
INSERT INTO github_stats (org, name, value)
SELECT org, 'open issues', count(*) FILTER (WHERE closed_at IS NULL)::text
FROM github_items WHERE object = 'issues' GROUP BY org
UNION ALL
SELECT org, 'median hours to merge',
    percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM closed_at - created_at) / 3600)::int::text
FROM github_items WHERE object = 'pulls' AND closed_at IS NOT NULL GROUP BY org
UNION ALL
SELECT org, 'commits in the busiest week', max(commits)::text FROM (
    SELECT org, count(*) AS commits FROM github_items
    WHERE object = 'commits' GROUP BY org, date_trunc('week', created_at)
) AS weeks GROUP BY org
UNION ALL
(SELECT DISTINCT ON (org) org, 'top contributor', author FROM (
    SELECT org, author, count(*) AS commits FROM github_items WHERE object = 'commits' GROUP BY org, author
) AS authors ORDER BY org, commits DESC, author)
ON CONFLICT (org, name) DO UPDATE SET value = excluded.value
"""


@task
def work_out() -> list[list[str]]:
    """The numbers, which are also kept in the table `github_stats`."""
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    warehouse = PostgresHook("warehouse")
    warehouse.run(STATS)
    return [
        list(one) for one in warehouse.get_records("SELECT org, name, value FROM github_stats ORDER BY 1, 2")
    ]


@task
def message(numbers: list[list[str]]) -> str:
    """Tell the team, over an incoming webhook."""
    from airflow.providers.http.hooks.http import HttpHook

    text = "\n".join(f"{org}: {name} {value}" for org, name, value in numbers)
    HttpHook("POST", http_conn_id="slack").run(
        data=json.dumps({"text": text}), headers={"Content-Type": "application/json"}
    )
    return text


@dag(
    schedule=[Asset("github_items")],
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=2)},
    is_paused_upon_creation=False,
    tags=["github"],
    doc_md=__doc__,
)
def github_stats():
    message(work_out())


github_stats()
