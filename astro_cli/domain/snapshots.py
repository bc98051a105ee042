"""Snapshots of the metadata database: their names, what is known of each, which fit a sandbox, which are kept."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from astro_cli.foundation.errors import AstroError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

PREFIX = "astro_snapshot_"
"""A database of this name beside the live one is a snapshot; what is known of it stands in its comment."""
DRAFT_PREFIX = "astro_draft_"
"""A database in the making. One that is found later was left by a run that was killed."""
KEPT_AUTOMATIC = 3
"""How many automatic snapshots stay of each reason."""

BY_HAND = "asked for"
IMPORTED = "imported"
BEFORE_RESTORE = "before restore"
BEFORE_IMPORT = "before object import"
BEFORE_KILL = "before kill"
BEFORE_MIGRATION = "before migration"
"""Written by runtime/inside/migrations.py, which cannot import this."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
_KEY_DIGITS = 12


@dataclass(frozen=True)
class Snapshot:
    """One saved metadata database.

    Attributes:
        created: ISO 8601, UTC.
        reason: why it was made.
        automatic: astro made it unasked, and removes it when there are newer ones of its kind.
        airflow: the Airflow that had migrated it; None where nobody knows.
        key: `key_id` of the Fernet key that its secrets are encrypted with, or None.
        heads: its alembic revisions.
        objects: hash of the objects file as last written to it, or None; see `Sandbox.start`.
        bytes: on the disk.
        file: the file that holds it, or None when it is a database beside the live one.
    """

    name: str
    created: str | None = None
    reason: str = "unknown"
    automatic: bool = False
    airflow: str | None = None
    key: str | None = None
    heads: tuple[str, ...] = ()
    objects: str | None = None
    bytes: int = 0
    file: str | None = None

    @property
    def database(self) -> str:
        """The name of the database that holds it."""
        return PREFIX + self.name

    def about(self) -> str:
        """What a database's comment or a file's header says of it, as JSON."""
        known = asdict(self)
        for place in ("name", "bytes", "file"):
            del known[place]
        return json.dumps({"version": 1, **known})


def read_about(name: str, text: str | None) -> Snapshot:
    """The snapshot `name` with what `Snapshot.about` wrote; as little as can be read of anything else."""
    try:
        known = json.loads(text or "")
    except ValueError:
        known = None
    if not isinstance(known, dict):
        return Snapshot(name)
    words = {key: known[key] for key in ("created", "airflow", "key", "objects") if _is_text(known.get(key))}
    heads = known.get("heads")
    return Snapshot(
        name,
        reason=str(known.get("reason", "unknown")),
        automatic=known.get("automatic") is True,
        heads=tuple(head for head in heads if _is_text(head)) if isinstance(heads, list) else (),
        **words,
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str)


@dataclass(frozen=True)
class Present:
    """The live database, which a snapshot is made of or takes the place of.

    Attributes:
        airflow: the Airflow that works on it.
        key: `key_id` of its Fernet key; None where a start before this astro did not write it down.
        running: how many tasks run or are about to.
        triggers: how many deferred tasks wait for something.
        known_heads: alembic revisions that this Airflow can migrate from, its own included.
    """

    airflow: str | None
    key: str | None
    heads: tuple[str, ...] = ()
    running: int = 0
    triggers: int = 0
    objects: str | None = None
    known_heads: frozenset[str] = field(default=frozenset(), repr=False)


def key_id(fernet_key: str) -> str:
    """Tells keys apart without telling anything of them."""
    return hashlib.sha256(fernet_key.encode()).hexdigest()[:_KEY_DIGITS]


def taken(present: Present, name: str, now: datetime, reason: str = BY_HAND) -> Snapshot:
    """The description of a snapshot made of `present` at `now`."""
    return Snapshot(
        name,
        created=now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        reason=reason,
        automatic=reason not in (BY_HAND, IMPORTED),
        airflow=present.airflow,
        key=present.key,
        heads=present.heads,
        objects=present.objects,
    )


