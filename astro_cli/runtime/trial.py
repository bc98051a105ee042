"""What an upgrade test works with: a throw-away database server, and Airflow in an environment of its own.

The server is the standalone engine's, in a folder of its own, so nothing is written where a sandbox is. On Linux it
dies with astro, even by `kill -9`; the folder of a run that could not remove it is removed by the next run.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import astro_cli
from astro_cli.domain.parse_report import read_report
from astro_cli.domain.upgrade_report import LOG_LINES, DagTest, Migration
from astro_cli.foundation import process
from astro_cli.foundation.errors import AstroError
from astro_cli.foundation.paths import cache_dir, make_private_dir, read_json, write_atomic
from astro_cli.foundation.wait import wait_until
from astro_cli.runtime.venv import POSTGRES_SCRIPT, clean_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from astro_cli.domain.parse_report import ParseReport

TRIAL_RUNNER = Path(astro_cli.__file__).parent / "runtime/inside/trial_runner.py"
READY_SECONDS = 60.0
STOP_SECONDS = 10.0
SOCKET = ".s.PGSQL.5432"
SOCKET_PATH_LIMIT = 100
OBJECT_TABLES = ("connection", "variable", "slot_pool")


class Server:
    """A database server that nobody else knows; see `trial_server`.

    Attributes:
        folder: private, and gone when the server is.
        password: of its role `airflow`.
    """

    def __init__(self, folder: Path, postgres: Path, password: str, environ: Mapping[str, str]) -> None:
        self.folder = folder
        self.password = password
        self._tools = postgres / "bin"
        self._environ = {
            **clean_environment(environ),
            "PGHOST": str(folder),
            "PGUSER": "airflow",
            "PGPASSWORD": password,
        }

    def is_ready(self) -> bool:
        """Whether it answers."""
        return process.run([str(self._tools / "pg_isready"), "-q"], env=self._environ).code == 0

    def address(self, database: str) -> str:
        """SQLAlchemy's address of a database, with `{password}` for the password."""
        from urllib.parse import quote

        return f"postgresql+psycopg2://airflow:{{password}}@/{database}?host={quote(str(self.folder))}"

    def create(self, database: str) -> None:
        """Make an empty database."""
        self.execute("postgres", f'CREATE DATABASE "{database}"')

    def restore(self, database: str, dump: Path) -> None:
        """Fill a database from the text that `pg_dump` wrote.

        Raises:
            AstroError: that failed.
        """
        self._psql(database, "-f", str(dump))

    def revision(self, database: str) -> str:
        """Where Airflow's schema stands: Alembic's revision, or "" in a database that holds none."""
        if self.execute(database, "SELECT to_regclass('alembic_version')") == "":
            return ""
        return self.execute(database, "SELECT string_agg(version_num, ',' ORDER BY 1) FROM alembic_version")

    def copy_objects(self, source: str, target: str) -> None:
        """Connections, variables and pools from one database to another, as far as both know their columns."""
        rows = self.folder / "rows"
        for table in OBJECT_TABLES:
            columns = ", ".join(sorted(self._columns(source, table) & self._columns(target, table)))
            self._psql(source, "-c", f"\\copy {table} ({columns}) to '{rows}'")
            self.execute(target, f"DELETE FROM {table}")  # noqa: S608 - a constant
            self._psql(target, "-c", f"\\copy {table} ({columns}) from '{rows}'")

    def _columns(self, database: str, table: str) -> set[str]:
        text = "SELECT quote_ident(column_name) FROM information_schema.columns WHERE table_name = "
        return set(self.execute(database, f"{text}'{table}'").split())

    def execute(self, database: str, statement: str) -> str:
        """Run a statement; what it answers, a line for each row."""
        return self._psql(database, "-c", statement)

    def _psql(self, database: str, *arguments: str) -> str:
        options = ("-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database)
        done = process.run([str(self._tools / "psql"), *options, *arguments], env=self._environ)
        if done.code:
            raise AstroError(
                "the copy of the metadata database cannot be made",
                hint="nothing of the sandbox was touched",
                details=done.lines[-LOG_LINES:],
            )
        return done.output.strip()


@contextmanager
def trial_server(
    python: Path, postgres: Path, template: Path, environ: Mapping[str, str]
) -> Iterator[Server]:
    """Run a server on a copy of `template`, whose database `airflow` is empty and migrated.

    Args:
        python: of any environment; it runs the server's own script.
        postgres: the installation.

    Raises:
        AstroError: the server does not start.
    """
    from filelock import FileLock

    shelf = _shelf()
    _remove_leftovers(shelf)
    folder = make_private_dir(shelf / secrets.token_hex(4))
    with FileLock(folder.with_suffix(".lock")):  # as long as it is held, this run lives
        try:
            server = Server(folder, postgres, secrets.token_hex(16), environ)
            config = {
                "postgres": str(postgres),
                "data": str(folder / "data"),
                "template": str(template),
                "socket": str(folder),
                "port": None,
                "password": server.password,
            }
            write_atomic(folder / "postgres.json", json.dumps(config))
            log = folder / "log"
            identity = process.leave_behind(
                [str(python), "-I", str(POSTGRES_SCRIPT), "serve", str(folder / "postgres.json")],
                env=clean_environment(environ),
                cwd=folder,
                log=log,
            )
            write_atomic(
                folder / "server.json", json.dumps({"pid": identity.pid, "started": identity.started})
            )
            ready = wait_until(
                lambda: server.is_ready() or not identity.is_alive or None, seconds=READY_SECONDS, pause=0.1
            )
            if not ready or not identity.is_alive:
                lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
                raise AstroError(
                    "the throw-away database server does not start", details=tuple(lines[-LOG_LINES:])
                )
            yield server
        finally:
            _remove(folder)
            folder.with_suffix(".lock").unlink(missing_ok=True)


def _shelf() -> Path:
    """Where the folders of runs are: the cache, unless its path is too long for a socket."""
    shelf = cache_dir() / "upgrade-tests"
    if len(os.fsencode(shelf / "12345678" / SOCKET)) > SOCKET_PATH_LIMIT:
        shelf = Path(tempfile.gettempdir()) / f"astro-upgrade-tests-{os.getuid()}"
    return make_private_dir(shelf)


def _remove_leftovers(shelf: Path) -> None:
    """Remove the folders of runs that ended without doing it, with the server where that still runs."""
    from filelock import FileLock, Timeout

    for folder in (path for path in shelf.iterdir() if path.is_dir()):
        lock = folder.with_suffix(".lock")
        with suppress(Timeout), FileLock(lock, timeout=0):
            _remove(folder)
            lock.unlink(missing_ok=True)


def _remove(folder: Path) -> None:
    kept = read_json(folder / "server.json")
    if isinstance(kept.get("pid"), int):
        process.end(process.Identity(kept["pid"], str(kept.get("started"))), seconds=STOP_SECONDS)
    shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Airflow:
    """The Airflow of one environment, for the databases of one server.

    Attributes:
        environment: the virtual environment.
        root: the project's folder.
        variables: its configuration, with `{password}` and the database's address left to be filled in.
    """

    environment: Path
    root: Path
    server: Server
    variables: Callable[[str], Mapping[str, str]]
    environ: Mapping[str, str]

    def known_revisions(self) -> set[str]:
        """The revisions that its migrations lead from or to."""
        files = self.environment.glob("lib/python*/site-packages/airflow/migrations/versions/*.py")
        found = (
            re.search(r'^revision(?:: str)? = "(\w+)"', file.read_text(), re.MULTILINE) for file in files
        )
        return {one[1] for one in found if one}

    def migrate(self, database: str) -> Migration:
        """Bring a database to this version's schema."""
        before = self.server.revision(database)
        began = time.monotonic()
        done = process.run(
            [str(self.environment / "bin/airflow"), "db", "migrate"],
            env={**self._process_environment(), **self._variables(database)},
            cwd=self.server.folder,
        )
        seconds = round(time.monotonic() - began, 1)
        after = self.server.revision(database)
        if done.code:
            reason = f"`airflow db migrate` ends with exit code {done.code}"
            return Migration("failed", before, after, seconds, reason, done.lines[-LOG_LINES:])
        return Migration("unchanged" if before == after else "migrated", before, after, seconds)

    def parse(self, database: str) -> ParseReport:
        """Import every DAG file of the project.

        Raises:
            AstroError: that broke off.
        """
        code, lines = self._run(database, "parse")
        try:
            return read_report(line for line in lines if line.startswith("{"))
        except ValueError as exc:
            raise AstroError(f"parsing broke off with exit code {code}", details=lines[-LOG_LINES:]) from exc

    def test(self, database: str, dag_ids: Sequence[str], mark_success: str | None) -> tuple[DagTest, ...]:
        """Run DAGs, each on a copy of the database.

        Raises:
            AstroError: that broke off.
        """
        options = json.dumps({"dag_ids": list(dag_ids), "mark_success": mark_success})
        code, lines = self._run(database, "test", options)
        if code:
            raise AstroError(f"the tests broke off with exit code {code}", details=lines[-LOG_LINES:])
        return tuple(_dag_test(json.loads(line)) for line in lines if line.startswith('{"type": "test"'))

    def _run(self, database: str, *command: str) -> tuple[int, tuple[str, ...]]:
        file = self.server.folder / "environment.json"
        write_atomic(file, json.dumps(self._variables(database)))
        python = str(self.environment / "bin/python")
        done = process.run(
            [python, str(TRIAL_RUNNER), str(file), *command], env=self._process_environment(), cwd=self.root
        )
        return done.code, done.lines

    def _variables(self, database: str) -> dict[str, str]:
        address = self.server.address(database).replace("{password}", self.server.password)
        return {
            **self.variables(str(self.server.folder / "airflow")),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": address,
        }

    def _process_environment(self) -> dict[str, str]:
        """This user's, with the environment's programs first, and without bytecode in the project's folders."""
        clean = clean_environment(self.environ)
        return {
            **clean,
            "PATH": f"{self.environment}/bin{os.pathsep}{clean.get('PATH', os.defpath)}",
            "VIRTUAL_ENV": str(self.environment),
            "PYTHONPATH": str(self.root),
            "PYTHONDONTWRITEBYTECODE": "1",
        }


def _dag_test(message: dict[str, Any]) -> DagTest:
    log = tuple(line for line in message["log"] if "[info     ]" not in line)[-LOG_LINES:]
    return DagTest(message["dag_id"], message["code"] == 0, message["seconds"], log)
