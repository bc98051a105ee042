"""A throw-away copy of the metadata database for each request that runs tasks."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import secrets
import sys
from typing import TYPE_CHECKING, Any

from .children import supervised
from .surroundings import use_database

if TYPE_CHECKING:
    from collections.abc import Iterator

TEMPLATE_PREFIX = "astro_template_"
CLONE_PREFIX = "astro_test_"
OBJECT_TABLES = ("connection", "variable", "slot_pool")


def _database_url() -> Any:
    return importlib.import_module("sqlalchemy.engine").make_url(
        os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    )


@contextlib.contextmanager
def _session(database: str | None = None) -> Iterator[Any]:
    """A cursor of a plain connection that commits each statement; default: the sandbox's own database."""
    psycopg2 = importlib.import_module("psycopg2")
    url = _database_url()
    url = url.set(drivername="postgresql", database=database or url.database)
    connection = psycopg2.connect(url.render_as_string(hide_password=False), connect_timeout=5)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()


@contextlib.contextmanager
def clone_database() -> Iterator[str]:
    """A database of its own for one request: Airflow's schema and this sandbox's objects, without its history.

    Copying the sandbox's database itself would ask all of Airflow to disconnect. Yields the SQLAlchemy address.
    """
    if _database_url().get_backend_name() != "postgresql":
        raise RuntimeError("tests need a metadata database of Postgres")
    name = f"{CLONE_PREFIX}{os.getpid()}_{secrets.token_hex(4)}"
    template = ensure_template()
    try:
        with _session() as live:
            live.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
            with _session(name) as clone:
                _copy_objects(live, clone)
        yield _database_url().set(database=name).render_as_string(hide_password=False)
    finally:
        with _session() as live:  # not the one of before: a snapshot ends sessions that are idle
            live.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def ensure_template() -> str:
    """The name of the empty, migrated database to copy; made, once for each schema, by `airflow db migrate`."""
    with _session() as live:
        live.execute("SELECT version_num FROM alembic_version")
        name = TEMPLATE_PREFIX + "_".join(sorted(row[0] for row in live.fetchall()))
        exists = "SELECT count(*) FROM pg_database WHERE datname = %s"
        live.execute(exists, [name])
        if live.fetchone()[0]:
            return name
        live.execute("SELECT pg_advisory_lock(hashtext('astro template'))")
        live.execute(exists, [name])
        if live.fetchone()[0]:
            return name
        draft = f"{name}_draft"
        live.execute(f'DROP DATABASE IF EXISTS "{draft}" WITH (FORCE)')
        live.execute(f'CREATE DATABASE "{draft}"')
        url = _database_url().set(database=draft).render_as_string(hide_password=False)
        if _migrate(url):
            raise RuntimeError("the empty database for tests could not be made: `airflow db migrate` failed")
        live.execute(f'ALTER DATABASE "{draft}" RENAME TO "{name}"')
    return name


def _migrate(url: str) -> int:
    def work() -> int:
        with open(os.devnull, "w") as null:  # noqa: PTH123
            os.dup2(null.fileno(), 1)
            os.dup2(null.fileno(), 2)
        use_database(url)
        sys.argv = ["airflow", "db", "migrate"]
        importlib.import_module("airflow.__main__").main()
        return 0

    return supervised(None, work)


def drop_leftovers() -> None:
    """Remove the copies of requests that were killed before they could do it."""
    with _session() as live:
        live.execute("SELECT datname FROM pg_database WHERE datname LIKE %s", [f"{CLONE_PREFIX}%"])
        for (name,) in live.fetchall():
            live.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def _copy_objects(live: Any, clone: Any) -> None:
    """Connections, variables and pools as they are in the sandbox now."""
    for table in OBJECT_TABLES:
        clone.execute(
            "SELECT string_agg(quote_ident(column_name), ', ' ORDER BY ordinal_position) "
            "FROM information_schema.columns WHERE table_schema = 'public' AND table_name = %s",
            [table],
        )
        columns = clone.fetchone()[0]
        rows = io.BytesIO()
        live.copy_expert(f"COPY {table} ({columns}) TO STDOUT", rows)
        rows.seek(0)
        clone.execute(f"DELETE FROM {table}")  # noqa: S608 - a constant
        clone.copy_expert(f"COPY {table} ({columns}) FROM STDIN", rows)
        clone.execute(
            f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table} HAVING max(id) > 0"  # noqa: S608
        )
