"""Prints how many DAGs the metadata database still has from another version than the one that is published.

    dags_behind.py BUNDLE VERSION
    dags_behind.py BUNDLE seen       prints the version that a dag-processor has read last

A file that cannot be imported keeps its DAGs as they were, so these do not count. Airflow is not imported, which
would take seconds.
"""

from __future__ import annotations

import os
import sys

import psycopg2  # type: ignore[import-untyped]

QUERY = """
SELECT count(*) FROM dag WHERE bundle_name = %s AND NOT is_stale AND bundle_version IS DISTINCT FROM %s
AND NOT EXISTS (
    SELECT FROM import_error
    WHERE import_error.bundle_name = dag.bundle_name AND import_error.filename = dag.relative_fileloc
)
"""


def behind(bundle: str, version: str) -> int:
    """How many DAGs of a bundle are of another version."""
    return int(_asked(QUERY, bundle, version))


def seen(bundle: str) -> str:
    """The version of a bundle that a dag-processor has read last; empty before the first."""
    return _asked("SELECT version FROM dag_bundle WHERE name = %s", bundle)


def _asked(query: str, *values: str) -> str:
    scheme, _, place = os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].partition("://")
    connection = psycopg2.connect(f"{scheme.partition('+')[0]}://{place}")
    with connection, connection.cursor() as cursor:
        cursor.execute(query, values)
        row = cursor.fetchone()
        return "" if row is None or row[0] is None else str(row[0])


if __name__ == "__main__":
    sys.stdout.write(f"{seen(sys.argv[1]) if sys.argv[2] == 'seen' else behind(*sys.argv[1:])}\n")
