"""The Engine Protocol: what runs a stack, and the values that pass between it and the workflows above."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from astro_cli.foundation.errors import AstroError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from astro_cli.domain.airflow import Site
    from astro_cli.domain.project import Project
    from astro_cli.domain.services import ServiceStatus, Stack
    from astro_cli.runtime.endpoint import EngineInfo


class PortTakenError(AstroError):
    """The engine could not publish a port; `port` is the one on this host."""

    def __init__(self, port: int) -> None:
        super().__init__(f"port {port} is already in use")
        self.port = port


class Report(Protocol):
    """How an engine tells what it does; the terminal decides how it looks."""

    def step(self, text: str) -> None:
        """A new step has begun."""

    def detail(self, text: str) -> None:
        """A line of output within the current step."""

    def warn(self, text: str) -> None:
        """Something the user should know, which stops nothing."""


@dataclass(frozen=True)
class Environment:
    """What `prepare` made for a project to run in.

    Attributes:
        reference: the engine's own name for it; a Docker image id.
        airflow_version: the Airflow inside.
        created: whether it was made now rather than found ready.
    """

    reference: str
    airflow_version: str
    created: bool


@dataclass(frozen=True)
class PrepareOptions:
    """How to prepare: rebuild even if nothing changed, ignore caches, or take a ready image.

    `whole` counts the project's folders among the image's inputs, which a sandbox mounts over it.
    """

    force: bool = False
    no_cache: bool = False
    image_name: str | None = None
    whole: bool = False


@dataclass(frozen=True)
class SandboxStatus:
    """One sandbox as the engine sees it.

    Attributes:
        state: `running`, `partial` (some of it), or `stopped`.
        database: `waiting`, `migrating`, `ready`, `newer` (made by a newer Airflow) or `failed`.
        image_created: seconds since the epoch, or None.
    """

    sandbox_id: str
    project_name: str
    path: str
    state: str
    port: int | None
    services: tuple[ServiceStatus, ...]
    airflow_version: str | None = None
    image_created: float | None = None
    database: str | None = None

    @property
    def healthy(self) -> bool:
        """Every service runs and says it is well."""
        return self.state == "running" and all(service.health == "healthy" for service in self.services)

    @property
    def health(self) -> str:
        """One word for all services."""
        if self.state != "running":
            return self.state
        return "healthy" if self.healthy else "starting"


@dataclass(frozen=True)
class LogQuery:
    """Which log lines: of which services (none named: all), how many of the last, since when (epoch seconds)."""

    services: tuple[str, ...] = ()
    follow: bool = False
    tail: int | None = None
    since: float | None = None


@dataclass(frozen=True)
class LogLine:
    """One line of one service; `timestamp` is RFC 3339 as the engine recorded it."""

    timestamp: str
    service: str
    text: str


def last_lines(lines: Iterable[LogLine], count: int | None) -> Iterable[LogLine]:
    """The last `count` lines of each service, in order of time; None: every line, as it comes."""
    if count is None:
        return lines
    kept: dict[str, deque[LogLine]] = {}
    for line in lines:
        kept.setdefault(line.service, deque(maxlen=count)).append(line)
    return sorted((line for some in kept.values() for line in some), key=lambda line: line.timestamp)


@dataclass(frozen=True)
class Change:
    """One thing `up` or `down` did or would do, in words: `create container`, `airflow`."""

    action: str
    subject: str

    def __str__(self) -> str:
        return f"{self.action} {self.subject}"


NEW_DATABASE = Change("create", "volume database")
"""Tells the workflows that this start began with an empty history."""


@dataclass(frozen=True)
class ExecRequest:
    """A command to run beside the services, with their environment.

    Attributes:
        interactive: give it a terminal of its own, and this one's keyboard.
        stdin: pass this process's standard input on.
    """

    service: str
    command: Sequence[str]
    interactive: bool = False
    stdin: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)


class Engine(Protocol):
    """Runs stacks. Each verb means the same on every engine; what only one can do stays out of here."""

    name: str
    runs_workers: bool
    """Whether it can run a stack with Celery workers."""

    def check(self) -> EngineInfo:
        """Say what answers, or raise EngineError with a way out."""

    def prepare(
        self, project: Project, sandbox_id: str, options: PrepareOptions, report: Report
    ) -> Environment:
        """Make what the project runs in, if its inputs have changed."""

    def site(self, sandbox_id: str, project: Project, port: int) -> Site:
        """Where Airflow will find things, if it listens on `port` of this host; decides nothing."""

    def up(self, stack: Stack, environment: Environment, report: Report) -> tuple[Change, ...]:
        """Make the stack run as described, changing only what differs. Returns what was changed."""

    def down(self, sandbox_id: str, *, data: bool, report: Report) -> tuple[Change, ...]:
        """Stop everything; with `data` remove it all as well, history and logs included."""

    def restart(self, sandbox_id: str, service: str) -> None:
        """End one service and start it again."""

    def scale(self, sandbox_id: str, group: str, count: int, report: Report) -> tuple[Change, ...]:
        """Have `count` Celery workers of a group that has some. One that goes first finishes its tasks.

        Never called where `runs_workers` is false.
        """

    def tidy(self, sandbox_id: str, environment: Environment) -> None:
        """Remove what earlier environments of this sandbox left behind."""

    def port_holder(self, port: int) -> str | None:
        """What of this engine's holds a port of this host, in words; None when nothing does."""

    def status(self, sandbox_id: str | None = None, *, memory: bool = False) -> tuple[SandboxStatus, ...]:
        """The sandbox with this id, or every sandbox on this machine. Empty when there is none.

        Some engines take a second to tell the memory of a container, so it is left out unless asked for.
        """

    def logs(self, sandbox_id: str, query: LogQuery) -> Iterator[LogLine]:
        """Lines in order of time."""

    def exec(self, sandbox_id: str, request: ExecRequest) -> int:
        """Run a command beside a running service; returns its exit code."""

    def forward(self, sandbox_id: str, port: int) -> AbstractContextManager[None]:
        """Meanwhile, a port of this machine's loopback leads to the same port where Airflow's services run.

        Raises:
            PortTakenError: when entered, something else listens there.
        """
