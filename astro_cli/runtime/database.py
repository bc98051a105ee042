"""Works on the databases of a sandbox's own Postgres, with its own programs, through `Engine.exec`.

A database that is copied or renamed must have no sessions, and Airflow has some. Idle ones are ended, which its
connection pools replace by themselves; busy ones only after some seconds. What else happens differs:

- While it is copied, newcomers wait. So one psql begins the copy, and a second one then ends the sessions.
- Newcomers who wait for a database that is renamed meanwhile are refused, which ends Airflow's scheduler. So the
  sessions are ended first, and the names change in the moment in which there is none.

Nothing is switched off that a killed run would have to switch on again.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any

from astro_cli.foundation.errors import AstroError
from astro_cli.runtime.engine import ExecRequest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from astro_cli.runtime.engine import Engine

LIVE = "airflow"
SERVICE = "postgres"
CHUNK = 1 << 20
ENVIRONMENT = {"PGCONNECT_TIMEOUT": "5"}

# -X: no .psqlrc of the user.
_EXCLUSIVELY = """
first=$1; clear=$2; shift 2
printf '%s' "$first" | psql -XqAt -v ON_ERROR_STOP=1 -d postgres || exit
psql -XqAt -d postgres -c "$clear" &
psql -XqAt -v ON_ERROR_STOP=1 -d postgres "$@"; code=$?
kill $! 2>/dev/null; wait; exit $code
"""
_SESSIONS = f"pg_stat_activity WHERE datname = '{LIVE}' AND backend_type = 'client backend'"
# Not one that has become idle just now: a pool asks whether a session lives, and then uses it.
_IDLE = "state = 'idle' AND state_change < clock_timestamp() - interval '100 ms'"
# As soon as another session holds the database, which gives up after 5 s: idle ones at once, busy ones after 3 s.
_CLEAR = f"""
DO $$ BEGIN
  FOR turn IN 1..160 LOOP
    IF EXISTS (SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.objid
               WHERE l.locktype = 'object' AND l.classid = 'pg_database'::regclass AND d.datname = '{LIVE}'
                 AND l.mode IN ('ShareLock', 'AccessExclusiveLock')) THEN
      PERFORM pg_stat_clear_snapshot();
      PERFORM pg_terminate_backend(pid) FROM {_SESSIONS} AND ({_IDLE} OR turn > 60);
      EXIT WHEN NOT EXISTS (SELECT FROM {_SESSIONS});
    END IF;
    PERFORM pg_sleep(0.05);
  END LOOP;
END $$
"""  # noqa: S608 - constants
_RENAME = f"""
DO $do$ BEGIN
  FOR turn IN 1..1000 LOOP
    PERFORM pg_stat_clear_snapshot();
    PERFORM pg_terminate_backend(pid) FROM {_SESSIONS} AND ({_IDLE} OR turn > 600);
    PERFORM pg_sleep(0.005);
    PERFORM pg_stat_clear_snapshot();
    IF NOT EXISTS (SELECT FROM {_SESSIONS}) THEN
      %s
      RETURN;
    END IF;
  END LOOP;
  RAISE 'the live database is being accessed by other users';
