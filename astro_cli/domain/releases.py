"""Releases: what was put on a deployment, and what a new one would change. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from astro_cli.foundation.errors import AstroError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LIVE, FAILED = "live", "failed"
RECORD_VERSION = 1


@dataclass(frozen=True)
class Release:
    """One image and one configuration put on a deployment; written down on the target, never changed.

    Attributes:
        id: counts from 1 on each deployment; failed ones count.
        time: when it began, ISO 8601 in UTC.
        image: how the host's engine calls the image: always by digest or image id.
        content: hash of everything the image was built from.
        heads: migration heads of its Airflow.
        revision: git commit of the project, or empty.
        dirty: whether the project had changes that are in no commit.
        who: user and machine.
        gates: checks that passed; `skipped` says that some were left out on request.
        seconds: how long the deploy took.
        result: `live` once it was verified, or `failed`.
        configuration: see `Deployment.on_target`.
        secrets: role of a secret to the engine's name of it; names only.
        files: DAG files with a hash of each.
        error: why it failed.
        rolled_back_to: the release that a rollback brought back.
        dags: digest of the DAG bundle, and of the files in it.
        environment: files that DAGs stand on, such as requirements.txt, with a hash of each.
        base: the release whose services run it, where only DAGs were deployed.
    """

    id: int
    time: str
    image: str
    content: str
    airflow_version: str
    heads: str
    configuration: Mapping[str, Any]
    secrets: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    companions: Mapping[str, str] = field(default_factory=dict)
    revision: str = ""
    dirty: bool = False
    who: str = ""
    description: str = ""
    gates: tuple[str, ...] = ()
    skipped: bool = False
    seconds: float = 0.0
    result: str = LIVE
    error: str = ""
    backup: str = ""
    rolled_back_to: int | None = None
    dags: str = ""
    dags_content: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    base: int | None = None

    @property
    def serving(self) -> int:
        """The release whose services run it: itself, unless only DAGs were deployed."""
        return self.base or self.id

    def to_json(self) -> str:
        """The record as it is kept."""
        return json.dumps({"version": RECORD_VERSION, **asdict(self)}, sort_keys=True)


def read_release(text: str) -> Release:
    """A record as it was kept; fields of a newer astro are left out.

    Raises:
        AstroError: it is none.
    """
    known = Release.__dataclass_fields__
    try:
        data = {key: value for key, value in json.loads(text).items() if key in known}
        return Release(**{**data, "id": int(data["id"]), "gates": tuple(data.get("gates", ()))})
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as exc:
        raise AstroError(
            "the record of a release cannot be read",
            hint="something but astro has written to the target's configs",
        ) from exc


def kept_releases(releases: Sequence[Release], keep: int) -> tuple[Release, ...]:
    """The verified releases that can be returned to, the running one included; the oldest first."""
    return tuple(release for release in releases if release.result == LIVE)[-keep:]


def backup_name(number: int) -> str:
    """The backup that is made before a release migrates the database."""
    return f"before-release-{number:06d}.dump"


def unneeded_backups(releases: Sequence[Release], keep: int) -> tuple[str, ...]:
    """Names of backups, perhaps gone already, over which no rollback can lead any more."""
    kept = kept_releases(releases, keep)
    needed = {
        release.backup for release in kept[1:]
    }  # going back over a release's migration takes its backup
    return tuple(sorted({backup_name(release.id) for release in releases} - needed))


@dataclass(frozen=True)
class Plan:
    """What a release would change against the running one.

    Attributes:
        current: id of the running release, or None on the first deploy.
        added: DAG files, as `changed` and `removed`.
        settings: changed fields of the configuration, each as `name: old → new`.
        secrets: names of secrets that are new or changed.
        migration: whether the metadata database has to be migrated; None where that cannot be known yet.
        dags: whether anything in the DAG bundle differs.
    """

    current: int | None
    image: bool
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    migration: bool | None = None
    dags: bool = False

    @property
    def nothing(self) -> bool:
        """Whether the running release is already what is wanted."""
        return self.current is not None and not (self.image or self.settings or self.secrets or self.dags)


def make_plan(
    current: Release | None,
    *,
    content: str,
    heads: str,
    configuration: Mapping[str, Any],
    files: Mapping[str, str],
    secrets: tuple[str, ...],
    dags: str = "",
) -> Plan:
    """Compare what is wanted with the running release.

    Args:
        current: the running release, or None.
        secrets: names whose values differ from the engine's.
        dags: digest of the files in the DAG bundle.
    """
    if current is None:
        return Plan(None, image=True, added=tuple(sorted(files)), secrets=secrets, migration=False)
    before = current.files
    return Plan(
        current=current.id,
        image=content != current.content,
        added=tuple(sorted(set(files) - set(before))),
        changed=tuple(sorted(name for name in files if name in before and files[name] != before[name])),
        removed=tuple(sorted(set(before) - set(files))),
        settings=tuple(_differences("", current.configuration, configuration)),
        secrets=secrets,
        migration=heads != current.heads,
        dags=dags != current.dags_content,
    )


def _differences(prefix: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    found = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += _differences(f"{prefix}{key}.", before, after)
        elif before != after:
            found.append(f"{prefix}{key}: {_shown(before)} → {_shown(after)}")
    return found


def _shown(value: object) -> str:
    return "(none)" if value in (None, "", [], {}) else json.dumps(value, ensure_ascii=False)
