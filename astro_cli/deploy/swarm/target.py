"""A deployment on an engine in swarm mode: rolls, jobs, secrets and start-first are the engine's."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from astro_cli.deploy import database, stack
from astro_cli.deploy.dag_bundle import VolumeStore
from astro_cli.deploy.dags_read import PROCESSOR, DagsRead
from astro_cli.deploy.database import DatabaseJobs
from astro_cli.deploy.edge.inside import edge_key
from astro_cli.deploy.lock import break_lock, hold_lock, lock_holder
from astro_cli.deploy.secret_store import SecretStore, digest_of, is_digest_of
from astro_cli.deploy.swarm import specs, task_state
from astro_cli.deploy.swarm.api import SwarmApi, config_text
from astro_cli.deploy.swarm.lock import SwarmLockStore
from astro_cli.deploy.swarm.proxy import INSIDE_PORT, PROXY, proxy_container
from astro_cli.deploy.target import RollError, ServiceState, State
from astro_cli.domain.airflow import ADMIN
from astro_cli.domain.releases import kept_releases, read_release
from astro_cli.foundation import labels
from astro_cli.foundation.errors import AstroError
from astro_cli.foundation.ports import next_free
from astro_cli.runtime.docker_api import RefusedError
from astro_cli.runtime.docker_logs import read as read_logs
from astro_cli.runtime.docker_logs import unframe
from astro_cli.runtime.engine import PortTakenError
from astro_cli.runtime.engine_http import EngineReader, NotFound
from astro_cli.runtime.forward import forwarded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime

    from astro_cli.deploy.dag_bundle import Bundle
    from astro_cli.deploy.lock import HeldLock
    from astro_cli.deploy.target import Difference, Lock, Secrets, Unfinished
    from astro_cli.domain.deployments import Deployment
    from astro_cli.domain.releases import Release
    from astro_cli.runtime.endpoint import Endpoint
    from astro_cli.runtime.engine import LogLine, LogQuery, Report

LOOK_SECONDS = 0.5
LAST_LINES = 20
JOB_SECONDS = 3600.0
DATABASE_SECONDS = 120.0
NETWORK_TRIES = 40
ROLL_SECONDS = 600.0
"""Until a release with new keys runs, at most; then workers of the one before finish their tasks."""
FIRST_PORT = 18_080
"""On this machine, for the way to a deployment's API."""
NOT_FOUND = 404
RELEASE_KIND = "release"
CERTIFICATE = f"{labels.DIGEST}certificate"
TASK_OF = "com.docker.swarm.service.name"
"""Label of the engine's own: the service that a container is of."""

_KEPT = {stack.POSTGRES: "metadata database"}


class NotRunningError(AstroError):
    """A service that something is wanted of does not run."""

    def __init__(self, service: str) -> None:
        super().__init__(f"the service {service} does not run", hint="see `astro deployment ps`")


