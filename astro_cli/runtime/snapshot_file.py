"""A snapshot as a file: a zip archive of a header and what pg_dump wrote. A part of one is never taken for it."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from astro_cli.domain.snapshots import Snapshot, check_name, read_about
from astro_cli.foundation.errors import AstroError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SUFFIX = ".astro"
HEADER, DUMP = "snapshot.json", "database.dump"
FORMAT, VERSION = "astro snapshot", 1
HEADER_LIMIT = 1_000_000
_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, OSError, RuntimeError)
"""What the archive's reader raises over bytes that nobody wrote."""


def write(path: Path, snapshot: Snapshot, dump: Callable[[IO[bytes]], None]) -> None:
    """Write a snapshot's file, for this user only, whole or not at all.

    Args:
        path: replaced if it exists.
        snapshot: what the header says.
        dump: is given where to write the database.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    with _replacing(path) as stream:
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
            header = {"format": FORMAT, "name": snapshot.name, **json.loads(snapshot.about())}
            archive.writestr(HEADER, json.dumps({**header, "version": VERSION}, indent=2) + "\n")
            with archive.open(DUMP, "w", force_zip64=True) as member:
                dump(member)
        stream.flush()
        os.fsync(stream.fileno())


def copy(source: Path, path: Path) -> None:
    """A second file of the same snapshot."""
    import shutil

    with source.open("rb") as original, _replacing(path) as stream:
        shutil.copyfileobj(original, stream)


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file beside `path` that takes its place at the end."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
        Path(name).replace(path)
    except BaseException as exc:
        Path(name).unlink(missing_ok=True)
        if isinstance(exc, OSError) and not exc.filename:
            raise OSError(exc.errno, exc.strerror, str(path)) from exc
        raise


def read(path: Path) -> Snapshot:
    """What a file's header says.

    Raises:
        AstroError: it is no whole snapshot, or of a format that this astro does not know.
        OSError: it cannot be read.
    """
    with _opened(path) as archive:
        return _header(path, archive)


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The dump in a file, once every byte of it was found to be as it was written.

    Raises:
        AstroError: a part is damaged or missing.
    """
    with _opened(path) as archive:
        _header(path, archive)
        try:
            whole = archive.testzip() is None
            dump = archive.open(DUMP)
        except _UNREADABLE as exc:
            raise _damaged(path) from exc
        if not whole:
            raise _damaged(path)
        with dump:
            yield dump


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    with path.open("rb") as stream:
        try:
            archive = zipfile.ZipFile(stream)
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as exc:
            raise _damaged(path) from exc
        with archive:
            yield archive


def _header(path: Path, archive: zipfile.ZipFile) -> Snapshot:
    known: Any
    try:
        if set(archive.namelist()) != {HEADER, DUMP} or archive.getinfo(HEADER).file_size > HEADER_LIMIT:
            raise _damaged(path)
        text = archive.read(HEADER).decode()
        known = json.loads(text)
        if known["format"] != FORMAT or not isinstance(known["version"], int):
            raise _damaged(path)
        name = check_name(known["name"])
    except (*_UNREADABLE, TypeError) as exc:
        raise _damaged(path) from exc
    if known["version"] > VERSION:
        raise AstroError(f"{path} was written by a newer astro", hint="use that one")
    snapshot = read_about(name, text)
    return Snapshot(**{**vars(snapshot), "bytes": path.stat().st_size, "file": str(path)})


def _damaged(path: Path) -> AstroError:
    return AstroError(
        f"{path} is not a snapshot, or not all of one",
        hint="give a file that `astro airflow snapshot export` wrote, and copy it again if it was copied",
    )
