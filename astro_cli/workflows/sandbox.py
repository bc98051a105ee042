"""The workflows of one sandbox: what `start`, `stop`, `kill` and the others do, step by step, on any engine."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from astro_cli.domain import hot_objects
from astro_cli.domain.airflow import (
    CELERY_PARALLELISM,
    CELERY_RESERVED,
    EXECUTOR,
    ONE_AT_A_TIME,
    PARALLELISM,
    PROJECT_FOLDERS,
    RESERVED,
)
from astro_cli.domain.diagnosis import describe_death, suggest_fix
from astro_cli.domain.envfile import load_env
from astro_cli.domain.objects import Objects, api_bodies, load_objects
from astro_cli.domain.project_services import (
    METRICS_SERVICE,
    WAREHOUSE,
    connection_variable,
    read_services,
    task_environment,
)
from astro_cli.domain.services import DEFAULT_PORT, build_stack
from astro_cli.domain.snapshots import key_id
from astro_cli.domain.state import SandboxState
from astro_cli.domain.workers import DEFAULT_QUEUE, read_workers, written_counts
from astro_cli.foundation import ports
from astro_cli.foundation.errors import AstroError, Interrupted, ProjectError, UnhealthyError, UsageError
from astro_cli.foundation.wait import wait_until
from astro_cli.runtime.engine import (
    NEW_DATABASE,
    Change,
    Environment,
    LogQuery,
    PortTakenError,
    PrepareOptions,
)
from astro_cli.workflows import service_ports
from astro_cli.workflows.objects_sync import import_objects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from astro_cli.domain.project import Project
    from astro_cli.domain.project_services import PlacedService, ProjectService
    from astro_cli.domain.services import ServiceStatus, Stack
    from astro_cli.domain.settings import Settings
    from astro_cli.domain.snapshots import Snapshot
    from astro_cli.domain.workers import WorkerGroup
    from astro_cli.runtime.engine import Engine, Report, SandboxStatus

ON = "on"
"""Of the setting `sandbox.metrics`."""
LOCAL, CELERY = "local", "celery"
"""The two shapes of a sandbox: what runs its tasks."""
LAST_LINES = 15
POLL_SECONDS = 0.3
WATCH_DEATHS_SECONDS = 1.0
PORT_TRIES = 5
WORKER_SECONDS = 120.0


@dataclass(frozen=True)
class StartOptions:
    """How to start; None leaves the choice to settings and what is remembered.

    Attributes:
        port: host port for the web UI; taken is an error.
        expose_db: host port for Postgres, or None to keep it unpublished.
        env_files: files of environment variables, later ones winning; empty means `.env` if it exists.
        settings_file: the objects file instead of `airflow_settings.yaml`.
        wait_seconds: how long to wait for health; 0 does not wait.
        workers: how many Celery workers the group `worker` has.
    """

    port: int | None = None
    expose_db: int | None = None
    env_files: tuple[Path, ...] = ()
    settings_file: Path | None = None
    wait_seconds: float = 0.0
    workers: int | None = None
    prepare: PrepareOptions = field(default_factory=PrepareOptions)


@dataclass(frozen=True)
class StartResult:
    """What a start did. `changes` is empty when everything ran already."""

    url: str
    port: int
    seconds: float
    changes: tuple[Change, ...]
    built: bool
    healthy: bool
    airflow_version: str


@dataclass(frozen=True)
class KillResult:
    """What a kill removed, and the snapshot it kept in a file, if any."""

    changes: tuple[Change, ...]
    kept: Snapshot | None


@dataclass(frozen=True)
class ScaleResult:
    """What `scale` did.

    Attributes:
        workers: the workers that there are now, by their group.
        written: the counts of the project's file that say otherwise, and hold again at the next start.
    """

    changes: tuple[Change, ...]
    workers: Mapping[str, tuple[str, ...]]
    written: Mapping[str, int]


@dataclass(frozen=True)
class _Inputs:
    """The project's own files, read and checked before anything is touched."""

    environment: Mapping[str, str]
    objects: Objects
    objects_hash: str
    folders: tuple[str, ...]
    hot: tuple[str, ...] = ()
    services: tuple[ProjectService, ...] = ()
    workers: tuple[WorkerGroup, ...] = ()