def check_name(name: str) -> str:
    """The name, if it can be one.

    Raises:
        UsageError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"a snapshot cannot be called {name!r}",
            hint="use up to 40 letters, digits, dots, dashes and underscores, the first a letter or a digit",
        )
    return name


def new_name(now: datetime, reason: str, known: Iterable[Snapshot]) -> str:
    """A free name: the time, and for an automatic one what it was made before."""
    stamp = now.strftime("%Y%m%d-%H%M%S")
    name = stamp if reason == BY_HAND else f"{reason.replace(' ', '-')}-{stamp}"
    names = {snapshot.name for snapshot in known}
    free, number = name, 1
    while free in names:
        number += 1
        free = f"{name}-{number}"
    return free


def find(name: str, known: Sequence[Snapshot]) -> Snapshot:
    """The snapshot of this name.

    Raises:
        AstroError: there is none; the hint has the most similar one.
    """
    for snapshot in known:
        if snapshot.name == name:
            return snapshot
    names = [snapshot.name for snapshot in known]
    similar = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = "see `astro airflow snapshot list`" if names else "make one with `astro airflow snapshot save`"
    raise AstroError(
        f"there is no snapshot `{name}`", hint=f"did you mean `{similar[0]}`?" if similar else hint
    )


def check_free(name: str, known: Iterable[Snapshot]) -> None:
    """Refuse a name that is in use.

    Raises:
        AstroError: it is.
    """
    if any(snapshot.name == name for snapshot in known):
        raise AstroError(
            f"there is a snapshot `{name}` already",
            hint=f"choose another name, or remove it with `astro airflow snapshot delete {name}`",
        )


def check_fits(snapshot: Snapshot, present: Present, *, force: bool) -> tuple[str, ...]:
    """Refuse a snapshot that this sandbox's Airflow could not work on.

    Args:
        snapshot: the one to use.
        present: what it would take the place of.
        force: accept another key, and an older Airflow whose database can be migrated.

    Returns:
        What is lost or has to be done because of `force`, in sentences.

    Raises:
        AstroError: it does not fit.
    """
    accepted = []
    made_by = f"Airflow {snapshot.airflow}" if snapshot.airflow else "another Airflow"
    other_heads = bool(snapshot.heads) and snapshot.heads != present.heads
    other_version = bool(snapshot.airflow and present.airflow) and snapshot.airflow != present.airflow
    if other_heads or other_version:
        message = (
            f"the snapshot `{snapshot.name}` is of {made_by}, the sandbox runs Airflow {present.airflow}"
        )
        go_back = "it fits a sandbox of that version: see FROM in the Dockerfile"
        if other_heads and not present.known_heads.issuperset(snapshot.heads):
            raise AstroError(f"{message}, which cannot read it", hint=go_back)
        if not force:
            raise AstroError(message, hint=f"{go_back}; `--force` takes it as it is, to be migrated")
        if other_heads:
            accepted.append(f"it is the database of {made_by}: `astro airflow restart` migrates it")
    if snapshot.key and present.key and snapshot.key != present.key:
        lost = "passwords of its connections, and its variables, cannot be read"
        if not force:
            raise AstroError(
                f"the snapshot `{snapshot.name}` was made with another Fernet key: {lost}",
                hint="give the sandbox that key (AIRFLOW__CORE__FERNET_KEY in .env), or lose them with `--force` "
                "and write them again with `astro airflow object import`",
            )
        accepted.append(f"it was made with another Fernet key: {lost}")
    return tuple(accepted)


def surplus(known: Iterable[Snapshot], reason: str) -> tuple[Snapshot, ...]:
    """The automatic snapshots of a reason that are too many once one more is made, oldest first."""
    same = [snapshot for snapshot in known if snapshot.automatic and snapshot.reason == reason]
    same.sort(key=lambda snapshot: (snapshot.created or "", snapshot.name))
    return tuple(same[: max(0, len(same) - KEPT_AUTOMATIC + 1)])


def as_json(snapshot: Snapshot) -> Mapping[str, Any]:
    """For `--json`."""
    return asdict(snapshot)


def imported(snapshot: Snapshot, name: str) -> Snapshot:
    """As it is once it was imported under `name`: the user's, not to be removed unasked."""
    return replace(snapshot, name=name, reason=IMPORTED, automatic=False, file=None)
