"""Prints how many DAGs the metadata database still has from another version than the one that is published.

    dags_behind.py BUNDLE VERSION

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
    scheme, _, place = os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].partition("://")
    connection = psycopg2.connect(f"{scheme.partition('+')[0]}://{place}")
    with connection, connection.cursor() as cursor:
        cursor.execute(QUERY, (bundle, version))
        return int(cursor.fetchone()[0])


if __name__ == "__main__":
    sys.stdout.write(f"{behind(sys.argv[1], sys.argv[2])}\n")
