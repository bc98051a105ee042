"""The database that stands in for a warehouse: made and seeded by a start, in the sandbox's own Postgres."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

from astro_cli.domain.project_services import WAREHOUSE, seed_files
from astro_cli.foundation.errors import AstroError, ProjectError
from astro_cli.runtime.database import Database, named, quoted

if TYPE_CHECKING:
    from pathlib import Path

    from astro_cli.domain.project_services import PlacedService
    from astro_cli.runtime.engine import Engine, Report


class Warehouse:
    """The database `warehouse` in the sandbox's own Postgres.

    Its comment says which seed it has: so a new database is seeded, and one that was copied or kept is not.
    """

    def __init__(self, engine: Engine, sandbox_id: str, password: str) -> None:
        self._database = Database(engine, sandbox_id)
        self._password = password

    def make(self, placed: PlacedService, root: Path, report: Report) -> None:
        """Have the role, the database, and what the project seeds it with.

        Raises:
            ProjectError: the seed's SQL is refused; nothing of it is kept.
        """
        (known,) = self._database.query(
            f"SELECT json_build_object("  # noqa: S608 - a constant
            f"'role', (SELECT count(*) FROM pg_roles WHERE rolname = '{WAREHOUSE}'), "
            f"'seed', (SELECT coalesce(shobj_description(oid, 'pg_database'), '') "
            f"FROM pg_database WHERE datname = '{WAREHOUSE}'))"
        )
        if not known["role"]:
            self._database.run(f"CREATE ROLE {named(WAREHOUSE)} LOGIN")
        if known["seed"] is None:
            report.step("make the warehouse")
            self._database.run(
                f"ALTER ROLE {named(WAREHOUSE)} PASSWORD {quoted(self._password)}",
                f"GRANT {named(WAREHOUSE)} TO CURRENT_USER",
                f"CREATE DATABASE {named(WAREHOUSE)} OWNER {named(WAREHOUSE)}",
                f"REVOKE CONNECT ON DATABASE {named(WAREHOUSE)} FROM PUBLIC",
            )
        if placed.service.folder is not None and known["seed"] != placed.seed:
            report.step("seed the warehouse")
            for path in seed_files(root / placed.service.folder):
                if path.suffix == ".sql":
                    self._run_file(path, root)
            self._database.run(f"COMMENT ON DATABASE {named(WAREHOUSE)} IS {quoted(placed.seed)}")

    def _run_file(self, path: Path, root: Path) -> None:
        with tempfile.TemporaryFile() as script:
            script.write(path.read_bytes())
            script.seek(0)
            try:
                self._database.script(script, database=WAREHOUSE, user=WAREHOUSE, password=self._password)
            except AstroError as exc:
                name = path.relative_to(root).as_posix()
                told = next((line for line in exc.details if "ERROR:" in line), exc.message)
                where = told.partition("ERROR:")[0].strip().rpartition("<stdin>")[2].strip(": ")
                raise ProjectError(
                    f"{name}{f':{where}' if where else ''}: the warehouse refused: "
                    f"{told.partition('ERROR:')[2].strip() or told}",
                    hint="correct it; it runs again when it changes, so write CREATE … IF NOT EXISTS",
                    details=exc.details,
                ) from exc