END $do$
"""


class Database:
    """The Postgres of one sandbox. Whatever it refuses is an `AstroError`."""

    def __init__(self, engine: Engine, sandbox_id: str) -> None:
        self._engine = engine
        self._sandbox_id = sandbox_id

    def query(self, sql: str, *, database: str = LIVE) -> list[Any]:
        """The rows of a statement that gives one JSON value each."""
        return [json.loads(line) for line in self._psql([sql], database).splitlines() if line]

    def run(self, *statements: str) -> None:
        """Run statements one by one, beside the live database."""
        self._psql(statements, "postgres")

    def copy(self, draft: str, then: Sequence[str], *, first: Sequence[str] = ()) -> None:
        """Copy the live database.

        Args:
            draft: the name of the copy, at first.
            then: statements to run afterwards.
            first: lines for psql to do before.
        """
        self._exclusively(first, (f"CREATE DATABASE {named(draft)} TEMPLATE {LIVE} OWNER {LIVE}", *then))

    def replace(
        self, draft: str, name: str, comment: str, then: Sequence[str], *, first: Sequence[str] = ()
    ) -> None:
        """Make `draft` the live database, and the live one `name`, both or neither.

        Args:
            draft: the database that becomes live.
            name: the new name of what is live now.
            comment: of what is live now.
            then: statements to run afterwards.
            first: lines for psql to do before, such as what makes the draft.
        """
        swap = (
            f"COMMENT ON DATABASE {LIVE} IS {quoted(comment)};"
            f"ALTER DATABASE {LIVE} RENAME TO {named(name)};"
            f"ALTER DATABASE {named(draft)} RENAME TO {LIVE};"
        )
        self._exclusively(first, (_RENAME % swap, *then))

    def _exclusively(self, first: Sequence[str], statements: Sequence[str]) -> None:
        before = "\n".join(first)
        commands = [word for statement in statements for word in ("-c", statement)]
        self._execute(["sh", "-c", _EXCLUSIVELY, "astro", before, _CLEAR, *commands])

    def dump(self, database: str, into: IO[bytes]) -> None:
        """Write a database in pg_dump's custom format; sees one moment of it, and disturbs nobody."""
        command = ["pg_dump", "--format=custom", "--compress=1", "--no-owner", "--no-privileges"]
        self._execute([*command, "--lock-wait-timeout=5s", database], output=into)

    def load(self, dump: IO[bytes], database: str) -> None:
        """Fill an empty database from what `dump` wrote. With the rights of Airflow's role alone."""
        command = ["pg_restore", "--exit-on-error", "--no-owner", "--no-privileges", "--single-transaction"]
        self._execute([*command, "-d", database], source=dump, environment={"PGUSER": LIVE})

    def script(self, source: IO[bytes], *, database: str, user: str, password: str) -> None:
        """Run a file of SQL in one transaction, with the rights of one user. `\\commands` of psql work as well."""
        command = ["psql", "-Xq", "-v", "ON_ERROR_STOP=1", "--single-transaction", "-f", "-", "-d", database]
        self._execute([*command], source=source, environment={"PGUSER": user, "PGPASSWORD": password})

    def _psql(self, statements: Sequence[str], database: str) -> str:
        commands = [word for statement in statements for word in ("-c", statement)]
        return self._execute(["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", database, *commands])

    def _execute(
        self,
        command: Sequence[str],
        *,
        source: IO[bytes] | None = None,
        output: IO[bytes] | None = None,
        environment: dict[str, str] | None = None,
    ) -> str:
        request = ExecRequest(
            service=SERVICE,
            command=command,
            stdin=source is not None,
            environment={**ENVIRONMENT, **(environment or {})},
        )
        with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complaints:
            with ExitStack() as streams:
                streams.enter_context(_replaced(2, complaints.fileno()))
                streams.enter_context(_draining(output) if output else _replaced(1, said.fileno()))
                if source:
                    streams.enter_context(_feeding(source))
                code = self._engine.exec(self._sandbox_id, request)
            said.seek(0)
            complaints.seek(0)
            if code != 0:
                raise _explained(complaints.read().decode(errors="replace"), command[0])
            return said.read().decode()


def quoted(text: str) -> str:
    """A literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def named(name: str) -> str:
    """An identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'


def _explained(complaint: str, program: str) -> AstroError:
    lines = tuple(line for line in complaint.splitlines() if line.strip())
    text = next((line.partition("ERROR:")[2].strip() for line in lines if "ERROR:" in line), "")
    if "No space left on device" in complaint:
        return AstroError(
            "the disk of the metadata database is full",
            hint="free some space, or remove snapshots (`astro airflow snapshot list`), then try again",
            details=lines,
        )
    if "being accessed by other users" in complaint:
        return AstroError(
            "somebody else works on the metadata database",
            hint="close other programs that are connected to it, then run the same command again",
            details=lines,
        )
    if "connection to server" in complaint:
        return AstroError(
            "the metadata database does not answer", hint="see `astro airflow logs postgres`", details=lines
        )
    return AstroError(
        f"the metadata database refused: {text or f'{program} failed'}",
        hint="see `astro airflow logs postgres`",
        details=lines,
    )


# An engine joins a command's streams to this process's own: so these lead elsewhere meanwhile, on every engine.


@contextmanager
def _replaced(number: int, descriptor: int) -> Iterator[None]:
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(number)
    os.dup2(descriptor, number)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, number)
        os.close(kept)


@contextmanager
def _draining(output: IO[bytes]) -> Iterator[None]:
    """Standard output into `output`. A disk that is full is told at the end: the command is not to notice."""
    reader, writer = os.pipe()
    problems: list[OSError] = []

    def drain() -> None:
        with os.fdopen(reader, "rb", buffering=0) as stream:
            while data := stream.read(CHUNK):
                try:
                    if not problems:
                        output.write(data)
                except OSError as exc:
                    problems.append(exc)

    thread = threading.Thread(target=drain, daemon=True)
    thread.start()
    try:
        with _replaced(1, writer):
            os.close(writer)
            yield
    finally:
        thread.join()
    if problems:
        raise problems[0]


@contextmanager
def _feeding(source: IO[bytes]) -> Iterator[None]:
    """Standard input from `source`, which the command need not read to its end."""
    reader, writer = os.pipe()

    def feed() -> None:
        with suppress(BrokenPipeError), os.fdopen(writer, "wb", buffering=0) as stream:
            while data := source.read(CHUNK):
                view = memoryview(data)
                while view:
                    view = view[stream.write(view) :]

    thread = threading.Thread(target=feed, daemon=True)
    thread.start()
    try:
        with _replaced(0, reader):
            os.close(reader)
            yield
    finally:
        thread.join()
