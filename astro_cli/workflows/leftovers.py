"""What astro made and nothing uses any more, with its size: found by labels and in astro's folders, never guessed.

`doctor` tells of it and `clean` removes it. Two kinds: what can be made again (images, environments, caches), and
data of projects whose folder is gone, which cannot.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from astro_cli.domain import image
from astro_cli.domain.airflow import DEFAULT_VERSION, SUPPORTED_VERSIONS
from astro_cli.domain.host_settings import CACHE_FOLDER
from astro_cli.domain.state import CHECKOUT_FILE
from astro_cli.foundation import labels
from astro_cli.foundation.errors import AstroError
from astro_cli.foundation.paths import cache_dir, read_json, state_dir
from astro_cli.runtime.engine_http import NotFound
from astro_cli.runtime.snapshot_file import SUFFIX
from astro_cli.runtime.venv import COMPLETE, Inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from astro_cli.runtime.docker_api import DockerApi
    from astro_cli.runtime.engine import Engine, Report
    from astro_cli.runtime.engine_http import EngineReader

YOUNG_SECONDS = 3600.0
"""Anything younger may be in the making."""


@dataclass(frozen=True)
class Leftover:
    """One thing that can go.

    Attributes:
        kind: `image`, `build cache`, `environment`, `sandbox` or `snapshot`.
        name: what it is called, and `why` it is of no more use, in words.
        size: bytes that become free, without what images share; None where nobody tells.
        data: it cannot be made again.
        remove: does it.
    """

    kind: str
    name: str
    why: str
    size: int | None
    data: bool
    remove: Callable[[], None] = field(repr=False, compare=False)


def is_gone(sandbox_id: str, folders: Iterable[str]) -> bool:
    """Whether none of the folders in which a sandbox was is that project's any more.

    A folder without an id in it counts as there: it may be read-only, or cleaned by git.
    """
    for folder in folders:
        try:
            known = (Path(folder) / CHECKOUT_FILE).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            if os.path.lexists(folder):
                return False
            continue
        if known == sandbox_id:
            return False
    return True


class Leftovers:
    """Looks for leftovers on this machine.

    Args:
        reader: the Docker engine's, or None where there is none; then `api` is not called.
        engines: those that answer, to remove sandboxes with.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        reader: EngineReader | None,
        api: Callable[[], DockerApi],
        engines: Sequence[Engine],
        report: Report,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._reader = reader
        self._api = api
        self._engines = engines
        self._report = report
        self._clock = clock

    def find(self) -> tuple[Leftover, ...]:
        """All there is, the largest first within what can be made again, then the data."""
        found = [*self._environments(), *self.sandboxes(), *self._snapshots()]
        if self._reader is not None:
            told = self._reader.json("/system/df")
            found += [*self._images(self._reader, told), *self._build_cache(told)]
        return tuple(sorted(found, key=lambda each: (each.data, -(each.size or 0), each.name)))

    # sandboxes whose project is gone

    def sandboxes(self) -> Iterator[Leftover]:
        """Sandboxes of folders that are gone, as far as they do not run; volumes without containers included."""
        folders: dict[str, set[str]] = {}
        names: dict[str, str] = {}
        running: set[str] = set()
        for engine in self._engines:
            for status in engine.status():
                folders.setdefault(status.sandbox_id, set()).add(status.path)
                names[status.sandbox_id] = status.project_name
                if status.state != "stopped":
                    running.add(status.sandbox_id)
        for marks in self._volume_marks():
            folders.setdefault(marks[labels.SANDBOX], set()).add(marks.get(labels.PATH, ""))
            names.setdefault(marks[labels.SANDBOX], marks.get(labels.NAME, "?"))
        for state in state_dir().glob("sandboxes/*/state.json"):
            path = read_json(state).get("path")
            if isinstance(path, str):
                folders.setdefault(state.parent.name, set()).add(path)
        for sandbox_id, paths in sorted(folders.items()):
            where = sorted(path for path in paths if path)
            if sandbox_id in running or not where or not is_gone(sandbox_id, where):
                continue
            yield Leftover(
                "sandbox",
                names.get(sandbox_id, sandbox_id),
                f"its project is no longer in {where[0]}",
                _size_of(state_dir() / "sandboxes" / sandbox_id),
                data=True,
                remove=partial(self._remove_sandbox, sandbox_id, where),
            )

    def _volume_marks(self) -> list[dict[str, str]]:
        if self._reader is None:
            return []
        query = json.dumps({"label": [labels.SANDBOX]})
        volumes = self._reader.json("/volumes", filters=query).get("Volumes") or []
        return [volume["Labels"] for volume in volumes]

    def _remove_sandbox(self, sandbox_id: str, folders: Sequence[str]) -> None:
        from filelock import FileLock, Timeout

        folder = state_dir() / "sandboxes" / sandbox_id
        try:
            with FileLock(folder / "lock", timeout=0) if folder.exists() else nullcontext():
                if not is_gone(sandbox_id, folders):  # it came back while somebody thought about the answer
                    return
                for engine in self._engines:
                    engine.down(sandbox_id, data=True, report=self._report)
                kept = folder / "snapshots"
                if not any(kept.glob("*")):  # with snapshots its key stays: they are leftovers of their own
                    shutil.rmtree(folder, ignore_errors=True)
                else:
                    (folder / "state.json").unlink(missing_ok=True)
        except Timeout as exc:
            raise AstroError("another run of astro works on it") from exc

    # files

    def _snapshots(self) -> Iterator[Leftover]:
        """Files that a `kill` kept, where no sandbox was made since."""
        for folder in sorted(state_dir().glob("sandboxes/*/snapshots")):
            if (folder.parent / "state.json").exists():
                continue
            for file in sorted(folder.glob(f"*{SUFFIX}")):
                with suppress(OSError):
                    days = (self._clock() - file.stat().st_mtime) / 86400
                    why = f"kept by a kill {days:.0f} days ago; a start there could still restore it"
                    yield Leftover(
                        "snapshot",
                        str(file),
                        why,
                        file.stat().st_size,
                        data=True,
                        remove=partial(_unlink, file),
                    )

    def _environments(self) -> Iterator[Leftover]:
        """Environments of local processes that no sandbox was last started with."""
        used = set()
        for file in state_dir().glob("sandboxes/*/standalone/sandbox.json"):
            marks = read_json(file)
            if not is_gone(str(marks.get("sandbox_id")), [str(marks.get("path"))]):
                used.add(str(marks.get("environment")))
        bare = Inputs(DEFAULT_VERSION, image.images_folder() / "requirements.lock", None).key
        for folder in sorted((cache_dir() / "environments").glob("*-*")):
            done = folder / COMPLETE
            if str(folder) in used or not done.is_file() or folder.is_symlink():
                continue
            if used and folder.name.startswith(f"{bare}-"):  # the others' files are links to its files
                continue
            if self._clock() - done.stat().st_mtime < YOUNG_SECONDS:
                continue
            version = read_json(done).get("airflow", "?")
            why = "no sandbox was last started with it"
            name = f"Airflow {version}, {folder.name}"
            yield Leftover(
                "environment", name, why, _size_of(folder), data=False, remove=partial(_remove_folder, folder)
            )

    # the Docker engine

    def _images(self, reader: EngineReader, told: dict[str, Any]) -> Iterator[Leftover]:
        in_use = {container["ImageID"] for container in reader.json("/containers/json", all="true")}
        ends = _own_ends(reader)
        for found in told.get("Images") or []:
            if found["Id"] in in_use or labels.INPUTS_HASH not in (found.get("Labels") or {}):
                continue
            tags = [tag for tag in found.get("RepoTags") or [] if tag != "<none>:<none>"]
            why = self._unused(reader, found, tags, ends)
            if why is None:
                continue
            yield Leftover(
                "image",
                tags[0] if tags else found["Id"].removeprefix("sha256:")[:12],
                why,
                found["Size"] - max(found.get("SharedSize", 0), 0),
                data=False,
                remove=partial(self._remove_image, reader, found["Id"], tags),
            )

    def _unused(
        self, reader: EngineReader, found: dict[str, Any], tags: Sequence[str], ends: set[str]
    ) -> str | None:
        """Why an image is of no more use; None if it is, or if it may be somebody else's."""
        marks = found.get("Labels") or {}
        owner = marks.get(labels.SANDBOX)
        if any(not tag.startswith("localhost/astro/") for tag in tags):
            return None
        if not tags:
            # Labels are inherited: without a sandbox's it is ours only if nothing was built on top.
            ours = owner is not None or _last_step(reader, found["Id"]) in ends
            return "a newer build took its place" if ours else None
        if owner is not None:
            folders = [marks.get(labels.PATH, "")]
            gone = not Path(folders[0]).exists() if owner.startswith("deploy-") else is_gone(owner, folders)
            return f"its project is no longer in {folders[0]}" if gone else None
        # Only where the name says the version: of an image that is called otherwise nothing is known.
        of_a_version = all(tag.rpartition(":")[0] in _VERSIONED for tag in tags)
        current = {name(version) for version in SUPPORTED_VERSIONS for name in _NAMES}
        return "this astro does not use it" if of_a_version and not current.intersection(tags) else None

    def _remove_image(self, reader: EngineReader, image_id: str, tags: Sequence[str]) -> None:
        """Remove an image, unless it has got another name since; one in use the engine keeps."""
        with suppress(NotFound):
            if set(reader.json(f"/images/{image_id}/json").get("RepoTags") or ()) <= set(tags):
                for reference in tags or [image_id]:
                    self._api().remove_image(reference)

    def _build_cache(self, told: dict[str, Any]) -> Iterator[Leftover]:
        """The cache in which builds keep downloaded packages."""
        for record in told.get("BuildCache") or []:
            ours = record.get("Type") == "exec.cachemount" and CACHE_FOLDER in record.get("Description", "")
            if ours and not record.get("InUse"):
                why = "downloads that builds keep; the next one loads them again"
                name = f"packages, {record['ID'][:12]}"
                yield Leftover(
                    "build cache",
                    name,
                    why,
                    record["Size"],
                    data=False,
                    remove=partial(self._prune, record["ID"]),
                )

    def _prune(self, record: str) -> None:
        self._api().call("POST", "/build/prune", all="true", filters=json.dumps({"id": [record]}))


