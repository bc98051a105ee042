"""Celery workers: groups of like containers, as the project's file and the terminal say."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from astro_cli.domain.project_services import NAMES_TAKEN
from astro_cli.domain.settings import PROJECT_FILE
from astro_cli.foundation import yamlfile
from astro_cli.foundation.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from astro_cli.foundation.yamlfile import Node

DEFAULT_GROUP = "worker"
DEFAULT_QUEUE = "default"
"""Airflow's own, as long as nobody changes it."""
MAX_COUNT = 32
MAX_CONCURRENCY = 64
CONCURRENCY = 4
"""Tasks at once in one worker: each costs a process that idles, and Airflow's own 16 are meant for servers."""

_KEYS = ("count", "concurrency", "queues")
GROUP_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
_QUEUE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True)
class WorkerGroup:
    """Workers that are alike.

    Attributes:
        name: the word for all of them in commands; each is called `NAME-1`, `NAME-2` and so on.
        count: how many there are.
        concurrency: tasks at once in each of them.
        queues: the queues that they serve; empty for Airflow's default queue.
    """

    name: str = DEFAULT_GROUP
    count: int = 1
    concurrency: int = CONCURRENCY
    queues: tuple[str, ...] = ()

    @property
    def members(self) -> tuple[str, ...]:
        """The names of its workers."""
        return tuple(f"{self.name}-{number}" for number in range(1, self.count + 1))


def read_workers(root: Path, *, count: int | None, known: Mapping[str, int]) -> tuple[WorkerGroup, ...]:
    """The groups of a project: those of its file, else the one called `worker`.

    Args:
        count: workers that the terminal asks for in the group `worker`.
        known: workers that a group had last, where the file leaves it open.

    Raises:
        ProjectError: the file is not valid.
        UsageError: a count is asked for, and the file has no group of that name.
    """
    groups = declared(root)
    names: Mapping[str, Node | None] = groups or {DEFAULT_GROUP: None}
    if count is not None and DEFAULT_GROUP not in names:
        raise UsageError(
            f"the project has no group `{DEFAULT_GROUP}` of workers for --workers",
            hint=f"write counts below `workers:` in {PROJECT_FILE}; it has {', '.join(names)}",
        )
    return tuple(
        _group(name, node, count if name == DEFAULT_GROUP else None, known.get(name, 1))
        for name, node in names.items()
    )


def declared(root: Path) -> dict[str, Node]:
    """The groups of the project's file, unread but for their names.

    Raises:
        ProjectError: the file is not valid, or a name is.
    """
    path = root / PROJECT_FILE
    section = yamlfile.load(path, name=str(PROJECT_FILE)).entries().get("workers") if path.exists() else None
    return _named(section) if section is not None else {}


def parse_workers(section: Node | None, *, count: int) -> tuple[WorkerGroup, ...]:
    """The groups of a deployment, by the section `workers` of its configuration.

    Args:
        count: workers of a group that does not say how many.

    Raises:
        ProjectError: the section is not valid.
    """
    groups: Mapping[str, Node | None] = _named(section) if section is not None else {}
    groups = groups or {DEFAULT_GROUP: None}
    return tuple(_group(name, node, None, count) for name, node in groups.items())


def _named(section: Node) -> dict[str, Node]:
    groups = section.entries()
    for name, node in groups.items():
        if not GROUP_NAME.fullmatch(name):
            raise node.error(
                f'"{name}" cannot name a group of workers',
                hint="use up to 31 small letters, digits and -, first a letter",
            )
        if name != DEFAULT_GROUP and name in NAMES_TAKEN:
            raise node.error(f'"{name}" is the name of one of astro\'s services', hint="choose another")
    return groups


def written_counts(root: Path) -> dict[str, int]:
    """The counts that the project's file says; see `read_workers`."""
    counts = {name: node.mapping(optional=_KEYS).get("count") for name, node in declared(root).items()}
    return {name: node.integer(1, MAX_COUNT) for name, node in counts.items() if node is not None}


def _group(name: str, node: Node | None, asked: int | None, last: int) -> WorkerGroup:
    entries = node.mapping(optional=_KEYS) if node is not None else {}
    written = entries["count"].integer(1, MAX_COUNT) if "count" in entries else None
    return WorkerGroup(
        name=name,
        count=asked or written or last,
        concurrency=entries["concurrency"].integer(1, MAX_CONCURRENCY)
        if "concurrency" in entries
        else CONCURRENCY,
        queues=read_queues(entries["queues"]) if "queues" in entries else (),
    )


def read_queues(node: Node) -> tuple[str, ...]:
    """The names of queues in a list."""
    queues = []
    for item in node.items():
        queue = item.string()
        if not _QUEUE.fullmatch(queue):
            raise item.error(f"{queue!r} cannot name a queue", hint="use letters, digits, _, - and .")
        queues.append(queue)
    return tuple(dict.fromkeys(queues))


def wanted_counts(words: Iterable[str]) -> dict[str, int]:
    """The groups and counts of arguments such as `worker=3`.

    Raises:
        UsageError: one is of another form, out of bounds, or names a group twice.
    """
    counts: dict[str, int] = {}
    for word in words:
        name, sign, text = word.partition("=")
        example = f"for example `astro airflow scale {DEFAULT_GROUP}=3`"
        if not sign or not GROUP_NAME.fullmatch(name):
            raise UsageError(f"`{word}` is not of the form GROUP=NUMBER", hint=example)
        number = int(text) if text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_COUNT)) else 0
        if not 1 <= number <= MAX_COUNT:
            raise UsageError(
                f"`{word}`: the number of workers must be between 1 and {MAX_COUNT}", hint=example
            )
        if name in counts:
            raise UsageError(f"`{name}` is named twice", hint=example)
        counts[name] = number
    return counts


def member_number(name: str, group: str) -> int:
    """The number of a worker in its group; 0 for what is none of the group."""
    head, _, tail = name.rpartition("-")
    return int(tail) if head == group and tail.isdecimal() else 0