class Sandbox:
    """The sandbox of one project on one engine."""

    def __init__(
        self,
        project: Project,
        engine: Engine,
        settings: Settings,
        environ: Mapping[str, str],
        *,
        every_engine: Callable[[], Iterable[Engine]] = tuple,
    ) -> None:
        self._project = project
        self._engine = engine
        self._settings = settings
        self._environ = environ
        self._every_engine = every_engine
        self.state = SandboxState(project.root)

    # workflows

    def build(self, options: PrepareOptions, report: Report) -> Environment:
        """Make what the project runs in, and start nothing."""
        with self.state.lock("build"), interruptible("nothing was started and the old image is unchanged"):
            self._engine.check()
            return self._engine.prepare(self._project, self.state.sandbox_id, options, report)

    def start(self, options: StartOptions, report: Report) -> StartResult:
        """Make the sandbox run as the project describes it, and wait until it is healthy.

        Raises:
            ProjectError: one of the project's files is wrong; nothing was touched.
            UnhealthyError: a service died, or the time was up; the rest goes on running.
            LockedError: another run works on this sandbox.
        """
        began = time.monotonic()
        with self.state.lock("start"):
            with interruptible("nothing was started and the old image is unchanged"):
                inputs = self._read_inputs(options, report)
                self._engine.check()
                environment = self._engine.prepare(
                    self._project, self.state.sandbox_id, options.prepare, report
                )
            self._leave_others(report)
            with interruptible(
                "the sandbox may be partly started; `astro airflow start` completes it, "
                "`astro airflow stop` ends it"
            ):
                stack, changes = self._bring_up(options, inputs, environment, report)
            healthy = False
            if options.wait_seconds > 0:
                with interruptible(
                    "the sandbox goes on starting; `astro airflow ps` shows it, `astro airflow stop` ends it"
                ):
                    self._wait_until_healthy(stack, environment, changes, options.wait_seconds, report)
                    self._fill_warehouse(stack, changes, report)
                    self._apply_objects(stack, inputs, changes, report)
                    if changes:
                        self._engine.tidy(stack.sandbox_id, environment)
                healthy = True
        return StartResult(
            url=stack.url,
            port=stack.port,
            seconds=time.monotonic() - began,
            changes=changes,
            built=environment.created,
            healthy=healthy,
            airflow_version=environment.airflow_version,
        )

    def stop(self, report: Report) -> tuple[Change, ...]:
        """End all services; data, logs and images stay."""
        with (
            self.state.lock("stop"),
            interruptible(
                "some services may still run: `astro airflow ps` shows which, `astro airflow stop` goes on"
            ),
        ):
            return self._engine.down(self.state.sandbox_id, data=False, report=report)

    def kill(self, report: Report, *, snapshot: bool = True) -> KillResult:
        """End all services and remove everything of this sandbox, its history included.

        Args:
            report: is told of the steps.
            snapshot: first write the database, if it runs, to a file that stays.
        """
        from astro_cli.workflows.snapshot_workflow import Snapshots

        snapshots = Snapshots(self._engine, self.state)
        with (
            self.state.lock("kill"),
            interruptible("a part of the sandbox may be left: `astro airflow kill` removes the rest"),
        ):
            kept = snapshots.keep_before_kill(report) if snapshot else None
            changes = self._engine.down(self.state.sandbox_id, data=True, report=report)
            for other in self._others():
                changes += other.down(self.state.sandbox_id, data=True, report=report)
            self.state.forget(keep_key=snapshots.outlive_kill)
            return KillResult(changes, kept)

    def _others(self) -> Iterator[Engine]:
        """Other engines on which this sandbox was started once."""
        for engine in self._every_engine():
            if engine.name != self._engine.name and engine.status(self.state.sandbox_id):
                yield engine

    def _leave_others(self, report: Report) -> None:
        """A sandbox runs on one engine at a time; each keeps its own data."""
        if self.state.get("engine") in (None, self._engine.name):
            return
        for other in self._others():
            if other.down(self.state.sandbox_id, data=False, report=report):
                report.warn(f"the sandbox on the engine {other.name} is stopped; its data stays there")

    def restart_service(self, service: str) -> None:
        """End one service and start it again; the others go on."""
        with self.state.lock("restart"), interruptible("`astro airflow ps` shows how the service is"):
            self._engine.restart(self.state.sandbox_id, service)

    def scale(self, counts: Mapping[str, int], report: Report) -> ScaleResult:
        """Have as many Celery workers of each group, and wait until all of them take tasks.

        Raises:
            UsageError: this sandbox has no workers, or no such group.
            UnhealthyError: a new worker does not come up.
        """
        with (
            self.state.lock("scale"),
            interruptible(
                "workers that were asked to end still finish their tasks; `astro airflow ps` shows them"
            ),
        ):
            groups = self.workers()
            if not groups:
                engine = "" if self._engine.runs_workers else "--engine docker "
                raise UsageError(
                    "the tasks of this sandbox run beside the scheduler, on no workers that could be scaled",
                    hint=f"go over to Celery with `astro airflow start {engine}--executor celery`",
                )
            for name in counts:
                if name not in groups:
                    raise UsageError(
                        f"there is no group `{name}` of workers", hint=f"choose from: {', '.join(groups)}"
                    )
            self.state.remember(workers={**self._known_workers(), **counts})
            changes: tuple[Change, ...] = ()
            for name, count in counts.items():
                changes += self._engine.scale(self.state.sandbox_id, name, count, report)
            report.step("wait for the workers")
            if wait_until(self._workers_are_well, seconds=WORKER_SECONDS, pause=POLL_SECONDS) is None:
                raise self._timeout_error(WORKER_SECONDS)
            return ScaleResult(
                changes,
                self.workers(),
                {
                    name: written
                    for name, written in written_counts(self._project.root).items()
                    if counts.get(name, written) != written
                },
            )

    def _workers_are_well(self) -> bool | None:
        status = self.status()
        workers = [each for each in status.services if each.group is not None] if status is not None else []
        return True if all(each.health == "healthy" for each in workers) else None

    # looking

    def status(self, *, memory: bool = False) -> SandboxStatus | None:
        """The sandbox as it is now, or None when it was never started; see `Engine.status`."""
        known = self.state.known_id
        return next(iter(self._engine.status(known, memory=memory)), None) if known else None

    def workers(self) -> dict[str, tuple[str, ...]]:
        """The groups of Celery workers that this sandbox has, with their members; none in the local shape."""
        if self.state.known_id is None or self.state.get("executor") != CELERY:
            return {}
        status = self.status()
        found: dict[str, tuple[str, ...]] = {}
        for service in status.services if status is not None else ():
            if service.group is not None:
                found[service.group] = (*found.get(service.group, ()), service.name)
        return found

    @property
    def collects_metrics(self) -> bool:
        """Whether this sandbox has the service that takes Airflow's metrics."""
        return self.state.known_id is not None and self.state.get("metrics") == ON

    def served_queues(self) -> frozenset[str] | None:
        """The queues that the workers of the project's file listen to; None in the local shape."""
        if self.state.known_id is None or self.state.get("executor") != CELERY:
            return None
        groups = read_workers(self._project.root, count=None, known={})
        return frozenset(queue for group in groups for queue in group.queues or (DEFAULT_QUEUE,))

    # the steps of a start

    def _read_inputs(self, options: StartOptions, report: Report) -> _Inputs:
        root = self._project.root
        files = options.env_files or tuple(path for path in [root / ".env"] if path.exists())
        environment: dict[str, str] = {}
        for file in files:
            environment.update(load_env(file, {**self._environ, **environment}, name=file.name))
        for name in RESERVED:
            if name in environment:
                report.warn(f"{name} in the environment file is not used: the sandbox sets it itself")
        workers = self._workers(options.workers)
        _check_executor(environment, report, celery=bool(workers))
        for name in CELERY_RESERVED if workers else ():
            if name in environment:
                report.warn(
                    f"{name} in the environment file is not used: the sandbox has a broker of its own"
                )
        path = options.settings_file or root / "airflow_settings.yaml"
        if options.settings_file and not path.exists():
            raise ProjectError(
                f"the settings file {path} does not exist", hint="give an existing file with --settings-file"
            )
        known = {**self._environ, **environment}
        objects = load_objects(path, known, name=path.name) if path.exists() else Objects()
        if not (root / "dags").is_dir():
            raise ProjectError(
                f"the project has no folder `dags` ({root / 'dags'})",
                hint="make it (`mkdir dags`), or write the missing files with `astro airflow init --force`",
            )
        services = (*read_services(root), *self._metrics())
        self._warn_of_hidden(services, objects, environment, report)
        hot = tuple(hot_objects.read_hot_files(root))
        hot_folder = (hot_objects.FOLDER,) if hot else ()
        if hot and any(name.startswith(hot_objects.PREFIX) for name in environment):
            report.warn(
                f"{hot_objects.FOLDER}/ is not read: the environment file sets a secrets backend of its own"
            )
        return _Inputs(
            environment=environment,
            objects=objects,
            objects_hash=hashlib.sha256(json.dumps(api_bodies(objects)).encode()).hexdigest(),
            folders=tuple(folder for folder in (*PROJECT_FOLDERS, *hot_folder) if (root / folder).is_dir()),
            hot=hot,
            services=services,
            workers=workers,
        )

    def _metrics(self) -> tuple[ProjectService, ...]:
        """The service that takes Airflow's metrics, where it is wanted."""
        wanted = self._settings.text("sandbox.metrics") or self.state.get("metrics")
        return (METRICS_SERVICE,) if wanted == ON else ()

    def _workers(self, count: int | None) -> tuple[WorkerGroup, ...]:
        """The groups of Celery workers to run; none where the LocalExecutor runs the tasks.

        Raises:
            UsageError: workers are asked for where there can be none.
        """
        executor = self._settings.text("sandbox.executor") or self.state.get("executor") or LOCAL
        if executor != CELERY:
            if count is not None:
                raise UsageError(
                    "only the Celery shape of the sandbox has workers", hint="add `--executor celery`"
                )
            return ()
        if not self._engine.runs_workers:
            raise UsageError(
                f"the {self._engine.name} engine runs no Celery workers",
                hint="add `--engine docker`, or `--executor local`",
            )
        return read_workers(self._project.root, count=count, known=self._known_workers())

    def _known_workers(self) -> dict[str, int]:
        """How many workers each group had last."""
        known = self.state.get("workers")
        return {name: count for name, count in known.items() if isinstance(count, int)} if known else {}

    @staticmethod
    def _warn_of_hidden(
        services: tuple[ProjectService, ...], objects: Objects, environment: Mapping[str, str], report: Report
    ) -> None:
        """Airflow asks the environment before its database: a connection of a service hides one of the file."""
        written = {connection_variable(each.conn_id): each.conn_id for each in objects.connections}
        for service in services:
            for connection in service.connections:
                variable = connection_variable(connection)
                if variable in environment:
                    report.warn(f"{variable} in the environment file hides the service {service.name}")
                elif variable in written:
                    report.warn(
                        f"the connection {written[variable]} leads to the service {service.name} here, "
                        "not to what the settings file says"
                    )

    def _bring_up(
        self, options: StartOptions, inputs: _Inputs, environment: Environment, report: Report
    ) -> tuple[Stack, tuple[Change, ...]]:
        running = self._running_port()
        self._check_database_port(options.expose_db, running)
        refused = 0
        lost: set[int] = set()
        for _ in range(PORT_TRIES):
            port = self._choose_port(options.port, running, refused, report)
            if port == options.expose_db:
                raise UsageError(
                    f"port {port} cannot be both the web UI's and Postgres's",
                    hint="give --expose-db another port",
                )
            placed = self._place(inputs, options.expose_db, {port, *lost}, report)
            stack = self._stack(options, inputs, port, placed)
            try:
                changes = self._engine.up(stack, environment, report)
            except PortTakenError as exc:  # somebody took it between our look and the engine's
                owner = next((each for each in placed if exc.port in each.ports.values()), None)
                if owner is not None and exc.port != options.expose_db:
                    if exc.port in owner.service.fixed.values():
                        raise service_ports.port_error(
                            owner.service, exc.port, self._holder(exc.port)
                        ) from exc
                    lost.add(exc.port)
                    continue
                if options.port is not None or exc.port != port:
                    option = "--port" if exc.port == port else "--expose-db"
                    raise self._port_error(exc.port, option) from exc
                refused, running = port, None
                continue
            self.state.remember(
                port=port,
                expose_db=options.expose_db,
                engine=self._engine.name,
                key=key_id(stack.private["AIRFLOW__CORE__FERNET_KEY"]),
                service_ports=service_ports.remembered(placed) or None,
                executor=CELERY if inputs.workers else None,
                metrics=ON if METRICS_SERVICE in inputs.services else None,
                workers={**self._known_workers(), **{each.name: each.count for each in inputs.workers}}
                or None,
            )
            return stack, changes
        raise AstroError(
            "no port stayed free long enough to publish the web UI", hint="choose one with --port"
        )

    def _place(
        self, inputs: _Inputs, database_port: int | None, avoid: set[int], report: Report
    ) -> tuple[PlacedService, ...]:
        if not inputs.services:
            return ()
        known = self.state.get("service_ports")
        chooser = service_ports.Ports(known if isinstance(known, dict) else {}, self.status(), self._holder)
        return chooser.place(
            inputs.services, self._project.root, database_port=database_port, avoid=avoid, report=report
        )

    def _fill_warehouse(self, stack: Stack, changes: tuple[Change, ...], report: Report) -> None:
        placed = next((each for each in stack.added if each.service.kind == WAREHOUSE), None)
        if placed is not None and (changes or self.state.get("warehouse") != placed.seed):
            from astro_cli.workflows.warehouse import Warehouse

            password = self.state.secrets()[WAREHOUSE]
            Warehouse(self._engine, stack.sandbox_id, password).make(placed, self._project.root, report)
            self.state.remember(warehouse=placed.seed)

    def _stack(
        self, options: StartOptions, inputs: _Inputs, port: int, placed: tuple[PlacedService, ...]
    ) -> Stack:
        site = self._engine.site(self.state.sandbox_id, self._project, port)
        secrets = self.state.secrets()
        return build_stack(
            sandbox_id=self.state.sandbox_id,
            project_id=self._project.project_id,
            project_name=self._project.name,
            root=self._project.root,
            folders=inputs.folders,
            port=port,
            database_port=options.expose_db,
            site=site,
            parallelism=self._settings.number("sandbox.parallelism")
            or (CELERY_PARALLELISM if inputs.workers else _default_parallelism()),
            secrets=secrets,
            user_environment=inputs.environment,
            hot_objects_kinds=inputs.hot,
            added=placed,
            added_environment=task_environment(placed, site, secrets),
            workers=inputs.workers,
            metrics=next((each.address(site) for each in placed if each.service == METRICS_SERVICE), None),
        )

    def _running_port(self) -> int | None:
        status = self.status()
        return status.port if status and status.state != "stopped" else None

    def _choose_port(self, wanted: int | None, running: int | None, refused: int, report: Report) -> int:
        """The port asked for, else the running sandbox's, the remembered one, or the next that is free.

        `refused` is one that looked free, but which the engine could not have: only later ones are tried then.
        """
        if wanted is None:
            wanted = self._settings.number("sandbox.port")
        if wanted is not None:
            if wanted != running and not ports.is_free(wanted):
                raise self._port_error(wanted)
            return wanted
        if running is not None:
            return running
        remembered = self.state.get("port")
        first = remembered if isinstance(remembered, int) else DEFAULT_PORT
        port = ports.next_free(max(first, refused + 1))
        if port is None:
            raise AstroError(f"no free port was found from {first} upwards", hint="choose one with --port")
        if port != first:
            report.warn(f"port {first} is in use by {self._holder(first)}; this sandbox gets {port}")
        return port

    def _check_database_port(self, wanted: int | None, running: int | None) -> None:
        ours = running is not None and self.state.get("expose_db") == wanted
        if wanted is not None and not ours and not ports.is_free(wanted):
            raise self._port_error(wanted, "--expose-db")

    def _port_error(self, port: int, option: str = "--port") -> AstroError:
        return service_ports.taken_error(self._engine, port, f"astro airflow start {option}")

    def _holder(self, port: int) -> str:
        return service_ports.holder_of(self._engine, port)

    def _wait_until_healthy(
        self,
        stack: Stack,
        environment: Environment,
        changes: tuple[Change, ...],
        seconds: float,
        report: Report,
    ) -> None:
        if not changes:
            status = self.status()
            if status is not None and status.healthy:
                return
        from astro_cli.airflow_api import AirflowApi

        report.step("wait for Airflow")
        last_look = 0.0
        with AirflowApi(stack.url) as api:

            def ready() -> bool | None:
                nonlocal last_look
                if time.monotonic() - last_look >= WATCH_DEATHS_SECONDS:
                    last_look = time.monotonic()
                    self._fail_if_dead(report)
                if not api.is_ready(instance_name=stack.project_name, version=environment.airflow_version):
                    return None
                # Airflow may still judge by the heartbeat of a process that is gone; the supervisor does not.
                status = self.status()
                return True if status is not None and status.healthy else None

            if wait_until(ready, seconds=seconds, pause=POLL_SECONDS) is None:
                self._fail_if_dead(report)
                raise self._timeout_error(seconds)

    def _fail_if_dead(self, report: Report) -> None:
        status = self.status()
        if status is None:
            raise UnhealthyError(
                "the sandbox's containers are gone: something removed them while they started",
                hint="run `astro airflow start` again",
            )
        if status.database == "newer":
            raise ProjectError(
                "the sandbox's database was made by a newer Airflow than the project's",
                hint="raise the version in the Dockerfile's FROM line, or delete the sandbox's data with "
                "`astro airflow kill`",
            )
        late = [service.name for service in status.services if service.health != "healthy"]
        well = len(status.services) - len(late)
        report.detail(
            f"{well} of {len(status.services)} healthy{', not yet ' if late else ''}{', '.join(late)}"
        )
        dead = next((s for s in status.services if s.died), None)
        if dead is not None:
            raise self._death_error(dead)

    def _death_error(self, dead: ServiceStatus) -> UnhealthyError:
        lines = self._last_lines(dead.name) or self._last_lines("migrate") or self._last_lines("astro")
        return UnhealthyError(
            f"`{dead.name}` {describe_death(dead)}", hint=suggest_fix(dead, lines), details=lines
        )

    def _timeout_error(self, seconds: float) -> UnhealthyError:
        status = self.status()
        late = [s.name for s in status.services if s.health != "healthy"] if status else []
        return UnhealthyError(
            f"not healthy after {seconds:.0f} seconds; still waiting for {', '.join(late) or 'the web UI'}",
            hint="it goes on starting: wait longer with `astro airflow start --wait 300`, or look with "
            f"`astro airflow logs {late[0] if late else ''}`".rstrip(),
            details=self._last_lines(late[0]) if late else (),
        )

    def _last_lines(self, service: str) -> tuple[str, ...]:
        query = LogQuery(services=(service,), tail=LAST_LINES)
        return tuple(line.text for line in self._engine.logs(self.state.sandbox_id, query))

    def _apply_objects(
        self, stack: Stack, inputs: _Inputs, changes: tuple[Change, ...], report: Report
    ) -> None:
        """Write connections, variables and pools, unless this database has these very ones already."""
        fresh = any(change == NEW_DATABASE for change in changes)
        if self.state.get("objects") == inputs.objects_hash and not fresh:
            return
        if inputs.objects != Objects():
            from astro_cli.airflow_api import AirflowApi

            report.step("write connections, variables and pools")
            # Airflow answers nobody while the first task that starts makes it build its API for tasks.
            with AirflowApi(stack.url, seconds=60.0) as api:
                import_objects(api, inputs.objects)
        self.state.remember(objects=inputs.objects_hash)