class SwarmTarget(DatabaseJobs, DagsRead):
    """One deployment on one engine; see `deploy.target.Target`.

    Args:
        endpoint: of the engine, as it is reached from here.
        bring: brings an image of this machine's engine to this one, and says how it is called there.
    """

    def __init__(
        self,
        api: SwarmApi,
        endpoint: Endpoint,
        names: stack.Names,
        deployment: Deployment,
        bring: Callable[[str, Sequence[str], Report], str],
    ) -> None:
        self.api = api
        self.names = names
        self._deployment = deployment
        self._endpoint = endpoint
        self._bring = bring
        self._store = SecretStore(self.api, names)
        self._held: HeldLock | None = None
        self._lock = SwarmLockStore(api, names)

    # looking

    def check(self, *, changing: bool = False) -> None:  # noqa: ARG002 - who may use an engine may do all
        """That the engine may be used; see `SwarmApi.check`."""
        self.api.check()

    def platform(self) -> str:
        """What kind of machine it is, in the words of images."""
        version = self.api.call("GET", "/version")
        return f"{version['Os']}/{version['Arch']}"

    def state(self) -> State:
        """What is there."""
        services = self.api.services(self._label)
        rows = [
            self._service_state(service)
            for service in services.values()
            if self._is_mine(service) and service["Spec"]["Labels"].get(labels.KIND) != "job"
        ]
        order = [stack.POSTGRES, *(service.name for service in stack.airflow_services())]
        rows.sort(key=lambda row: (order.index(row.name) if row.name in order else len(order), row.name))
        return State(self._releases(), tuple(rows), lock_holder(self._lock))

    def _releases(self) -> tuple[Release, ...]:
        found = self.api.stored("configs", self._label).values()
        kept = [each for each in found if each["Spec"]["Labels"].get(labels.KIND) == RELEASE_KIND]
        read = (read_release(config_text(each)) for each in kept if self._is_mine(each))
        return tuple(sorted(read, key=lambda release: release.id))

    def _service_state(self, service: Mapping[str, Any]) -> ServiceState:
        spec = service["Spec"]
        release = spec["Labels"].get(labels.RELEASE)
        running, draining, containers, nodes, error = 0, 0, [], [], ""
        for task in self.api.tasks(spec["Name"]):
            status, is_new = task["Status"], task_state.release_of(task) == release
            if status["State"] == "running" and task["DesiredState"] == "running" and is_new:
                running += 1
                containers.append(status["ContainerStatus"]["ContainerID"])
                nodes.append(self._node_name(task))
            elif status["State"] in ("running", "shutdown") and task["DesiredState"] == "shutdown":
                draining += status["State"] == "running"
            elif is_new and not error:
                error = status.get("Err", "")
        return ServiceState(
            name=spec["Labels"][labels.SERVICE],
            release=int(release) if release else None,
            wanted=task_state.wanted(service),
            running=running,
            draining=draining,
            image=spec["TaskTemplate"]["ContainerSpec"]["Image"],
            containers=tuple(containers),
            error=error,
            nodes=tuple(filter(None, nodes)),
        )

    def _node_name(self, task: Mapping[str, Any]) -> str:  # noqa: ARG002 - see `ClusterTarget`
        """The node that a task is on; empty where there is only one."""
        return ""

    def changed_secrets(self, secrets: Secrets) -> tuple[str, ...]:
        """Names whose values differ from what the engine has."""
        changed = self._store.changed(secrets)
        proxy = self._inspect("containers", self.names.of(PROXY))
        if secrets.certificate and proxy is not None:
            known = proxy["Config"]["Labels"].get(CERTIFICATE, "")
            return changed if is_digest_of(secrets.certificate, known) else (*changed, "certificate")
        return changed

    def differences(self, release: Release) -> tuple[Difference, ...]:  # noqa: ARG002
        """None: an engine cannot be asked beforehand."""
        return ()

    # lock and records

    @contextmanager
    def lock(self, purpose: str, wait: float) -> Iterator[HeldLock]:
        """Hold the deployment; the engine becomes a swarm for it if it is none."""
        self._ensure_swarm()
        with hold_lock(self._lock, purpose, wait) as held:
            self._held = held
            yield held

    def _ensure_swarm(self) -> None:
        self.api.ensure_swarm()

    def record(self, release: Release) -> None:
        """Append to the list of releases."""
        marks = {**self.names.labels, labels.KIND: RELEASE_KIND, labels.RELEASE: str(release.id)}
        self.api.store("configs", self.names.of(f"release-{release.id:06d}"), release.to_json(), marks)

    def unlock(self) -> Unfinished | None:
        """Take the lock away from whoever has it; what was begun under it, or None when it was free."""
        return break_lock(self._lock)

    # what a release stands on

    def bring_image(self, image_id: str, tags: Sequence[str], report: Report) -> str:
        """Have an image of this machine's engine there."""
        return self._bring(image_id, tags, report)

    def has_image(self, reference: str) -> bool:
        """Whether the engine has an image."""
        try:
            self.api.call("GET", f"/images/{reference}/json")
        except RefusedError as exc:
            if exc.status == NOT_FOUND:
                return False
            raise
        return True

    def ensure_secrets(self, secrets: Secrets, *, first: bool) -> tuple[dict[str, str], str]:
        """Have every secret; the admin gets a password with the first release."""
        return self._store.ensure_all(self._deployment, secrets, first=first)

    def make_keys(self) -> str:
        """See `Target`; the old keys are read where they are in use, since an engine never tells a secret."""
        running = self._inside()
        with self.api.reached():
            code, text = self.api.api.output_of(running, ["cat", f"{stack.SECRET_FOLDER}/keys.json"])
        if code:
            raise AstroError("the present keys cannot be read", hint="see `astro deployment ps`")
        old = json.loads(text)
        if not self._deployment.edge:
            return self._store.next_keys(old)
        finished = self.api.now().timestamp() + ROLL_SECONDS + self._deployment.drain
        return self._store.next_keys(old, edge_key.replaced(old, finished))

    def ensure_base(self, release: Release, secrets: Secrets, report: Report, lock: Lock) -> None:
        """Have network, database and proxy; what runs already as it should is not touched."""
        self._ensure_network()
        if stack.PASSWORD in release.secrets:
            self._ensure_postgres(release, report, lock)
        if stack.has_workers(release):
            self._ensure_kept(specs.broker_service(self.names, release, self._store.ids()), report, lock)
        self._ensure_proxy(release, secrets.certificate, report, lock)

    # DAGs

    def publish_dags(self, release: Release, bundle: Bundle) -> None:
        """See `Target`."""
        with self.api.reached():
            self.api.api.create_volume(self.names.of("dags"), self.names.labels)
            self._dags(release).publish(bundle)

    def point_dags(self, release: Release, digest: str) -> None:
        """See `Target`."""
        with self.api.reached():
            self._dags(release).point(digest)

    def dags_digest(self, release: Release) -> str:
        """See `Target`."""
        with self.api.reached():
            published = self._dags(release).current()
        return published.digest if published else ""

    def _in_processor(self, command: Sequence[str]) -> tuple[int, str]:
        try:
            container = self._container(PROCESSOR)
        except NotRunningError:
            return 1, ""
        with self.api.reached():
            return self.api.api.output_of(container, command)

    def _dags(self, release: Release) -> VolumeStore:
        tag = stack.dags_tag(self.names, release)
        return VolumeStore(self.api.api, self.names.of("dags"), release.image, tag, self.names.labels)

    def _ensure_network(self) -> None:
        found = self._inspect("networks", self.names.prefix)
        if found is not None and not self._has_my_labels(found.get("Labels") or {}):
            raise AstroError(
                f"the host already has a network `{self.names.prefix}`, which is not this deployment's",
                hint="give the deployment or the project another name",
            )
        if found is None:
            body = {"Driver": "overlay", "Attachable": True, "CheckDuplicate": True}
            body |= {"Name": self.names.prefix, "Labels": self.names.labels}
            self.api.call("POST", "/networks/create", body=body)

    def _ensure_postgres(self, release: Release, report: Report, lock: Lock) -> None:
        config = self._config(stack.POSTGRES, database.settings())
        self._ensure_kept(
            specs.postgres_service(self.names, release, self._store.ids(), config=config), report, lock
        )

    def _config(self, what: str, text: str) -> tuple[str, str]:
        """Name and id of an engine's config that holds `text`."""
        name = self.names.of(f"{what}-{_short_hash(text)}")
        known = self.api.stored("configs", self._label)
        if name in known:
            return name, str(known[name]["ID"])
        return name, self.api.store("configs", name, text, self.names.labels)

    def _ensure_kept(self, spec: dict[str, Any], report: Report, lock: Lock) -> None:
        """Have a service that no release replaces; touched only if it is to be another one."""
        service = spec["Labels"][labels.SERVICE]
        spec["Labels"][labels.CONFIG_HASH] = mark = _short_hash(json.dumps(spec, sort_keys=True))
        existing = self.api.service(spec["Name"])
        if existing is None or existing["Spec"]["Labels"].get(labels.CONFIG_HASH) != mark:
            report.step(f"start the {_KEPT.get(service, service)}")
            self.api.put_service(spec)
        self._wait([service], None, lock, DATABASE_SECONDS)

    def _ensure_proxy(
        self,
        release: Release,
        certificate: str,
        report: Report,
        lock: Lock,  # noqa: ARG002 - see `ClusterTarget`
    ) -> None:
        publish = release.configuration["publish"]
        spec = proxy_container(release.companions[PROXY], publish, certificate)
        mark = _short_hash(spec.config_hash + publish["bind"])
        name = self.names.of(PROXY)
        found = self._inspect("containers", name)
        if found is not None:
            if (
                found["Config"]["Labels"].get(labels.CONFIG_HASH + ".proxy") == mark
                and found["State"]["Running"]
            ):
                return
            self._remove_proxy()
        report.step("start the proxy")
        marks = {**self.names.labels, labels.SERVICE: PROXY, labels.CONFIG_HASH + ".proxy": mark}
        if certificate:
            marks[CERTIFICATE] = digest_of(certificate)
        with self.api.reached():
            container = self.api.api.create_container(
                spec, name=name, network=self.names.prefix, marks=marks, bind=publish["bind"], keep=True
            )
            try:
                self.api.api.start_container(container, [publish["port"]])
            except PortTakenError as exc:
                self.api.api.remove_container(container)
                raise AstroError(
                    f"port {publish['port']} of the host is already in use",
                    hint="choose another with `publish: {port: …}` in .astro/config.yaml",
                ) from exc

    def _inspect(self, kind: str, name: str) -> dict[str, Any] | None:
        """A container or network of that name, or None."""
        path = f"/{kind}/{name}/json" if kind == "containers" else f"/{kind}/{name}"
        try:
            return dict(self.api.call("GET", path))
        except RefusedError as exc:
            if exc.status == NOT_FOUND:
                return None
            raise

    # the metadata database

    def _postgres_job(self, role: str, release: Release, script: str, failure: str) -> list[str]:
        return self._run_job(
            specs.postgres_job(self.names, role, release, self._store.ids(), script), failure
        )

    def _airflow_job(self, role: str, release: Release, command: Sequence[str], failure: str) -> list[str]:
        return self._run_job(
            specs.airflow_job(self.names, role, release, self._store.ids(), command), failure
        )

    def _run_job(self, spec: Mapping[str, Any], failure: str) -> list[str]:
        """Run a job to its end; returns its lines."""
        name = spec["Name"]
        self._remove_job(name)  # left by a run that was killed
        self.api.put_service(spec)
        try:
            deadline = time.monotonic() + JOB_SECONDS
            while time.monotonic() < deadline:
                task = next(iter(self.api.tasks(name)), None)
                state = task["Status"]["State"] if task else ""
                if task and state in ("complete", "failed", "rejected"):
                    lines = self._lines_of(task, None)
                    if state != "complete":
                        raise AstroError(
                            failure, hint="nothing was replaced", details=tuple(lines[-LAST_LINES:])
                        )
                    return lines
                if self._held is not None:
                    self._held.beat()
                time.sleep(LOOK_SECONDS)
            raise AstroError(f"{failure}: it did not end within {JOB_SECONDS / 60:.0f} minutes")
        finally:
            self._remove_job(name)

    def _remove_job(self, name: str) -> None:
        if self.api.service(name) is None:
            return
        tasks = self.api.tasks(name)
        self.api.remove_service(name)
        for task in tasks:  # the engine forgets a job's container, and leaves it lying
            engine = self._engine_of(task)
            if engine is not None and task_state.container_of(task):
                with engine.reached():
                    engine.api.remove_container(task_state.container_of(task))

    def _engine_of(self, task: Mapping[str, Any]) -> SwarmApi | None:  # noqa: ARG002 - see `ClusterTarget`
        """The engine that a task is on, if it can be reached."""
        return self.api

    # rolling

    def roll(self, release: Release, services: Sequence[str], lock: Lock, seconds: float) -> None:
        """Replace services by those of a release, and wait until each of them runs healthy."""
        ids = self._store.ids()
        rows = [service for service in stack.services_of(release) if service.name in services]
        for service in rows:
            self.api.put_service(specs.airflow_service(self.names, service, release, ids))
        self._wait([service.name for service in rows], release.serving, lock, seconds)
        if rows[-1] == stack.services_of(release)[-1]:
            self._remove_unwanted(release)

    def _remove_unwanted(self, release: Release) -> None:
        """Remove what earlier releases had and this one has not."""
        wanted = {service.name for service in stack.services_of(release)}
        wanted |= {stack.POSTGRES, PROXY, *((stack.BROKER,) if stack.has_workers(release) else ())}
        for service in self.state().services:
            if service.name not in wanted:
                self.api.remove_service(self.names.of(service.name))

    def _wait(self, services: Sequence[str], release: int | None, lock: Lock, seconds: float) -> None:
        began = self.api.now()
        deadline = time.monotonic() + seconds
        waiting = list(services)
        while True:
            for name in tuple(waiting):
                if self._is_up(name, release, began):
                    waiting.remove(name)
            if not waiting:
                return
            if time.monotonic() > deadline:
                raise self._roll_error(waiting[0], release, f"did not become healthy within {seconds:.0f} s")
            lock.beat()
            time.sleep(LOOK_SECONDS)

    def _is_up(self, name: str, release: int | None, began: datetime) -> bool:
        service = self.api.service(self.names.of(name))
        if service is None:
            raise self._roll_error(name, release, "was removed by somebody")
        tasks = task_state.of_release(self.api.tasks(self.names.of(name)), release)
        if lost := task_state.lost(service, tasks, began):
            raise self._roll_error(name, release, lost)
        return self._runs(service, tasks)

    def _runs(self, service: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]]) -> bool:
        """Whether all that a service shall have run."""
        return task_state.is_up(service, tasks)

    def _roll_error(self, name: str, release: int | None, what: str) -> RollError:
        tasks = task_state.of_release(self.api.tasks(self.names.of(name)), release)
        dead = next((task for task in tasks if task["Status"]["State"] in ("failed", "rejected")), None)
        task = dead or next(iter(tasks), None)
        reason = (task["Status"].get("Err") or "") if task else ""
        lines = self._lines_of(task, LAST_LINES) if task else []
        return RollError(f"the service {name} {what}{f' ({reason})' if reason else ''}", details=tuple(lines))

    def _lines_of(self, task: Mapping[str, Any], tail: int | None) -> list[str]:
        container = task_state.container_of(task)
        if not container:
            return [task["Status"].get("Err") or task["Status"].get("Message", "")]
        reader = EngineReader(self._endpoint)
        with suppress(NotFound), self.api.reached():
            stream = reader.stream(
                f"/containers/{container}/logs",
                timeout=60.0,
                stdout="true",
                stderr="true",
                tail="all" if tail is None else str(tail),
            )
            return list(unframe(stream))
        return []

    def remove_services(self) -> None:
        """Remove every service that a release replaces."""
        for name in self._replaced():
            self.api.remove_service(self.names.of(name))

    def _replaced(self) -> list[str]:
        """The services that there are and that a release replaces."""
        return [service.name for service in self.state().services if service.release is not None]

    def stop(self, lock: Lock) -> None:
        """End every service, the database and the proxy; volumes, secrets and records stay."""
        names = self._replaced()
        self.remove_services()
        self._wait_gone(names, lock)
        self._remove_proxy()
        for name in (stack.BROKER, stack.POSTGRES):
            self.api.remove_service(self.names.of(name))
        self._wait_gone([stack.BROKER, stack.POSTGRES, PROXY], lock)

    def _wait_gone(self, services: Sequence[str], lock: Lock) -> None:
        """Wait until no container of these services is left; an engine ends them after their tasks."""
        filters = {f"{TASK_OF}={self.names.of(name)}" for name in services}
        engines = self._engines()
        while any(
            engine.filtered("/containers/json", label=[each]) for engine in engines for each in filters
        ):
            lock.beat()
            time.sleep(LOOK_SECONDS)

    def _engines(self) -> list[SwarmApi]:
        """Every engine that has something of the deployment and can be reached."""
        return [self.api]

    def _remove_proxy(self) -> None:
        found = self._inspect("containers", self.names.of(PROXY))
        if found is not None:
            with self.api.reached():
                self.api.api.stop_container(found["Id"], 10)
                self.api.api.remove_container(found["Id"])

    def destroy(self, report: Report, wait: float) -> None:
        """Remove everything of the deployment, data included; a swarm without another one ends as well.

        Raises:
            LockedError: somebody is at work there.
        """
        if not self.api.is_swarm:
            return
        with self.lock("astro deployment destroy", wait):
            report.step("remove services")
            for name, service in self.api.services(self._label).items():
                if self._is_mine(service):
                    self.api.remove_service(name)
            self._remove_proxy()
            report.step("remove data")
            self._remove_data()
        if not self.api.stored("configs", labels.DEPLOYMENT) and not self.api.services(labels.DEPLOYMENT):
            self._leave_swarm()

    def _leave_swarm(self) -> None:
        leave(self.api)

    def _remove_data(self) -> None:
        releases = self._releases()
        engines = self._engines()
        for engine in engines:
            with engine.reached():
                self._remove_containers(engine)
                for volume in self._volumes(engine):
                    engine.api.remove_volume(volume)
        self._remove_network(self.names.prefix)
        images = {image for each in releases for image in (each.image, *each.companions.values())}
        for engine in engines:
            for image in images:
                _remove_quietly(engine, f"/images/{image}")
        for kind in ("secrets", "configs"):
            for name, each in self.api.stored(kind, self._label).items():
                if self._is_mine(each) and name != self.names.of("lock"):
                    self.api.forget(kind, name)

    def _remove_containers(self, engine: SwarmApi) -> None:
        """Remove what is left of ended containers, which would hold on to volumes."""
        filters = json.dumps({"label": [self._label]})
        for each in engine.call("GET", "/containers/json", all="true", filters=filters):
            if self._has_my_labels(each["Labels"]):
                engine.api.remove_container(each["Id"])

    def _volumes(self, engine: SwarmApi) -> list[str]:
        filters = json.dumps({"label": [self._label]})
        found = engine.call("GET", "/volumes", filters=filters)["Volumes"] or []
        return [each["Name"] for each in found if self._has_my_labels(each["Labels"])]

    def _remove_network(self, network: str) -> None:
        """Remove the network; the engine lets go of it a moment after its last container."""
        for _ in range(NETWORK_TRIES):
            try:
                self.api.call("DELETE", f"/networks/{network}")
            except RefusedError as exc:
                if exc.status == NOT_FOUND:
                    return
            time.sleep(LOOK_SECONDS)

    def run_inside(self, service: str, command: Sequence[str], *, interactive: bool) -> int:
        """Run a command beside a service, with its environment, on this terminal; returns its exit code.

        Raises:
            AstroError: the service does not run.
        """
        engine, container = self._place_of(service)
        words = (
            list(command)
            if service in (stack.POSTGRES, stack.BROKER, PROXY)
            else [*stack.ENTRY, "run", *command]
        )
        with engine.reached():
            return engine.api.run_inside(container, words, interactive=interactive, stdin=True)

    @contextmanager
    def forwarded_api(self) -> Iterator[str]:
        """Address on this machine of the deployment's API, through its engine: its port need not be reachable."""
        container = self._inside()
        relay = [*stack.ENTRY, "relay", PROXY, str(INSIDE_PORT)]
        port = next_free(FIRST_PORT)
        if port is None:
            raise AstroError(f"no free port was found from {FIRST_PORT} upwards on this machine")
        with self.api.reached(), forwarded(port, lambda client: self.api.api.join(container, relay, client)):
            yield f"http://127.0.0.1:{port}"

    def admin_password(self) -> str:
        """The admin's password, read where it is in use; empty with an auth manager of the user's own."""
        with self.api.reached():
            command = ["cat", f"{stack.SECRET_FOLDER}/login"]
            code, text = self.api.api.output_of(self._inside(), command)
        return "" if code else str(json.loads(text)[ADMIN])

    def _inside(self) -> str:
        """A running container of this engine, in the deployment's network and with its secrets."""
        return self._container(stack.API_SERVER)

    def _place_of(self, service: str) -> tuple[SwarmApi, str]:
        """A running container of a service, and the engine that it is on."""
        return self.api, self._container(service)

    def _container(self, service: str) -> str:
        """A running container of a service."""
        rows = (row for row in self.state().services if row.name == service)
        found = next((row.containers[0] for row in rows if row.containers), None)
        if found is None:
            raise NotRunningError(service)
        return found

    def logs(self, query: LogQuery) -> Iterator[LogLine]:
        """Lines of the newest containers, and of those that finish their tasks, merged in order of time."""
        containers: dict[str, str] = {}
        for row in self.state().services:
            if query.services and row.name not in query.services:
                continue
            for task in self.api.tasks(self.names.of(row.name)):
                alive = task["Status"]["State"] in ("running", "starting")
                if task_state.container_of(task) and (alive or row.name not in containers):
                    name = row.name if row.name not in containers else f"{row.name}.{len(containers)}"
                    containers[name] = task_state.container_of(task)
        proxy = self._inspect("containers", self.names.of(PROXY))
        if proxy is not None and (not query.services or PROXY in query.services):
            containers[PROXY] = proxy["Id"]
        with self.api.reached():
            yield from read_logs(EngineReader(self._endpoint), containers, replace(query, services=()))

    def ask(self, path: str) -> dict[str, object] | None:
        """The deployment's own API through its proxy, asked from inside its network."""
        try:
            container = self._inside()
        except NotRunningError:
            return None
        command = [*stack.ENTRY, "fetch", f"http://{PROXY}:{INSIDE_PORT}{path}"]
        with self.api.reached():
            code, output = self.api.api.output_of(container, command)
        answer = None if code else json.loads(output)
        return answer if isinstance(answer, dict) else None

    def tell(self, program: Sequence[str]) -> str:
        """What a program says that runs inside, with the deployment's secrets: its last line.

        Raises:
            AstroError: it failed, or nothing runs there.
        """
        with self.api.reached():
            code, output = self.api.api.output_of(self._inside(), program)
        lines = output.strip().splitlines() or [""]
        if code:
            raise AstroError(
                "the deployment does not answer", hint="see `astro deployment ps`", details=(lines[-1],)
            )
        return lines[-1]

    # tidying

    def prune(self, keep: int) -> None:
        """Remove what only releases need that cannot be returned to: images and secrets. DAGs are the janitor's."""
        releases = self._releases()
        kept = kept_releases(releases, keep)
        images = {reference for each in kept for reference in (each.image, *each.companions.values())}
        for reference in {each.image for each in releases} - images:
            for engine in self._engines():
                _remove_quietly(engine, f"/images/{reference}")
        self._remove_leftovers(images)
        self._keep_dags(kept)
        needed = {name for each in kept for name in each.secrets.values()}
        for name, each in self._store.stored().items():
            if name not in needed and each["Spec"]["Labels"].get(labels.ROLE) in stack.RELEASED:
                self.api.forget("secrets", name)

    def _remove_leftovers(self, images: set[str]) -> None:
        """Remove what runs have left that were killed: jobs, ended containers, images that became no release.

        Args:
            images: of the releases that stay.
        """
        for name, service in self.api.services(self._label).items():
            if self._is_mine(service) and service["Spec"]["Labels"].get(labels.KIND) == "job":
                self._remove_job(name)
        services = self.api.services(self._label)
        for engine in self._engines():
            for each in engine.filtered(
                "/containers/json", label=[self._label], status=["created", "exited"]
            ):
                marks = each["Labels"]
                is_of_service = marks.get(labels.SERVICE) == PROXY or marks.get(TASK_OF) in services
                if self._has_my_labels(marks) and not is_of_service:
                    with engine.reached():
                        engine.api.remove_container(each["Id"])
            for each in engine.filtered("/images/json", reference=[self.names.prefix]):
                for name in each["RepoTags"] if each["Id"] not in images else ():
                    if name.startswith(f"{self.names.prefix}:"):
                        _remove_quietly(engine, f"/images/{name}")

    def _keep_dags(self, kept: Sequence[Release]) -> None:
        """Let versions of the DAGs go that no release needs which can be returned to."""
        with self.api.reached():
            tags = {stack.dags_tag(self.names, each) for each in kept}
            self._dags(kept[-1]).keep({each.dags for each in kept if each.dags}, tags)

    # small things

    @property
    def _label(self) -> str:
        return f"{labels.DEPLOYMENT}={self.names.deployment}"

    def _is_mine(self, thing: Mapping[str, Any]) -> bool:
        return self._has_my_labels(thing["Spec"].get("Labels") or {})

    def _has_my_labels(self, marks: Mapping[str, str]) -> bool:
        return all(marks.get(key) == value for key, value in self.names.labels.items())


def leave(engine: SwarmApi) -> None:
    """Take an engine out of its swarm."""
    engine.call("POST", "/swarm/leave", force="true")
    _remove_quietly(engine, "/networks/docker_gwbridge")


def _remove_quietly(engine: SwarmApi, path: str) -> None:
    """Remove what others may still use; then it stays."""
    with suppress(RefusedError):
        engine.call("DELETE", path)


def _short_hash(text: str) -> str:
    from astro_cli.foundation.hashing import digest

    return digest([(b"", text.encode())])[:12]
