"""The workflows of `snapshot`: save, restore, delete, export and import the metadata database of one sandbox."""

from __future__ import annotations

import secrets
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from astro_cli.domain import snapshots
from astro_cli.domain.image import images_folder
from astro_cli.domain.snapshots import (
    BEFORE_IMPORT,
    BEFORE_KILL,
    BEFORE_RESTORE,
    BY_HAND,
    DRAFT_PREFIX,
    IMPORTED,
    PREFIX,
    Present,
    Snapshot,
)
from astro_cli.foundation.errors import AstroError, Interrupted
from astro_cli.foundation.paths import make_private_dir, read_json
from astro_cli.runtime import snapshot_file
from astro_cli.runtime.database import LIVE, Database, named, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from astro_cli.domain.state import SandboxState
    from astro_cli.runtime.engine import Engine, Report, SandboxStatus

# One row for each snapshot and draft, `about` its comment; and one with what is live.
_FOUND = f"""
SELECT jsonb_build_object('database', datname, 'about', shobj_description(oid, 'pg_database'),
                         'bytes', pg_database_size(oid))
FROM pg_database WHERE datname LIKE '{PREFIX.replace("_", "!_")}%' ESCAPE '!'
                    OR datname LIKE '{DRAFT_PREFIX.replace("_", "!_")}%' ESCAPE '!'
UNION ALL
SELECT jsonb_build_object('heads', (SELECT jsonb_agg(version_num ORDER BY version_num) FROM alembic_version),
                         'running', (SELECT count(*) FROM task_instance WHERE state IN ('running', 'queued')),
                         'triggers', (SELECT count(*) FROM trigger))
"""  # noqa: S608 - constants
_HEADS = "SELECT jsonb_agg(version_num ORDER BY version_num) FROM alembic_version"


@dataclass(frozen=True)
class Restored:
    """What a restore did.

    Attributes:
        snapshot: the one that is live now.
        before: the snapshot that the live database of before has become.
        accepted: what is lost or has to be done because of `--force`.
    """

    snapshot: Snapshot
    before: Snapshot
    accepted: tuple[str, ...]


@dataclass(frozen=True)
class _Found:
    present: Present
    snapshots: tuple[Snapshot, ...]
    drafts: tuple[str, ...]