def _check_executor(environment: dict[str, str], report: Report, *, celery: bool) -> None:
    """Have an executor that Airflow no longer has mean what it meant, or refuse it.

    Args:
        celery: the sandbox has Celery workers.

    Raises:
        ProjectError: there is nothing like it, or it contradicts the shape of the sandbox.
    """
    from astro_cli.domain.old_idioms import EXECUTORS

    written = environment.get(EXECUTOR, "")
    names = [re.split(r"[.:]", name.strip())[-1] for name in written.split(",") if name.strip()]
    named = names[0] if len(names) == 1 else ""
    if celery and names and "CeleryExecutor" not in names:
        raise ProjectError(
            f"{EXECUTOR} in the environment file says {written}, but the sandbox is to run Celery workers",
            hint="remove that line, or start with `--executor local`",
        )
    if "CeleryExecutor" in names and not celery:
        raise ProjectError(
            f"{EXECUTOR} in the environment file says {written}, but the sandbox has no Celery workers",
            hint="remove that line and start with `--executor celery`",
        )
    if "KubernetesExecutor" in names:
        raise ProjectError(
            f"{EXECUTOR} in the environment file says {written}, but a sandbox has no cluster to run pods in",
            hint="remove that line: a sandbox runs the LocalExecutor, or Celery workers with `--executor celery`",
        )
    if named == ONE_AT_A_TIME:
        report.warn(f"{named} is gone: the sandbox runs the LocalExecutor, one task at a time")
        environment.update({EXECUTOR: "LocalExecutor", PARALLELISM: "1"})
    elif named in EXECUTORS:
        raise ProjectError(
            f"{EXECUTOR} in the environment file: Airflow has no {named} any more",
            hint=f"use {EXECUTORS[named]}",
        )


@contextmanager
def interruptible(state: str) -> Iterator[None]:
    """Give Ctrl-C a sentence that says in what state it leaves things."""
    try:
        yield
    except KeyboardInterrupt as exc:
        raise Interrupted("interrupted", hint=state) from exc


def _default_parallelism() -> int:
    """Tasks at once: two for each processor, at most eight; every one costs an idle process."""
    return min(2 * (os.cpu_count() or 2), 8)
