"""Compares the containers a stack wants with those that exist, and says what to do. Pure."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True)
class Mount:
    """A folder of this host (`source` starts with a slash) or a named volume, seen at `target`."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class PrivateFile:
    """A file put into the container before it starts: readable for its user only, never on a mount."""

    path: str
    content: str = field(repr=False)
    owner: int


@dataclass(frozen=True)
class ContainerSpec:
    """One container as it should be.

    Attributes:
        name: its name in the table of services: `airflow`, `postgres`.
        image: image id, not a tag, so that a rebuilt image is a difference.
        user: numeric `uid:gid`.
        ports: container port to port on this host's loopback.
        stop_seconds: time between TERM and KILL.
        marks: labels of its own.
        restarts: how often the engine starts it again when it fails.
        strange: an image that astro did not make: its own user, and the capabilities that engines give by default.
    """

    name: str
    image: str
    command: tuple[str, ...]
    user: str
    environment: Mapping[str, str]
    mounts: tuple[Mount, ...]
    ports: Mapping[int, int]
    files: tuple[PrivateFile, ...]
    stop_seconds: int
    marks: Mapping[str, str] = field(default_factory=dict)
    restarts: int = 0
    strange: bool = False

    @property
    def config_hash(self) -> str:
        """Changes when anything that needs a new container changes."""
        description = {
            "image": self.image,
            "command": self.command,
            "user": self.user,
            "environment": dict(self.environment),
            "mounts": [[mount.source, mount.target] for mount in self.mounts],
            "ports": {str(inside): outside for inside, outside in self.ports.items()},
            "files": [[file.path, file.content, file.owner] for file in self.files],
            "stop_seconds": self.stop_seconds,
            **({"marks": dict(self.marks)} if self.marks else {}),
        }
        text = json.dumps(description, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class ObservedContainer:
    """One container as it is. `state` is the engine's word: created, running, paused, exited, dead…"""

    container_id: str
    name: str
    config_hash: str
    state: str


class Act(Enum):
    """What to do with one container."""

    CREATE = "create"
    REPLACE = "replace"
    START = "start"
    REMOVE = "remove"


@dataclass(frozen=True)
class Action:
    """One step of a plan: `existing` is the id of the container it concerns, if there is one."""

    act: Act
    name: str
    existing: str | None = None


def plan(wanted: Iterable[ContainerSpec], observed: Iterable[ObservedContainer]) -> tuple[Action, ...]:
    """What turns `observed` into `wanted`; empty when they agree.

    A container that was created but never started may lack its private files (astro was killed in between),
    so it is replaced like a changed one.
    """
    wanted = tuple(wanted)
    names = {spec.name for spec in wanted}
    by_name: dict[str, ObservedContainer] = {}
    actions: list[Action] = []
    for container in observed:
        if container.name not in names or container.name in by_name:
            actions.append(Action(Act.REMOVE, container.name, container.container_id))
        else:
            by_name[container.name] = container
    for spec in wanted:
        found = by_name.get(spec.name)
        if found is None:
            actions.append(Action(Act.CREATE, spec.name))
        elif found.config_hash != spec.config_hash or found.state not in ("running", "exited"):
            actions.append(Action(Act.REPLACE, spec.name, found.container_id))
        elif found.state == "exited":
            actions.append(Action(Act.START, spec.name, found.container_id))
    return tuple(actions)
