"""Looks for secrets where others than their owner may look: at processes and files of this machine."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

LARGEST = 20_000_000
"""Bytes of a file that is looked at: what is larger was not written by astro."""


def processes_with(secrets: Collection[bytes], what: str) -> dict[int, set[int]]:
    """Processes that have one of them in `what`, `cmdline` or `environ`, containers included: user to numbers."""
    found: dict[int, set[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            content = (folder / what).read_bytes()
            if any(secret in content for secret in secrets):
                found.setdefault(folder.stat().st_uid, set()).add(int(folder.name))
    return found


def files_for_everybody(*places: Path) -> dict[Path, bytes]:
    """Every file below that any user of this machine can read, and what is in it."""
    found = {}
    for place in places:
        for folder, folders, files in os.walk(place):
            here = Path(folder)
            folders[:] = [each for each in folders if (here / each).stat().st_mode & 0o005]
            for path in (here / name for name in files):
                if path.is_file() and not path.is_symlink() and path.stat().st_mode & 0o004:
                    found[path] = path.read_bytes() if path.stat().st_size < LARGEST else b""
    return found
