"""The metadata database of a deployment: its server's settings, and the jobs that are done with it.

The scripts run where `$DATABASE` is its address and `/backups` a volume (`stack.postgres_command`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from astro_cli.domain.image import images_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from astro_cli.domain.releases import Release

_HEADS = (
    "psql -qAt \"$DATABASE\" -c 'SELECT 1' >/dev/null; "
    'psql -qAt "$DATABASE" -c '
    "\"SELECT string_agg(version_num, ',' ORDER BY version_num) FROM alembic_version\" 2>/dev/null || true"
)
"""Prints where its migrations stand; nothing for an empty one."""
# A deployment's database keeps what it has confirmed, unlike a sandbox's.
_SETTINGS = """
synchronous_commit = on
max_connections = 200
shared_buffers = 128MB
unix_socket_directories = '/tmp'
"""


def settings() -> str:
    """The configuration of the bundled server."""
    return (images_folder() / "postgresql.conf").read_text(encoding="utf-8") + _SETTINGS


class DatabaseJobs(ABC):
    """What is done once in or beside the metadata database; a target says how it runs a job."""

    @abstractmethod
    def _postgres_job(self, role: str, release: Release, script: str, failure: str) -> list[str]:
        """Run a script with Postgres' own programs; returns its lines.

        Args:
            role: names the job.
            failure: what it means to the user that it failed.
        """

    @abstractmethod
    def _airflow_job(self, role: str, release: Release, command: Sequence[str], failure: str) -> list[str]:
        """Run a command in a release's image, with all of its environment; returns its lines."""

    def database_heads(self, release: Release) -> str:
        """Migration heads of the metadata database; empty for an empty one."""
        failure = "the metadata database cannot be asked for its version"
        return "".join(self._postgres_job("heads", release, _HEADS, failure)).strip()

    def backup(self, release: Release, name: str, *, drop: Sequence[str] = ()) -> str:
        """Write the metadata database to the file `name` in the volume of backups, then remove others."""
        script = f'cd /backups; pg_dump --format=custom --file=part "$DATABASE"; mv part {name}'
        if drop:
            script += f"; rm -f {' '.join(drop)}"
        self._postgres_job("backup", release, script, "the backup of the metadata database failed")
        return name

    def backups(self, release: Release) -> tuple[str, ...]:
        """Names of the backups; a file that a backup left which was cut off is none."""
        lines = self._postgres_job("backups", release, "cd /backups; ls -1", "the backups cannot be listed")
        return tuple(sorted(line.strip() for line in lines if line.strip().endswith(".dump")))

    def restore(self, release: Release, name: str) -> None:
        """Put a backup in the metadata database's place, all of it or nothing."""
        end_others = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
            "AND usename = current_user AND pid <> pg_backend_pid();"
        )
        script = (
            f"{{ echo '{end_others} DROP SCHEMA public CASCADE; CREATE SCHEMA public;'; "
            f"pg_restore --no-owner --file=- /backups/{name} "
            # What no server takes: as a statement; or as data of a table within which the file ends, and after it.
            "|| printf '%s\\n' '' 'the backup is damaged;' '\\.' 'the backup is damaged;'; } "
            '| psql -q -v ON_ERROR_STOP=1 --single-transaction "$DATABASE" >/dev/null'
        )
        self._postgres_job("restore", release, script, f"the backup {name} could not be restored")

    def migrate(self, release: Release) -> None:
        """Migrate the metadata database with the release's image."""
        command = ["airflow", "db", "migrate"]
        self._airflow_job("migrate", release, command, "the migration of the metadata database failed")

    def reencrypt(self, release: Release) -> None:
        """Encrypt everything in the database with the newest key."""
        command = ["airflow", "rotate-fernet-key"]
        self._airflow_job("reencrypt", release, command, "the database could not be encrypted anew")
