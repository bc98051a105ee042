"""Says once a day that there is a newer astro, if the user has named a place to look (`updates.url`).

Nothing is sent but a GET for the file `VERSION` of that release folder, and no command waits for it: a process left
behind asks, and a later command tells what it was answered. Off by default, never in a pipe, in CI or for `--json`.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from astro_cli import __version__
from astro_cli.domain.settings import user_values
from astro_cli.foundation.errors import AstroError
from astro_cli.foundation.paths import cache_dir, make_private_dir, read_json, write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

DAY_SECONDS = 86400.0
ANSWER_SECONDS = 10.0
LONGEST = 64
"""Bytes of a version that are read: the file holds one line."""
_VERSION = re.compile(r"(\d{1,5})\.(\d{1,5})\.(\d{1,5})", re.ASCII)


def notice(
    environ: Mapping[str, str],
    *,
    terminal: bool,
    ask: Callable[[str], None] | None = None,
    now: Callable[[], float] = time.time,
) -> str | None:
    """The line to show under a command, at most once a day; looks for a newer release where a day has passed.

    Args:
        terminal: whether a person looks.
        ask: begins to look at an address and does not wait; default a process of its own.
    """
    if not terminal or environ.get("CI"):
        return None
    try:
        url = _url(environ)
        if not url:
            return None
        file = cache_dir() / "updates.json"
        known = read_json(file)
        moment = now()
        if not _within_a_day(known.get("asked"), moment) or known.get("url") != url:
            write_atomic(file, json.dumps({**known, "url": url, "asked": moment}))
            (ask or _leave_asking)(url)
        newest = known.get("newest") if known.get("url") == url else None
        if not is_newer(newest, __version__) or _within_a_day(known.get("told"), moment):
            return None
        write_atomic(file, json.dumps({**read_json(file), "told": moment}))
    except (AstroError, OSError):  # a convenience never fails a command
        return None
    return f"astro {newest} is out, this is {__version__}: `curl -fsSL {url}/install.sh | bash`"


def _url(environ: Mapping[str, str]) -> str:
    value = environ.get("ASTRO_UPDATES_URL")
    if value is None:
        value = str(found.value) if (found := user_values().get("updates.url")) else ""
    # It becomes a part of a line that is meant to be copied.
    return value.rstrip("/") if re.fullmatch(r"https?://[\w.:/~%@+,=-]+", value) else ""


def _within_a_day(then: object, now: float) -> bool:
    return isinstance(then, (int, float)) and 0 <= now - then < DAY_SECONDS


def is_newer(candidate: object, than: str) -> bool:
    """Whether one plain version is later than another; what is no version is not."""
    new, old = (_VERSION.fullmatch(text) if isinstance(text, str) else None for text in (candidate, than))
    return bool(new and old and tuple(map(int, new.groups())) > tuple(map(int, old.groups())))


def _leave_asking(url: str) -> None:
    from astro_cli.foundation import process

    folder = make_private_dir(cache_dir())
    process.leave_behind(
        [sys.executable, "-m", "astro_cli.domain.updates", url],
        env=os.environ,
        cwd=folder,
        log=folder / "updates.log",
    )


def look(url: str, file: Path) -> None:
    """Ask a release folder for its newest version and write that down; nothing changes where it does not answer."""
    from urllib.request import urlopen

    with suppress(OSError, ValueError), urlopen(f"{url}/VERSION", timeout=ANSWER_SECONDS) as answer:  # noqa: S310
        newest = answer.read(LONGEST).decode("ascii").strip()
        if _VERSION.fullmatch(newest):
            write_atomic(file, json.dumps({**read_json(file), "newest": newest}))


if __name__ == "__main__":
    look(sys.argv[1], cache_dir() / "updates.json")
