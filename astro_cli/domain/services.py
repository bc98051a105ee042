"""The one table of services. Containers, processes and views of them are rendered from its rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from astro_cli.domain import airflow, hot_objects
from astro_cli.foundation.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from astro_cli.domain.project_services import PlacedService
    from astro_cli.domain.workers import WorkerGroup


@dataclass(frozen=True)
class ServiceSpec:
    """One row: a long-running process of Airflow, or something Airflow depends on.

    Attributes:
        name: the word for it in commands, logs and docs.
        container: the container that hosts it in a Docker sandbox. All of Airflow's processes share one:
            they are forked from a parent that has imported Airflow once, which halves the start
            (docs/sandbox.md has the figures); each keeps its own log, health and restart.
        command: arguments of the `airflow` program, or empty where the image starts the process itself.
        aliases: other words users know it by.
        health: where it has a container of its own, the address in there that answers when it is well.
        read_only: no task's code runs in it, so it needs to write nothing but its volumes and /tmp.
    """

    name: str
    container: str
    command: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    health: str = ""
    read_only: bool = False


SERVICES = (
    ServiceSpec("postgres", "postgres", aliases=("db", "database"), read_only=True),
    ServiceSpec(
        "api-server",
        "airflow",
        ("api-server",),
        aliases=("webserver", "web", "api"),
        health=f"http://127.0.0.1:{airflow.API_PORT}{airflow.HEALTH_PATH}",
        read_only=True,
    ),
    ServiceSpec(
        "scheduler",
        "airflow",
        ("scheduler", "--skip-serve-logs"),
        health=f"http://127.0.0.1:{airflow.SCHEDULER_HEALTH_PORT}/health",
    ),
    ServiceSpec("dag-processor", "airflow", ("dag-processor",), aliases=("processor",)),
    ServiceSpec("triggerer", "airflow", ("triggerer", "--skip-serve-logs")),
)
"""Every service of a sandbox, in the order in which they are listed."""

DEFAULT_PORT = 8080
"""Of this machine, for a sandbox's web UI: the first that is tried."""

CONTAINERS = tuple(dict.fromkeys(service.container for service in SERVICES))

ONE_SHOT = ("migrate", "astro")
"""Names that appear in logs beside the services: the database migration, and the supervisor's own lines."""


def hosted_by(container: str) -> tuple[ServiceSpec, ...]:
    """The services that live in `container`."""
    return tuple(service for service in SERVICES if service.container == container)


def service_names(words: Iterable[str], *, also: Iterable[str] = ()) -> tuple[str, ...]:
    """The services meant by `words` (names or aliases, and the names in `also`), without repetition.

    Raises:
        UsageError: a word names no service.
    """
    known = {word: service.name for service in SERVICES for word in (service.name, *service.aliases)}
    known.update({word: word for word in also})
    names: dict[str, None] = {}
    for word in words:
        if word not in known:
            from difflib import get_close_matches

            choices = ", ".join(dict.fromkeys(known.values()))
            near = [f"did you mean `{close}`?" for close in get_close_matches(word, known, n=1)]
            raise UsageError(
                f"there is no service `{word}`", hint="; ".join([*near, f"choose from: {choices}"])
            )
        names[known[word]] = None
    return tuple(names)


@dataclass(frozen=True)
class ServiceStatus:
    """One service as it is now.

    Attributes:
        state: `running`, `starting`, `backoff` (died, will be tried again), `stopped` or `missing`.
        health: `healthy`, `unhealthy`, `starting`, or None when the service is not up.
        started_at: seconds since the epoch, or None.
        memory: proportional set size in bytes, or None where it cannot be read.
        restarts: how often it was started again after it died.
        exit_code: of its last death; negative for a signal, as in `subprocess`.
        out_of_memory: its last death was the kernel's out-of-memory killer.
        ports: of this machine's loopback, on which it can be reached.
        group: of a Celery worker.
    """

    name: str
    state: str
    health: str | None = None
    started_at: float | None = None
    memory: int | None = None
    restarts: int = 0
    exit_code: int | None = None
    out_of_memory: bool = False
    ports: tuple[int, ...] = ()
    group: str | None = None

    @property
    def died(self) -> bool:
        """Whether it has ended on its own, even if it is being tried again."""
        return self.exit_code is not None and self.state in ("backoff", "stopped", "starting")


