"""The metadata database of a deployment: its server's settings, and what its own programs are told.

The scripts run where `$DATABASE` is its address and `/backups` a volume (`stack.postgres_command`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from astro_cli.domain.image import images_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

HEADS = (
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


def backup(name: str, drop: Sequence[str]) -> str:
    """Writes the database to a file, then removes other files."""
    script = f'cd /backups; pg_dump --format=custom --file=part "$DATABASE"; mv part {name}'
    return f"{script}; rm -f {' '.join(drop)}" if drop else script


BACKUPS = "cd /backups; ls -1"
"""Lists the files of backups, and what a backup that was cut off has left."""


def backups(lines: Iterable[str]) -> tuple[str, ...]:
    """The names of backups among the lines of `BACKUPS`."""
    return tuple(sorted(line.strip() for line in lines if line.strip().endswith(".dump")))


def restore(name: str) -> str:
    """Puts a backup in the database's place, all of it or nothing."""
    return (
        "{ echo 'DROP SCHEMA public CASCADE; CREATE SCHEMA public;'; "
        f"pg_restore --no-owner --file=- /backups/{name}; }} "
        '| psql -q -v ON_ERROR_STOP=1 --single-transaction "$DATABASE" >/dev/null'
    )
