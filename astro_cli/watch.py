"""`watch`: what a saved file means, and the loop that acts on it: parse at once, then have Airflow do the same."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Protocol

from astro_cli.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from astro_cli.parse_report import ParseReport

WATCHED = ("dags", "include", "plugins")
"""Folders whose files are read anew by a running sandbox."""

PLUGIN_SERVICES = ("dag-processor", "scheduler", "triggerer", "api-server")
"""Services that load plugins once, when they start."""

DAG_SUFFIXES = (".py", ".zip")
DEBOUNCE_MS = 300
STEP_MS = 50
VISIBLE_SECONDS = 10.0
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Reaction:
    """What to do about some saved files.

    Attributes:
        parse: paths to parse, relative to the project; `dags` means all.
        removed: DAG files that are gone.
        restart: services that must start again.
    """

    parse: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()


def react(saved: Iterable[str], gone: Iterable[str]) -> Reaction:
    """Decide about files that were saved or removed together; paths are relative to the project, with `/`.

    A DAG file concerns itself; anything else in `dags` or `include` may be used by every DAG file.
    """
    saved, gone = sorted(saved), sorted(gone)
    everything = [*saved, *gone]
    folders = {PurePosixPath(path).parts[0] for path in everything}
    parse = [path for path in saved if _is_dag_file(path)]
    removed = tuple(path for path in gone if _is_dag_file(path))
    if "include" in folders or any(
        path.startswith("dags/") and not _is_dag_file(path) for path in everything
    ):
        parse = ["dags"]
    restart = (
        PLUGIN_SERVICES if any(p.startswith("plugins/") and p.endswith(".py") for p in everything) else ()
    )
    return Reaction(tuple(parse) if not restart else ("dags",), removed, restart)


def _is_dag_file(path: str) -> bool:
    return path.startswith("dags/") and path.endswith(DAG_SUFFIXES)


class Api(Protocol):
    """What is asked of the running Airflow."""

    def dag_files(self) -> Mapping[str, tuple[str, str]]:
        """Path below `dags` to the file's token and the time of its last parse."""

    def reparse(self, token: str) -> None:
        """Have the file parsed now."""


def refresh(api: Api, report: ParseReport, reaction: Reaction) -> float | None:
    """Have Airflow parse the files at once, and wait until it has; None when it takes too long.

    A file that Airflow does not know yet has no token, but any request makes it look at the whole folder.

    Returns:
        Seconds from the request to the moment when the API shows the new state.
    """
    began = time.monotonic()
    before = api.dag_files()
    touched = {below_dags(file.path): file for file in report.files}
    for token in {before[path][0] for path in touched if path in before}:
        api.reparse(token)
    news = [path for path, file in touched.items() if path not in before and file.dag_ids]
    removed = [path for path in map(below_dags, reaction.removed) if path in before]
    if (news or removed) and before:
        api.reparse(next(iter(before.values()))[0])
    expected = [path for path, file in touched.items() if not file.errors and file.dag_ids]

    def current() -> bool | None:
        now = api.dag_files()
        parsed = all(path in now and now[path][1] != before.get(path, ("", ""))[1] for path in expected)
        return True if parsed and not any(path in now for path in removed) else None

    if wait_until(current, seconds=VISIBLE_SECONDS, pause=POLL_SECONDS) is None:
        return None
    return time.monotonic() - began


def below_dags(path: str) -> str:
    """A path of the project as Airflow's DAG bundle names it."""
    return path.removeprefix("dags/")


def changes(root: Path) -> Iterator[Reaction]:
    """Reactions to what is saved in the project, until Ctrl-C."""
    from watchfiles import Change, DefaultFilter, watch

    folders = [root / name for name in WATCHED if (root / name).is_dir()]
    for batch in watch(*folders, watch_filter=DefaultFilter(), debounce=DEBOUNCE_MS, step=STEP_MS):
        names = {(change, path) for change, path in batch if not _is_folder(root, path)}
        gone = {_relative(root, path) for change, path in names if change == Change.deleted}
        saved = {_relative(root, path) for _, path in names} - gone
        # An editor that writes a new file and renames it deletes the old one first.
        back = {path for path in gone if (root / path).exists()}
        reaction = react(saved | back, gone - back)
        if reaction != Reaction():
            yield reaction


def _relative(root: Path, path: str) -> str:
    from pathlib import Path

    return Path(path).relative_to(root).as_posix()


def _is_folder(root: Path, path: str) -> bool:
    return (root / path).is_dir()


def paths_to_parse(root: Path, reaction: Reaction) -> Sequence[str]:
    """Those that are still there."""
    return [path for path in reaction.parse if (root / path).exists()]