@dataclass(frozen=True)
class Stack:
    """The services of one project, resolved: all an engine must know to run them.

    Attributes:
        sandbox_id: which sandbox this is; engines find what belongs to it by this.
        project_name: the human name, and Airflow's instance name.
        root: the project's folder on this host.
        folders: the project's folders to show to Airflow, relative to `root`.
        port: port on this host for the web UI and API.
        database_port: port on this host for Postgres, or None to keep it inside.
        environment: plain settings.
        private: secrets and the user's `.env`, as environment variables of every Airflow process.
        database_password: of the role `airflow`.
        added: the services that the project declares.
        workers: groups of Celery workers; without any, the LocalExecutor runs the tasks.
        broker_password: of the Redis that the workers listen to.
    """

    sandbox_id: str
    project_id: str
    project_name: str
    root: Path
    folders: tuple[str, ...]
    port: int
    database_port: int | None
    environment: Mapping[str, str]
    private: Mapping[str, str] = field(repr=False)
    database_password: str = field(repr=False)
    added: tuple[PlacedService, ...] = ()
    workers: tuple[WorkerGroup, ...] = ()
    broker_password: str = field(default="", repr=False)

    @property
    def url(self) -> str:
        """Where the web UI answers on this machine."""
        return base_url(self.port)


def base_url(port: int) -> str:
    """The address of a sandbox's web UI and API on this machine."""
    return f"http://localhost:{port}"


def build_stack(
    *,
    sandbox_id: str,
    project_id: str,
    project_name: str,
    root: Path,
    folders: tuple[str, ...],
    port: int,
    database_port: int | None,
    site: airflow.Site,
    parallelism: int,
    secrets: Mapping[str, str],
    user_environment: Mapping[str, str],
    hot_objects_kinds: Iterable[str] = (),
    added: tuple[PlacedService, ...] = (),
    added_environment: Mapping[str, str] | None = None,
    workers: tuple[WorkerGroup, ...] = (),
    metrics: tuple[str, int] | None = None,
) -> Stack:
    """Resolve the table for one project.

    Args:
        hot_objects_kinds: which files of `hot_objects` the project has.
        added: the services that the project declares.
        added_environment: how tasks find these.
        workers: groups of Celery workers, which then run the tasks.
        metrics: host and port that take Airflow's metrics.

    The user's environment wins over the sandbox's settings, except for `airflow.RESERVED`.
    """
    own = airflow.sandbox_environment(
        instance_name=project_name, base_url=base_url(port), parallelism=parallelism, site=site
    )
    if not any(name.startswith(hot_objects.PREFIX) for name in user_environment):
        own |= hot_objects.backend_environment(hot_objects_kinds, site.project)
    if metrics is not None:
        own |= airflow.metrics_environment(*metrics)
    private = {**(added_environment or {}), **airflow.private_environment(secrets, site=site)}
    reserved: tuple[str, ...] = airflow.RESERVED
    if workers:
        own |= airflow.celery_environment()
        private |= airflow.broker_environment(secrets)
        reserved += airflow.CELERY_RESERVED
    private.update({k: v for k, v in user_environment.items() if k not in reserved})
    return Stack(
        sandbox_id=sandbox_id,
        project_id=project_id,
        project_name=project_name,
        root=root,
        folders=folders,
        port=port,
        database_port=database_port,
        environment={k: v for k, v in own.items() if k not in private},
        private=private,
        database_password=secrets["database"],
        added=added,
        workers=workers,
        broker_password=secrets[airflow.BROKER] if workers else "",
    )
