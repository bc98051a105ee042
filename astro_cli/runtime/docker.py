"""The Docker engine: runs a stack as containers, a network and volumes, all found by their labels."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any

from astro_cli.domain import airflow
from astro_cli.domain.project_services import HOSTED, METRICS, WAREHOUSE
from astro_cli.domain.services import CONTAINERS, SERVICES, ServiceStatus, hosted_by
from astro_cli.foundation import labels
from astro_cli.foundation.errors import AstroError
from astro_cli.runtime import docker_services, docker_workers
from astro_cli.runtime.docker_services import epoch
from astro_cli.runtime.engine import NEW_DATABASE, Change, SandboxStatus
from astro_cli.runtime.engine_http import NotFound, find_reader
from astro_cli.runtime.plan import Act, Action, ContainerSpec, Mount, ObservedContainer, PrivateFile, plan
from astro_cli.runtime.supervised import service_status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from astro_cli.domain.project import Project
    from astro_cli.domain.services import Stack
    from astro_cli.domain.settings import Settings
    from astro_cli.runtime.docker_api import DockerApi
    from astro_cli.runtime.docker_images import ImageBuilder
    from astro_cli.runtime.endpoint import EngineInfo
    from astro_cli.runtime.engine import Environment, ExecRequest, LogLine, LogQuery, PrepareOptions, Report
    from astro_cli.runtime.engine_http import EngineReader

RUN_DIR = "/run/astro"
SUPERVISOR = ("python", "/opt/astro/supervisor.py")
MIGRATIONS = "/opt/astro/migrations.json"

IMAGE_UID = 50000
"""User `astro` of the engine image, used where the host user is root: Airflow never runs as root."""
POSTGRES_UID = 999
STOP_SECONDS = 20
GRACE_SECONDS = 10
DATABASE_FOLDER = "/var/lib/postgresql/data"


class DockerEngine:
    """See `runtime.engine.Engine`."""

    name = "docker"
    runs_workers = True

    def __init__(self, environ: Mapping[str, str], settings: Callable[[], Settings]) -> None:
        self._environ = environ
        self._settings = settings

    @cached_property
    def reader(self) -> EngineReader:
        """Asks the engine, without the SDK."""
        return find_reader(self._environ)

    @cached_property
    def api(self) -> DockerApi:
        """Changes things on the engine, through the SDK."""
        from astro_cli.runtime.docker_api import DockerApi

        return DockerApi(self.reader.endpoint)

    def check(self) -> EngineInfo:
        """See `Engine.check`."""
        return self.reader.info()

    def prepare(
        self, project: Project, sandbox_id: str, options: PrepareOptions, report: Report
    ) -> Environment:
        """See `Engine.prepare`."""
        return self._builder().prepare(project, sandbox_id, options, report)

    def _builder(self) -> ImageBuilder:
        from astro_cli.runtime.docker_images import ImageBuilder

        return ImageBuilder(self.reader, lambda: self.api, self._environ, self._settings())

    def site(self, sandbox_id: str, project: Project, port: int) -> airflow.Site:  # noqa: ARG002 - always the same
        """See `Engine.site`."""
        return airflow.CONTAINER

    # up and down

    def up(self, stack: Stack, environment: Environment, report: Report) -> tuple[Change, ...]:
        """See `Engine.up`."""
        images = self._service_images(stack, environment, report)
        wanted = self._containers(stack, environment, images)
        if stack.workers:
            airflow_spec = next(spec for spec in wanted if spec.name == "airflow")
            broker = self._builder().broker(environment.airflow_version, report)
            wanted += docker_workers.containers(stack, airflow_spec, broker)
        self._check_volume(stack, environment)
        observed = self._observe(stack.sandbox_id)
        if not self._list("/networks", stack.sandbox_id):
            # Somebody removed it: none of these containers could start again.
            observed = [replace(container, state="without network") for container in observed]
        elif not any(each.name == "postgres" and each.state == "running" for each in observed):
            # Services that lost their database die for some time, further and further apart: begin anew.
            observed = [
                replace(each, state="without database") if each.state == "running" else each
                for each in observed
            ]
        actions = plan(wanted, observed)
        if not actions:
            return ()
        changes = self._ensure_network_and_volumes(stack, environment)
        changes += [Change(action.act.value, f"container {action.name}") for action in actions]
        report.step(", ".join(f"{action.act.value} {action.name}" for action in actions))
        outdated = {
            action.existing
            for action in actions
            if action.act in (Act.REMOVE, Act.REPLACE) and action.existing
        }
        self._end(
            each
            for each in self._list("/containers/json", stack.sandbox_id, all="true")
            if each["Id"] in outdated
        )
        try:
            self._create_and_start(
                [action for action in actions if action.act is not Act.REMOVE], stack, wanted
            )
        except BaseException:
            if NEW_DATABASE in changes:
                self._discard_new_database(stack)
            raise
        return tuple(changes)

    def _service_images(self, stack: Stack, environment: Environment, report: Report) -> dict[str, str]:
        """The image of each service of the project that has one."""
        images = {}
        for each in stack.added:
            if each.service.kind == "own":
                if each.service.image is not None:
                    images[each.name] = self._builder().pulled(each.service.image, report)
            elif each.service.kind not in HOSTED:
                images[each.name] = self._builder().stand_ins(environment.airflow_version, report)
        return images

    def _discard_new_database(self, stack: Stack) -> None:
        """Remove a volume made just now: a full disk may have left it half filled, of use to no later start."""
        with suppress(AstroError):  # the engine is gone: what led here is the error to show
            for container in self._list("/containers/json", stack.sandbox_id, all="true"):
                if container["Labels"].get(labels.SERVICE) == "postgres":
                    self.api.remove_container(container["Id"])
            self.api.remove_volume(_volume(stack, "database"))

    def down(self, sandbox_id: str, *, data: bool, report: Report) -> tuple[Change, ...]:
        """See `Engine.down`."""
        changes: list[Change] = []
        containers = sorted(self._list("/containers/json", sandbox_id, all="true"), key=_stop_order)
        if not data:
            containers = [container for container in containers if container["State"] == "running"]
        act = "remove" if data else "stop"
        for _, together in groupby(containers, key=_stop_order):
            ending = tuple(together)
            names = [each["Labels"].get(labels.SERVICE, each["Id"][:12]) for each in ending]
            report.step(f"{act} {', '.join(names)}")
            self._each(self._remove if data else self._stop, ending)
            changes += [Change(act, f"container {name}") for name in names]
        if data:
            changes += self._remove_data(sandbox_id, report)
        return tuple(changes)

    def restart(self, sandbox_id: str, service: str) -> None:
        """See `Engine.restart`."""
        container = _container_of(service)
        container_id = str(self._running_container(sandbox_id, container)["Id"])
        if container == "airflow":
            code, output = self.api.output_of(container_id, [*SUPERVISOR, "restart", RUN_DIR, service])
            if code != 0:
                raise AstroError(f"`{service}` was not restarted: {output.strip()}")
        else:
            self.api.stop_container(container_id, STOP_SECONDS)
            self.api.start_container(container_id)

    def scale(self, sandbox_id: str, group: str, count: int, report: Report) -> tuple[Change, ...]:
        """See `Engine.scale`. A new worker is a copy of one that is there: the project's files may have changed."""
        found = {
            str(each["Labels"][labels.SERVICE]): each
            for each in self._list("/containers/json", sandbox_id, all="true")
            if each["Labels"].get(labels.WORKERS) == group
        }
        pattern = next(iter(found.values()))
        wanted = [f"{group}-{number}" for number in range(1, count + 1)]
        changes = []
        for name in wanted:
            if name not in found:
                report.step(f"create {name}")
                whole = f"astro-{pattern['Labels'][labels.NAME]}-{name}-{sandbox_id}"
                files = (docker_workers.ENVIRONMENT,)
                created = self.api.copy_container(pattern["Id"], whole, name, files)
                self.api.start_container(created)
                changes.append(Change("create", f"container {name}"))
            elif found[name]["State"] != "running":
                report.step(f"start {name}")
                self.api.start_container(found[name]["Id"])
                changes.append(Change("start", f"container {name}"))
        leaving = [each for name, each in found.items() if name not in wanted]
        if leaving:
            names = [str(each["Labels"][labels.SERVICE]) for each in leaving]
            report.step(f"wait until {', '.join(names)} {'has' if len(names) == 1 else 'have'} finished")
            self._each(lambda each: self.api.end_container(each["Id"]), leaving)
            self._each(self._remove, leaving)
            changes += [Change("remove", f"container {name}") for name in names]
        return tuple(changes)

    def tidy(self, sandbox_id: str, environment: Environment) -> None:
        """See `Engine.tidy`."""
        for built in self._list("/images/json", sandbox_id):
            if built["Id"] != environment.reference:
                self.api.remove_image(built["Id"])

    # looking

    def port_holder(self, port: int) -> str | None:
        """See `Engine.port_holder`."""
        for container in self.reader.json("/containers/json"):
            if any(published.get("PublicPort") == port for published in container.get("Ports") or []):
                marks = container.get("Labels") or {}
                if labels.SANDBOX in marks:
                    return f"the sandbox of {marks.get(labels.NAME)} ({marks.get(labels.PATH)})"
                return f"container `{container['Names'][0].lstrip('/')}`"
        return None

    def status(self, sandbox_id: str | None = None, *, memory: bool = False) -> tuple[SandboxStatus, ...]:
        """See `Engine.status`."""
        grouped: dict[str, dict[str, Any]] = {}
        for container in self._list("/containers/json", sandbox_id, all="true"):
            marks = container["Labels"]
            grouped.setdefault(marks[labels.SANDBOX], {})[marks.get(labels.SERVICE, "")] = container
        return tuple(self._sandbox(found, parts, memory=memory) for found, parts in sorted(grouped.items()))

    def logs(self, sandbox_id: str, query: LogQuery) -> Iterator[LogLine]:
        """See `Engine.logs`."""
        containers = {
            container["Labels"][labels.SERVICE]: container["Id"]
            for container in self._list("/containers/json", sandbox_id, all="true")
        }
        from astro_cli.runtime import docker_logs

        return docker_logs.read(self.reader, containers, query)

    def exec(self, sandbox_id: str, request: ExecRequest) -> int:
        """See `Engine.exec`."""
        container = _container_of(request.service)
        running = self._running_container(sandbox_id, container)
        container_id = str(running["Id"])
        command = list(request.command)
        if container == "airflow" or labels.WORKERS in running["Labels"]:
            command = [*SUPERVISOR, "exec", RUN_DIR, "--", *command]
        return self.api.run_inside(
            container_id,
            command,
            interactive=request.interactive,
            stdin=request.stdin,
            environment=request.environment,
        )

    def forward(self, sandbox_id: str, port: int) -> AbstractContextManager[None]:
        """See `Engine.forward`. Every connection goes through a command inside: nothing is published."""
        from astro_cli.runtime.forward import forwarded

        container_id = str(self._running_container(sandbox_id, "airflow")["Id"])
        relay = [*SUPERVISOR, "exec", RUN_DIR, "--", "astro-debug", "relay", str(port)]
        return forwarded(port, lambda client: self.api.join(container_id, relay, client))

    def _end(self, containers: Iterable[Mapping[str, Any]]) -> None:
        """Stop and remove containers, in the order in which they need each other."""
        for _, together in groupby(sorted(containers, key=_stop_order), key=_stop_order):
            ending = tuple(together)
            self._each(self._stop, ending)
            self._each(self._remove, ending)

    def _stop(self, container: Mapping[str, Any]) -> None:
        self.api.stop_container(container["Id"], STOP_SECONDS)

    def _remove(self, container: Mapping[str, Any]) -> None:
        self.api.remove_container(container["Id"])

    def _each(
        self, act: Callable[[Mapping[str, Any]], None], containers: Sequence[Mapping[str, Any]]
    ) -> None:
        """Do something with each of them at once; the first error is raised after all are through."""
        from concurrent.futures import ThreadPoolExecutor

        _ = self.api  # made here, once: not by several threads
        with ThreadPoolExecutor(max(len(containers), 1)) as pool:
            jobs = [pool.submit(act, container) for container in containers]
        for job in jobs:
            job.result()

    # rendering the stack

    def _containers(
        self, stack: Stack, environment: Environment, images: Mapping[str, str]
    ) -> tuple[ContainerSpec, ...]:
        uid = self._container_uid(stack.root)
        supervisor_config: dict[str, Any] = {
            "services": {spec.name: ["airflow", *spec.command] for spec in hosted_by("airflow")},
            "health_url": f"http://127.0.0.1:{airflow.API_PORT}{airflow.HEALTH_PATH}",
            "database": {"host": "postgres", "port": 5432},
            "migrations": MIGRATIONS,
            "grace_seconds": GRACE_SECONDS,
            "fork": True,
            "debugger": True,
        }
        database_port = stack.database_port or next(
            (port for each in stack.added if each.service.kind == WAREHOUSE for port in each.ports.values()),
            None,
        )
        ports = {airflow.API_PORT: stack.port}
        files = [PrivateFile(f"{RUN_DIR}/environment.json", json.dumps(dict(stack.private)), uid)]
        for each in stack.added:
            if each.service.kind == METRICS:
                supervisor_config["programs"] = {each.name: docker_services.METRICS_PROGRAM}
                files.append(docker_services.metrics_config(each, uid))
                ports.update(each.ports)
        files.append(PrivateFile(f"{RUN_DIR}/config.json", json.dumps(supervisor_config), uid))
        folders = [Mount(str(stack.root / folder), f"{airflow.HOME}/{folder}") for folder in stack.folders]
        return (
            ContainerSpec(
                name="postgres",
                image=self._database_image(environment.airflow_version),
                command=(),
                user=f"{POSTGRES_UID}:{POSTGRES_UID}",
                environment={},
                mounts=(Mount(_volume(stack, "database"), DATABASE_FOLDER),),
                ports={5432: database_port} if database_port else {},
                files=(PrivateFile(f"{RUN_DIR}/password", stack.database_password, POSTGRES_UID),),
                stop_seconds=STOP_SECONDS,
            ),
            ContainerSpec(
                name="airflow",
                image=environment.reference,
                command=(*SUPERVISOR, "run", RUN_DIR),
                user=f"{uid}:0",
                environment=stack.environment,
                mounts=(Mount(_volume(stack, "logs"), f"{airflow.HOME}/logs"), *folders),
                ports=ports,
                files=tuple(files),
                stop_seconds=STOP_SECONDS,
                marks=docker_services.marks(stack),
            ),
            *docker_services.containers(stack, images, project_image=environment.reference, user=uid),
        )

    def _container_uid(self, root: Path) -> int:
        """Whose files tasks write: the owner of the project's folder, never root itself.

        In a rootless engine the container's uid 0 is the host user without privileges.
        """
        told = self.reader.json("/info")
        # Docker tells it among the security options, Podman in a field of its own.
        if told.get("Rootless") or any("rootless" in each for each in told.get("SecurityOptions") or ()):
            return 0
        return root.stat().st_uid or IMAGE_UID

    def _database_image(self, airflow_version: str) -> str:
        from astro_cli.domain import image

        return str(self.reader.json(f"/images/{image.postgres_image(airflow_version)}/json")["Id"])

    # acting on the plan

    def _create_and_start(
        self, actions: Sequence[Action], stack: Stack, wanted: Sequence[ContainerSpec]
    ) -> None:
        """Have every container run; all at once, because Airflow can import itself while the engine still copies
        the cluster into Postgres's new volume."""
        from concurrent.futures import ThreadPoolExecutor

        api = self.api
        specs = {spec.name: spec for spec in wanted}

        def bring(action: Action) -> None:
            spec = specs[action.name]
            container_id = action.existing
            if action.act is not Act.START or container_id is None:
                container_id = api.create_container(
                    spec,
                    name=f"astro-{stack.project_name}-{spec.name}-{stack.sandbox_id}",
                    network=_network(stack),
                    marks={**_labels(stack), labels.SERVICE: spec.name},
                )
            api.start_container(container_id, list(spec.ports.values()))

        with ThreadPoolExecutor() as pool:
            jobs = [pool.submit(bring, action) for action in actions]
        for job in jobs:
            job.result()

    def _ensure_network_and_volumes(self, stack: Stack, environment: Environment) -> list[Change]:
        changes = []
        if not self._list("/networks", stack.sandbox_id):
            self.api.create_network(_network(stack), _labels(stack))
            changes.append(Change("create", "network"))
        found = {volume["Name"] for volume in self._volumes(stack.sandbox_id)}
        added = (f"service-{each.name}" for each in stack.added if docker_services.keeps_data(each))
        for role in ("database", "logs", *added):
            if _volume(stack, role) not in found:
                marks = {
                    **_labels(stack),
                    labels.AIRFLOW_VERSION: environment.airflow_version,
                    labels.POSTGRES_MAJOR: airflow.POSTGRES_MAJOR,
                }
                self.api.create_volume(_volume(stack, role), marks)
                changes.append(Change("create", f"volume {role}"))
        return changes

    def _check_volume(self, stack: Stack, environment: Environment) -> None:
        for volume in self._volumes(stack.sandbox_id):
            if volume["Name"] == _volume(stack, "database"):
                marks = volume["Labels"]
                airflow.check_database(
                    marks.get(labels.POSTGRES_MAJOR),
                    marks.get(labels.AIRFLOW_VERSION, "0"),
                    postgres_major=airflow.POSTGRES_MAJOR,
                    airflow_version=environment.airflow_version,
                )

    def _remove_data(self, sandbox_id: str, report: Report) -> list[Change]:
        changes = []
        for network in self._list("/networks", sandbox_id):
            report.step("remove network")
            self.api.remove_network(network["Id"])
            changes.append(Change("remove", "network"))
        for volume in self._volumes(sandbox_id):
            report.step(f"remove volume {volume['Name']}")
            self.api.remove_volume(volume["Name"])
            changes.append(Change("remove", f"volume {volume['Name']}"))
        for built in self._list("/images/json", sandbox_id, all="true"):
            report.step("remove image")
            self.api.remove_image(built["Id"])
            changes.append(Change("remove", f"image {built['Id'].removeprefix('sha256:')[:12]}"))
        return changes

    # asking the engine

    def _list(self, path: str, sandbox_id: str | None, **query: str) -> list[Any]:
        mark = f"{labels.SANDBOX}={sandbox_id}" if sandbox_id else labels.SANDBOX
        return list(self.reader.json(path, filters=json.dumps({"label": [mark]}), **query))

    def _volumes(self, sandbox_id: str) -> list[Any]:
        query = json.dumps({"label": [f"{labels.SANDBOX}={sandbox_id}"]})
        return self.reader.json("/volumes", filters=query).get("Volumes") or []

    def _observe(self, sandbox_id: str) -> list[ObservedContainer]:
        return [
            ObservedContainer(
                container_id=container["Id"],
                name=container["Labels"].get(labels.SERVICE, ""),
                config_hash=container["Labels"].get(labels.CONFIG_HASH, ""),
                state=container["State"],
            )
            for container in self._list("/containers/json", sandbox_id, all="true")
        ]

    def _running_container(self, sandbox_id: str, name: str) -> dict[str, Any]:
        for container in self._list("/containers/json", sandbox_id):
            if container["Labels"].get(labels.SERVICE) == name:
                return dict(container)
        raise AstroError("the sandbox is not running", hint="start it with `astro airflow start`")

    def _sandbox(self, sandbox_id: str, parts: Mapping[str, Any], *, memory: bool) -> SandboxStatus:
        inspected: dict[str, Any] = {}
        for name, container in parts.items():
            try:
                inspected[name] = self.reader.json(f"/containers/{container['Id']}/json")
            except NotFound:
                continue
        told = self._told(inspected.get("airflow"))
        marks = next(iter(parts.values()))["Labels"]
        added = docker_services.declared(parts["airflow"]["Labels"]) if "airflow" in parts else {}
        wanted = {
            *CONTAINERS,
            *(name for name, told in added.items() if told["kind"] not in HOSTED),
            *docker_workers.names(inspected),
        }
        running = sum(detail["State"]["Running"] for name, detail in inspected.items() if name in wanted)
        postgres = self._postgres_status(inspected.get("postgres"), told, memory=memory)
        hosted = {
            WAREHOUSE: replace(postgres, name=WAREHOUSE, memory=None),
            METRICS: _service_status(METRICS, inspected.get("airflow"), told),
        }
        image = self._image(inspected.get("airflow"))
        return SandboxStatus(
            sandbox_id=sandbox_id,
            project_name=marks.get(labels.NAME, "?"),
            path=marks.get(labels.PATH, "?"),
            state="stopped" if not running else "running" if running == len(wanted) else "partial",
            port=int(marks[labels.PORT]) if marks.get(labels.PORT, "").isdigit() else None,
            services=(
                postgres,
                *(
                    _service_status(spec.name, inspected.get("airflow"), told)
                    for spec in hosted_by("airflow")
                ),
                *docker_workers.statuses(inspected, self._told, self._memory if memory else None),
                *docker_services.statuses(added, inspected, hosted, self._memory if memory else None),
            ),
            airflow_version=(image.get("Config") or {}).get("Labels", {}).get(labels.AIRFLOW_VERSION),
            image_created=epoch(image.get("Created")),
            database=told.get("database"),
        )

    def _told(self, container: Mapping[str, Any] | None) -> dict[str, Any]:
        """What the supervisor or a worker last wrote, unless that was before the container's present life."""
        if container is None:
            return {}
        import tarfile

        try:
            body = self.reader.read(f"/containers/{container['Id']}/archive", path=f"{RUN_DIR}/status.json")
            with tarfile.open(fileobj=io.BytesIO(body)) as tar:
                content = tar.extractfile("status.json")
                told: dict[str, Any] = json.load(content) if content else {}
        except (NotFound, tarfile.TarError, KeyError, ValueError):
            return {}
        started = epoch(container["State"].get("StartedAt")) or 0.0
        # Or it began with that life, and somebody has set the clock back since.
        is_of_now = float(told.get("updated_at", 0)) >= started
        return told if is_of_now or float(told.get("started_at", 0)) >= started - 2.0 else {}

    def _postgres_status(
        self, container: Mapping[str, Any] | None, told: Mapping[str, Any], *, memory: bool
    ) -> ServiceStatus:
        if container is None:
            return ServiceStatus("postgres", "missing")
        state = container["State"]
        if not state["Running"]:
            return ServiceStatus(
                "postgres", "stopped", exit_code=state["ExitCode"], out_of_memory=bool(state.get("OOMKilled"))
            )
        ready = told.get("database") in ("ready", "migrating", "newer")
        return ServiceStatus(
            "postgres",
            "running",
            health="healthy" if ready else "starting",
            started_at=epoch(state["StartedAt"]),
            memory=self._memory(container["Id"]) if memory else None,
            restarts=int(container.get("RestartCount", 0)),
        )

    def _memory(self, container_id: str) -> int | None:
        """Resident memory of a whole container, without the page cache, as `docker stats` counts it."""
        answer = self.reader.json(
            f"/containers/{container_id}/stats", **{"stream": "false", "one-shot": "true"}
        )
        memory = answer.get("memory_stats") or {}
        if "usage" not in memory:
            return None
        detail = memory.get("stats") or {}
        cache = detail.get("total_inactive_file", detail.get("inactive_file", 0))
        return int(memory["usage"]) - int(cache)

    def _image(self, container: Mapping[str, Any] | None) -> dict[str, Any]:
        if container is None:
            return {}
        try:
            return dict(self.reader.json(f"/images/{container['Image']}/json"))
        except NotFound:
            return {}


