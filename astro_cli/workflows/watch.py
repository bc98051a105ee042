"""`watch`: what a saved file means, and the loop that acts on it: parse at once, then have Airflow do the same."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from astro_cli.domain.dagrun import DagFile
    from astro_cli.domain.parse_report import ParseReport

WATCHED = ("dags", "include", "plugins")
"""Folders whose files are read anew by a running sandbox."""

PLUGIN_SERVICES = ("dag-processor", "scheduler", "triggerer", "api-server")
"""Services that load plugins once, when they start."""

DAG_SUFFIXES = (".py", ".zip")
DEBOUNCE_MS = 300
STEP_MS = 50
VISIBLE_SECONDS = 10.0  # later is worth a warning
GIVE_UP_SECONDS = 180.0  # a busy machine may need longer than that warning says
ASK_AGAIN_SECONDS = 1.0
TICK_MS = 100


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

    def dag_files(self) -> Mapping[str, DagFile]:
        """What Airflow knows of every DAG file, by its path below `dags`."""

    def reparse(self, token: str) -> None:
        """Have the file parsed now."""


class Refresh:
    """Airflow's own parse of what was saved: asked for at once, then awaited in short looks.

    A file that Airflow does not know yet has no token, but any request makes it look at the whole folder. A
    request for a file that is being parsed is lost, so it is made again after a while.

    Args:
        saved_at: seconds since the epoch; a parse that began earlier may have read the old state.
    """

    def __init__(
        self,
        api: Api,
        report: ParseReport,
        reaction: Reaction,
        saved_at: float,
        *,
        ask_again_seconds: float = ASK_AGAIN_SECONDS,
        late_seconds: float = VISIBLE_SECONDS,
    ) -> None:
        self._api = api
        self._ask_again_seconds = ask_again_seconds
        self._late_seconds = late_seconds
        self._told_late = False
        self._began = self._asked = time.monotonic()
        self._saved_at = saved_at
        known = api.dag_files()
        files = {below_dags(file.path): file for file in report.files}
        self._expected = [path for path, file in files.items() if not file.errors and file.dag_ids]
        self._removed = [below_dags(path) for path in reaction.removed]
        self._touched = [*files, *self._removed]
        self._ask(known)

    def _ask(self, known: Mapping[str, DagFile]) -> None:
        self._asked = time.monotonic()
        tokens = {known[path].token for path in self._touched if path in known}
        if known and (self._removed or any(path not in known for path in self._expected)):
            tokens.add(next(iter(known.values())).token)
        for token in sorted(tokens):
            self._api.reparse(token)

    @property
    def seconds(self) -> float:
        """Since the request."""
        return time.monotonic() - self._began

    @property
    def tells(self) -> bool:
        """Whether the API can show the new state: a broken file leaves the last good one in place."""
        return bool(self._expected or self._removed)

    @property
    def overdue(self) -> bool:
        """Whether it is no use to go on looking."""
        return self.seconds > GIVE_UP_SECONDS

    def is_late(self) -> bool:
        """Whether it takes longer than usual; True only once."""
        told, self._told_late = self._told_late, self._told_late or self.seconds > self._late_seconds
        return self._told_late and not told

    def done(self) -> bool:
        """Whether the API shows the new state now."""
        known = self._api.dag_files()
        parsed = all(path in known and known[path].parsed_at >= self._saved_at for path in self._expected)
        if parsed and not any(path in known for path in self._removed):
            return True
        if time.monotonic() - self._asked > self._ask_again_seconds:
            self._ask(known)
        return False


def below_dags(path: str) -> str:
    """A path of the project as Airflow's DAG bundle names it."""
    return path.removeprefix("dags/")


def changes(root: Path) -> Iterator[Reaction | None]:
    """Reactions to what is saved in the project, until Ctrl-C; None whenever nothing was for a moment."""
    from watchfiles import Change, DefaultFilter, watch

    folders = [root / name for name in WATCHED if (root / name).is_dir()]
    batches = watch(
        *folders,
        watch_filter=DefaultFilter(),
        debounce=DEBOUNCE_MS,
        step=STEP_MS,
        rust_timeout=TICK_MS,
        yield_on_timeout=True,
    )
    for batch in batches:
        files = {(change, Path(path)) for change, path in batch if not Path(path).is_dir()}
        saved = {path for _, path in files if path.exists()}
        # An editor's temporary file comes and goes: nobody has known it.
        gone = {path for change, path in files if change == Change.deleted} - saved
        gone -= {path for change, path in files if change == Change.added}
        reaction = react(_relative(root, saved), _relative(root, gone))
        yield reaction if reaction != Reaction() else None


def _relative(root: Path, paths: Iterable[Path]) -> list[str]:
    return [path.relative_to(root).as_posix() for path in paths]


def paths_to_parse(root: Path, reaction: Reaction) -> Sequence[str]:
    """Those that are still there."""
    return [path for path in reaction.parse if (root / path).exists()]