class Snapshots:
    """The snapshots of one sandbox: databases beside the live one, and files that outlived a `kill`."""

    def __init__(
        self,
        engine: Engine,
        state: SandboxState,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        self._engine = engine
        self._state = state
        self._clock = clock
        self._database = Database(engine, state.sandbox_id)

    # workflows

    def save(self, name: str | None = None, *, reason: str = BY_HAND) -> Snapshot:
        """Keep a copy of the live database.

        Args:
            name: of the copy; None takes the time.
            reason: why; automatic ones make room for themselves.

        Raises:
            UsageError: nothing can be called so.
            AstroError: the name is in use, or the database does not run.
        """
        if name is not None:
            snapshots.check_name(name)
        with self._alone("save"):
            found = self._look()
            if name is None:
                name = snapshots.new_name(self._clock(), reason, found.snapshots)
            snapshots.check_free(name, found.snapshots)
            snapshot = snapshots.taken(found.present, name, self._clock(), reason)
            draft = _draft()
            then = (*_finished(draft, snapshot), *self._room(found, reason))
            self._database.copy(draft, then, first=_dropped(*found.drafts))
        return snapshot

    def restore(self, name: str, *, force: bool, report: Report) -> Restored:
        """Make a snapshot the live database; what was live becomes a snapshot itself.

        Raises:
            AstroError: there is none of that name, or it does not fit (see `snapshots.check_fits`).
        """
        with self._alone("restore"):
            found = self._look()
            snapshot = snapshots.find(name, found.snapshots)
            accepted = snapshots.check_fits(snapshot, found.present, force=force)
            if found.present.running:
                report.warn(
                    f"{found.present.running} tasks run or are queued: the restored database does not know of "
                    "them, and Airflow ends them"
                )
            now = self._clock()
            before = snapshots.taken(
                found.present, snapshots.new_name(now, BEFORE_RESTORE, found.snapshots), now, BEFORE_RESTORE
            )
            report.step("swap the databases")
            draft, copy = self._source(snapshot, found)
            room = self._room(found, BEFORE_RESTORE, but=snapshot)
            first = (*copy, *_with_jobs(draft))
            self._database.replace(draft, before.database, before.about(), room, first=first)
            self._state.remember(objects=snapshot.objects)
            self._renew_services(found.present, report)
        return Restored(snapshot, before, accepted)

    def list(self) -> tuple[tuple[Snapshot, ...], bool]:
        """Those that are in reach, newest first; and whether that is all.

        Where the database does not run, only those in files are.
        """
        status = self._status()
        complete = status is None or _database_runs(status)
        known = self._look(status).snapshots if status and _database_runs(status) else self._kept()
        return tuple(sorted(known, key=lambda one: (one.created or "", one.name), reverse=True)), complete

    def delete(self, name: str) -> Snapshot:
        """Remove a snapshot; one in a file needs no sandbox.

        Raises:
            AstroError: there is none of that name.
        """
        with self._state.lock("snapshot delete"):
            kept = {snapshot.name: snapshot for snapshot in self._kept()}
            if name in kept:
                Path(str(kept[name].file)).unlink()
                return kept[name]
            found = self._look()
            snapshot = snapshots.find(name, found.snapshots)
            self._database.run(*_dropped(snapshot.database, *found.drafts))
        return snapshot

    def export(self, name: str, path: Path) -> Snapshot:
        """Write a snapshot to a file; one that is in a file needs no sandbox.

        Raises:
            AstroError: there is none of that name.
            OSError: the file cannot be written; nothing is left of it.
        """
        with self._state.lock("snapshot export"):
            kept = {snapshot.name: snapshot for snapshot in self._kept()}
            if name in kept:
                snapshot_file.copy(Path(str(kept[name].file)), path)
                return kept[name]
            snapshot = snapshots.find(name, self._look().snapshots)
            snapshot_file.write(path, snapshot, lambda into: self._database.dump(snapshot.database, into))
        return snapshot

    def import_file(self, path: Path, name: str | None, *, force: bool) -> tuple[Snapshot, tuple[str, ...]]:
        """Take over a file that `export` wrote, under `name` or its own; the live database stays.

        Returns:
            The snapshot, and what `force` accepted.

        Raises:
            AstroError: the file is damaged, does not fit, or the name is in use. Nothing was changed.
        """
        written = snapshot_file.read(path)
        snapshot = snapshots.imported(written, snapshots.check_name(name or written.name))
        with self._alone("import"):
            found = self._look()
            snapshots.check_free(snapshot.name, found.snapshots)
            accepted = snapshots.check_fits(snapshot, found.present, force=force)
            draft = self._loaded(path, snapshot, found)
            self._database.run(*_finished(draft, snapshot))
        return snapshot, accepted

    def save_before_import(self) -> Snapshot | None:
        """What `object import` does first; None where the sandbox uses a database of the user's own."""
        status = self._status()
        if status is None or not _has_own_database(status):
            return None  # the user's
        return self.save(reason=BEFORE_IMPORT)

    def keep_before_kill(self, report: Report) -> Snapshot | None:
        """Write the live database to a file that survives the sandbox; the caller holds the lock.

        A database that does not answer is a warning: it must be possible to remove it.
        """
        status = self._status()
        if status is None or not _has_own_database(status):
            return None
        if not _database_runs(status):
            report.warn("no snapshot was kept: the database does not run")
            return None
        report.step("keep a snapshot of the database")
        try:
            present = self._look(status).present
            kept = self._kept()
            now = self._clock()
            snapshot = snapshots.taken(present, snapshots.new_name(now, BEFORE_KILL, kept), now, BEFORE_KILL)
            path = make_private_dir(self._folder) / f"{snapshot.name}{snapshot_file.SUFFIX}"
            snapshot_file.write(path, snapshot, lambda into: self._database.dump(LIVE, into))
        except (AstroError, OSError) as exc:
            report.warn(f"no snapshot was kept: {exc}")
            return None
        for old in snapshots.surplus(kept, BEFORE_KILL):
            Path(str(old.file)).unlink(missing_ok=True)
        return snapshot_file.read(path)

    @property
    def outlive_kill(self) -> bool:
        """Whether there are files, which need the sandbox's key again one day."""
        return bool(self._kept())

    # steps

    def _source(self, snapshot: Snapshot, found: _Found) -> tuple[str, tuple[str, ...]]:
        """A draft with the content of a snapshot, and the statements it takes; a file is loaded at once."""
        if snapshot.file is not None:
            return self._loaded(Path(snapshot.file), snapshot, found), ()
        draft = _draft()
        copy = f"CREATE DATABASE {named(draft)} TEMPLATE {named(snapshot.database)} OWNER {LIVE};"
        return draft, (*_dropped(*found.drafts), copy)

    def _loaded(self, path: Path, snapshot: Snapshot, found: _Found) -> str:
        draft = _draft()
        with snapshot_file.opened(path) as dump:
            self._database.run(
                *_dropped(*found.drafts), f"CREATE DATABASE {named(draft)} TEMPLATE template0 OWNER {LIVE}"
            )
            try:
                self._database.load(dump, draft)
                if snapshot.heads not in ((), tuple(self._database.query(_HEADS, database=draft)[0] or ())):
                    raise AstroError(f"{path} does not hold what its header says", hint="export it again")
            except BaseException:
                with suppress(AstroError):
                    self._database.run(*_dropped(draft))
                raise
        return draft

    def _renew_services(self, before: Present, report: Report) -> None:
        """Restart what works on rows that are there no more."""
        stateful = {"scheduler": before.running, "triggerer": before.triggers}
        names = [name for name, rows in stateful.items() if rows]
        if not names:
            return
        from concurrent.futures import ThreadPoolExecutor

        def renew(name: str) -> None:
            try:
                self._engine.restart(self._state.sandbox_id, name)
            except AstroError as exc:
                report.warn(f"`{name}` still works on the old state ({exc}): run `astro airflow restart`")

        report.step(f"restart {' and '.join(names)}")
        with ThreadPoolExecutor() as pool:
            tuple(pool.map(renew, names))

    def _room(self, found: _Found, reason: str, *, but: Snapshot | None = None) -> tuple[str, ...]:
        """Statements that remove what is too much once there is one more of this reason."""
        if reason in (BY_HAND, IMPORTED):
            return ()
        beside = [one for one in found.snapshots if one.file is None and one != but]
        return _dropped(*(old.database for old in snapshots.surplus(beside, reason)))

    def _look(self, status: SandboxStatus | None = None) -> _Found:
        """What is live and what is kept.

        Raises:
            AstroError: there is no sandbox, or no database of ours that runs.
        """
        status = status or self._status()
        if status is None:
            raise AstroError("the project has no sandbox yet", hint="make it with `astro airflow start`")
        if not _has_own_database(status):
            raise AstroError(
                "this sandbox uses a database of your own, and snapshots are of the sandbox's",
                hint="use what your database brings, for example `pg_dump`",
            )
        if not _database_runs(status):
            raise AstroError(
                "the sandbox's database does not run", hint="start it with `astro airflow start`"
            )
        if status.database in ("waiting", "migrating"):
            raise AstroError(
                "the sandbox's database is still starting", hint="see `astro airflow ps`, and try again"
            )
        answer = self._database.query(_FOUND)
        live = next(row for row in answer if "heads" in row)
        rows = [row for row in answer if "database" in row]
        return _Found(
            present=Present(
                airflow=status.airflow_version,
                key=self._state.get("key"),
                heads=tuple(live["heads"] or ()),
                running=live["running"],
                triggers=live["triggers"],
                objects=self._state.get("objects"),
                known_heads=_known_heads(),
            ),
            snapshots=(
                *(_snapshot(row) for row in rows if row["database"].startswith(PREFIX)),
                *self._kept(),
            ),
            drafts=tuple(row["database"] for row in rows if row["database"].startswith(DRAFT_PREFIX)),
        )

    def _status(self) -> SandboxStatus | None:
        return next(iter(self._engine.status(self._state.sandbox_id)), None)

    @property
    def _folder(self) -> Path:
        return self._state.folder / "snapshots"

    def _kept(self) -> tuple[Snapshot, ...]:
        """Those in files; a damaged file is none."""
        kept = []
        for path in sorted(self._folder.glob(f"*{snapshot_file.SUFFIX}")):
            with suppress(AstroError, OSError):
                kept.append(snapshot_file.read(path))
        return tuple(kept)

    @contextmanager
    def _alone(self, purpose: str) -> Iterator[None]:
        with self._state.lock(f"snapshot {purpose}"):
            try:
                yield
            except KeyboardInterrupt as exc:
                raise Interrupted(
                    "interrupted",
                    hint="the database is as it was, or as it was to be: see `astro airflow snapshot list`",
                ) from exc


def _snapshot(row: dict[str, Any]) -> Snapshot:
    known = snapshots.read_about(row["database"].removeprefix(PREFIX), row["about"])
    return replace(known, bytes=row["bytes"])


def _has_own_database(status: SandboxStatus) -> bool:
    """Whether it is the sandbox's and not the user's."""
    return any(service.name == "postgres" for service in status.services)


def _database_runs(status: SandboxStatus) -> bool:
    return any(service.name == "postgres" and service.state == "running" for service in status.services)


def _known_heads() -> frozenset[str]:
    known = read_json(images_folder() / "migrations.json")
    return frozenset([*known.get("heads", ()), *known.get("known", ())])


def _draft() -> str:
    return DRAFT_PREFIX + secrets.token_hex(4)


def _dropped(*databases: str) -> tuple[str, ...]:
    return tuple(f"DROP DATABASE IF EXISTS {named(database)} WITH (FORCE);" for database in databases)


def _with_jobs(draft: str) -> tuple[str, ...]:
    """Lines for psql that make a draft know the components that run now, by the ids they know themselves by.

    Without their row they would not be healthy until they have written it, or would take the id of another.
    """
    rows = "json_populate_recordset(NULL::job, :jobs)"
    return (
        f"\\connect {LIVE}",
        "SELECT quote_literal(coalesce(json_agg(job), '[]')) AS jobs FROM job WHERE state = 'running' \\gset",
        f'\\connect "{draft}"',
        "BEGIN;",
        "UPDATE job SET state = 'failed', end_date = latest_heartbeat WHERE state = 'running';",
        f"DELETE FROM job WHERE id IN (SELECT id FROM {rows});",  # noqa: S608 - a constant
        f"INSERT INTO job SELECT * FROM {rows};",  # noqa: S608 - a constant
        "SELECT setval(pg_get_serial_sequence('job', 'id'), max(id)) FROM job;",
        "COMMIT;",
    )


def _finished(draft: str, snapshot: Snapshot) -> tuple[str, ...]:
    """Statements by which a draft becomes a snapshot, at once and with all that is known of it."""
    return (
        "BEGIN",
        f"COMMENT ON DATABASE {named(draft)} IS {quoted(snapshot.about())}",
        f"ALTER DATABASE {named(draft)} RENAME TO {named(snapshot.database)}",
        "COMMIT",
    )