def _service_status(name: str, container: Mapping[str, Any] | None, told: Mapping[str, Any]) -> ServiceStatus:
    """One of Airflow's services, from what the supervisor wrote and the container's own state."""
    if container is None:
        return ServiceStatus(name, "missing")
    known = service_status(name, told)
    state = container["State"]
    if state["Running"]:
        return known
    return replace(
        known,
        state="stopped",
        health=None,
        started_at=None,
        memory=None,
        exit_code=known.exit_code if known.exit_code is not None else int(state["ExitCode"]),
        out_of_memory=known.out_of_memory or bool(state.get("OOMKilled")),
    )


def _labels(stack: Stack) -> dict[str, str]:
    return {
        labels.SANDBOX: stack.sandbox_id,
        labels.PROJECT: stack.project_id,
        labels.NAME: stack.project_name,
        labels.PATH: str(stack.root),
        labels.PORT: str(stack.port),
    }


def _network(stack: Stack) -> str:
    return f"astro-{stack.project_name}-{stack.sandbox_id}"


def _volume(stack: Stack, role: str) -> str:
    return f"astro-{stack.sandbox_id}-{role}"


def _container_of(service: str) -> str:
    """The container in which a service runs: most of the project's have their own."""
    found = next((spec.container for spec in SERVICES if spec.name == service), service)
    return HOSTED.get(service, found)


def _stop_order(container: Mapping[str, Any]) -> int:
    """Workers go first, so that tasks that end can still say so; then Airflow, which says goodbye to its database;
    then what tasks talked to."""
    if labels.WORKERS in container["Labels"]:
        return 0
    return {"airflow": 1, "postgres": 3}.get(container["Labels"].get(labels.SERVICE, ""), 2)