_NAMES = (image.engine_image, image.postgres_image)
_VERSIONED = {name("").rpartition(":")[0] for name in _NAMES}


def _own_ends(reader: EngineReader) -> set[str]:
    """The last build step of each image that astro makes, as far as they are here."""
    names = [name(version) for version in SUPPORTED_VERSIONS for name in _NAMES]
    names += [image.PROXY_IMAGE, image.BROKER_IMAGE, image.SERVICES_IMAGE]
    ends = {_last_step(reader, name) for name in names}
    return ends - {""}


def _last_step(reader: EngineReader, reference: str) -> str:
    try:
        history = reader.json(f"/images/{reference}/history")
    except NotFound:
        return ""
    return str(history[0].get("CreatedBy", "")) if history else ""


def _size_of(folder: Path) -> int:
    """Bytes that removing a folder frees: files that other folders share by links do not count."""
    total = 0
    pending = [folder]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(Path(entry.path))
                    elif (told := entry.stat(follow_symlinks=False)).st_nlink == 1:
                        total += told.st_blocks * 512
        except OSError:
            continue
    return total


def _remove_folder(folder: Path) -> None:
    from filelock import FileLock, Timeout

    lock = folder.with_name(f"{folder.name.rpartition('-')[0]}.lock")
    try:
        with FileLock(lock, timeout=0):
            # No environment counts without its mark, so one that is half removed is none.
            (folder / COMPLETE).unlink(missing_ok=True)
            shutil.rmtree(folder)
    except Timeout as exc:
        raise AstroError("another run of astro works on it") from exc


def _unlink(file: Path) -> None:
    file.unlink(missing_ok=True)
