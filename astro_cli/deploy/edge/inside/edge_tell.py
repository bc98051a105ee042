"""What a deployment tells of its workers outside, as a line of JSON.

    edge_tell.py secrets NAME...    {"key": their key, "secrets": {NAME: value}}
    edge_tell.py workers            [{"name", "state", "queues", "running", "seconds" since its last sign of life}]
    edge_tell.py forget NAME...     forgets those of them that are gone

Airflow is not imported, which would take seconds.
"""

from __future__ import annotations

import ast
import json
import os
import sys
from typing import Any

import psycopg2  # type: ignore[import-untyped]
from edge_key import edge_key

WORKERS = """
SELECT worker_name, state, queues, jobs_active, extract(epoch FROM now() - last_update)
FROM edge_worker ORDER BY worker_name
"""
GONE = """
DELETE FROM edge_worker WHERE worker_name = ANY(%s)
AND (state = 'offline' OR last_update < now() - interval '1 day') RETURNING worker_name
"""
"""One that was cut off may be back, and must find its name."""


def secrets(names: list[str]) -> dict[str, Any]:
    """The key, and the values of the user's secrets that are asked for."""
    return {"key": edge_key(), "secrets": {name: os.environ[name] for name in names if name in os.environ}}


def workers() -> list[dict[str, Any]]:
    """Every worker that Airflow knows."""
    try:
        rows = _asked(WORKERS)
    except psycopg2.errors.UndefinedTable:  # no scheduler with machines outside has run yet
        return []
    return [
        {
            "name": name,
            "state": state,
            "queues": ast.literal_eval(queues) if queues else [],
            "running": running,
            "seconds": int(seconds or 0),
        }
        for name, state, queues, running, seconds in rows
    ]


def forget(names: list[str]) -> list[str]:
    """Forget workers that are gone; returns the names of those."""
    return [name for (name,) in _asked(GONE, names)]


def _asked(query: str, *values: object) -> list[Any]:
    scheme, _, place = os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].partition("://")
    connection = psycopg2.connect(f"{scheme.partition('+')[0]}://{place}")
    with connection, connection.cursor() as cursor:
        cursor.execute(query, values)
        return list(cursor.fetchall())


if __name__ == "__main__":
    what, *named = sys.argv[1:]
    told: Any = workers() if what == "workers" else {"secrets": secrets, "forget": forget}[what](named)
    sys.stdout.write(f"{json.dumps(told)}\n")
