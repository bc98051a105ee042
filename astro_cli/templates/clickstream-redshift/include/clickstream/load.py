"""One file into the warehouse: all of it or nothing, and each event once, however often this runs."""

import gzip
import json
import re

from psycopg import sql

COLUMN = re.compile(r"[a-z][a-z0-9_]{0,50}")
FIRST = ("id", "at")


def parse(content: bytes) -> tuple[list[dict], list[str]]:
    """The events of a file, and the lines that are none."""
    events, rejected = [], []
    for line in gzip.decompress(content).decode(errors="replace").splitlines():
        try:
            event = json.loads(line)
            good = all(event[name] for name in FIRST) and all(COLUMN.fullmatch(name) for name in event)
        except (ValueError, TypeError, KeyError):
            good = False
        if good:
            events.append(event)
        else:
            rejected.append(line)
    return events, rejected


def load(connection, *, key: str, etag: str, content: bytes, customer: str, event: str) -> dict:
    """Load one file, in one transaction. A file that is in already, unchanged, is left alone.

    :param connection: to the warehouse.
    :returns: how many events were new, how many were there already, and the lines that are no event.
    """
    events, rejected = parse(content)
    table = f"events_{event}"
    with connection.transaction(), connection.cursor() as cursor:
        # One load of a table at a time, to the end of the transaction: no deadlock, and no column added twice.
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (table,))
        cursor.execute("SELECT etag FROM loads WHERE key = %s", (key,))
        if cursor.fetchone() == (etag,):
            return {"loaded": 0, "known": len(events), "rejected": rejected}
        columns = _prepare(cursor, table, events)
        stage(cursor, columns, customer, events)
        names = sql.SQL(", ").join(map(sql.Identifier, columns))
        cursor.execute(
            sql.SQL(
                "INSERT INTO {table} ({names}) SELECT DISTINCT ON (customer, id) {names} FROM staging "
                "ORDER BY customer, id ON CONFLICT (customer, id) DO NOTHING"
            ).format(table=sql.Identifier(table), names=names)
        )
        loaded = cursor.rowcount
        cursor.execute(
            "INSERT INTO loads (key, customer, event, etag, lines, loaded, rejected) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s) "
            "ON CONFLICT (key) DO UPDATE SET etag = excluded.etag, lines = excluded.lines, "
            "loaded = loads.loaded + excluded.loaded, rejected = excluded.rejected, loaded_at = now()",
            (key, customer, event, etag, len(events) + len(rejected), loaded, len(rejected)),
        )
    return {"loaded": loaded, "known": len(events) - loaded, "rejected": rejected}


def _prepare(cursor, table: str, events: list[dict]) -> list[str]:
    """Make the table if it is not there, and the columns that it lacks; returns the columns of these events."""
    cursor.execute(
        sql.SQL(
            "CREATE TABLE IF NOT EXISTS {} "
            "(customer text, id text, at timestamptz NOT NULL, PRIMARY KEY (customer, id))"
        ).format(sql.Identifier(table))
    )
    others = sorted({name for event in events for name in event} - {"customer", *FIRST})
    for name in others:
        cursor.execute(
            sql.SQL("ALTER TABLE {} ADD COLUMN IF NOT EXISTS {} text").format(
                sql.Identifier(table), sql.Identifier(name)
            )
        )
    return ["customer", *FIRST, *others]


def stage(cursor, columns: list[str], customer: str, events: list[dict]) -> None:
    """Bring the events into a table that lives as long as the transaction.

    This is the one step that differs on Redshift, where the warehouse fetches the file itself:
    `COPY staging FROM 's3://…' IAM_ROLE '…' JSON 'auto' GZIP`.
    """
    declared = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL("timestamptz" if name == "at" else "text"))
        for name in columns
    )
    cursor.execute(sql.SQL("CREATE TEMPORARY TABLE staging ({}) ON COMMIT DROP").format(declared))
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    with cursor.copy(sql.SQL("COPY staging ({}) FROM STDIN").format(names)) as rows:
        for event in events:
            rows.write_row([customer, *(_text(event.get(name)) for name in columns[1:])])


def _text(value) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)
