"""Whether a metadata database has to be migrated before Airflow starts, and a copy of it from before."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import sqlite3
import time
from datetime import datetime, timezone
from typing import Any
from urllib.parse import unquote


def alembic_revisions(url: str) -> set[str]:
    """The revisions in `alembic_version`, empty for a database that was never migrated.

    A plain connection: an Airflow session would cost a second. Raises the driver's error when it fails.
    """
    scheme, _, rest = url.partition("://")
    dialect = scheme.partition("+")[0]
    connection: Any
    if dialect == "sqlite":
        connection = sqlite3.connect(unquote(rest.removeprefix("/").partition("?")[0]))
        exists = "SELECT count(*) FROM sqlite_master WHERE name = 'alembic_version'"
    else:
        psycopg2 = importlib.import_module("psycopg2")
        connection = psycopg2.connect(f"postgresql://{rest}", connect_timeout=3)
        exists = "SELECT count(*) FROM pg_class WHERE oid = to_regclass('alembic_version')"
    try:
        cursor = connection.cursor()
        cursor.execute(exists)
        if not cursor.fetchone()[0]:
            return set()
        cursor.execute("SELECT version_num FROM alembic_version")
        return {row[0] for row in cursor.fetchall()}
    finally:
        connection.close()


def about_migration(found: set[str], now: float) -> tuple[str, dict[str, Any]]:
    """Name and description of the snapshot before a migration, as astro_cli/domain/snapshots.py reads them."""
    when = datetime.fromtimestamp(now, timezone.utc)
    key = os.environ.get("AIRFLOW__CORE__FERNET_KEY", "")
    about = {
        "version": 1,
        "created": f"{when:%Y-%m-%dT%H:%M:%SZ}",
        "reason": "before migration",
        "automatic": True,
        "heads": sorted(found),
        "key": hashlib.sha256(key.encode()).hexdigest()[:12] if key else None,
    }
    return f"before-migration-{when:%Y%m%d-%H%M%S}", about


def save_before_migration(url: str, found: set[str]) -> str:
    """Copy the database beside itself; the name of the snapshot. Nobody else is connected yet."""
    name, about = about_migration(found, time.time())
    server, _, database = url.partition("://")[2].partition("?")[0].rpartition("/")
    query = url.partition("?")[2]
    psycopg2 = importlib.import_module("psycopg2")
    connection = psycopg2.connect(f"postgresql://{server}/postgres?{query}", connect_timeout=3)
    with contextlib.closing(connection):
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(f'CREATE DATABASE "astro_snapshot_{name}" TEMPLATE "{unquote(database)}"')
        cursor.execute(f'COMMENT ON DATABASE "astro_snapshot_{name}" IS %s', [json.dumps(about)])
    return name


def database_error(exc: Exception) -> str:
    """One line for the status; only of errors that cannot quote the connection string with its password."""
    if isinstance(exc, (OSError, ImportError)) or type(exc).__name__ == "OperationalError":
        return f"{type(exc).__name__}: {exc}".splitlines()[0]
    return type(exc).__name__


def judge_revisions(found: set[str], heads: set[str], known: set[str]) -> str:
    """`ready`, `migrate` or `newer`, from what the database has and what this Airflow knows."""
    if found == heads:
        return "ready"
    return "migrate" if found <= known | heads else "newer"
