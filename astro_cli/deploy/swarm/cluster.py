"""A deployment on a swarm of several nodes: what `target.py` does on one engine, wherever the swarm has put it.

Whatever must be seen from inside is seen from the log server of the node that astro talks to: it runs on every
node, in the deployment's network and with its secrets.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from astro_cli.deploy import stack
from astro_cli.deploy.dag_bundle import RegistryStore
from astro_cli.deploy.dags_read import ASK_DATABASE
from astro_cli.deploy.registry import Registry
from astro_cli.deploy.secret_values import read_pem
from astro_cli.deploy.swarm import specs, task_state
from astro_cli.deploy.swarm.proxy import PROXY, proxy_text
from astro_cli.deploy.swarm.target import NotRunningError, SwarmTarget, leave
from astro_cli.deploy.target import RollError
from astro_cli.domain.deployments import BUNDLED
from astro_cli.domain.repository import parse_repository
from astro_cli.foundation.errors import AstroError, TargetError, UsageError
from astro_cli.runtime.docker_logs import read as read_logs
from astro_cli.runtime.docker_logs import unframe
from astro_cli.runtime.engine_http import EngineReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from astro_cli.deploy.dag_bundle import Bundle
    from astro_cli.deploy.swarm.api import SwarmApi
    from astro_cli.deploy.swarm.nodes import HostEngine, Nodes
    from astro_cli.deploy.target import Lock, Secrets
    from astro_cli.domain.deployments import Deployment
    from astro_cli.domain.releases import Release
    from astro_cli.domain.repository import Credentials
    from astro_cli.runtime.engine import LogLine, LogQuery, Report

PULL_SECONDS = 1800.0
LOOK_SECONDS = 0.5


class ClusterTarget(SwarmTarget):
    """One deployment on several hosts; see `deploy.target.Target`.

    Args:
        nodes: the hosts.
        credentials: the login for the registry, or None.
        environ: may name certificates to trust.
        push: pushes an image of this machine's engine, and says how it is called in the registry.
    """

    def __init__(
        self,
        nodes: Nodes,
        names: stack.Names,
        deployment: Deployment,
        environ: Mapping[str, str],
        credentials: Credentials | None,
        push: Callable[[str, Sequence[str], Report], str],
    ) -> None:
        self._nodes = nodes
        self._manager: HostEngine = nodes.manager()
        super().__init__(self._manager.api, self._manager.endpoint, names, deployment, self._push_and_pull)
        self._environ = environ
        self._credentials = credentials
        self._push = push
        self._down: list[str] = []
        self._halted: set[str] = set()  # tasks for which an update was begun anew

    # the nodes

    def check(self, *, changing: bool = False) -> None:  # noqa: ARG002 - see `SwarmTarget`
        """That the nodes can be told apart, and that the data is where it can be reached."""
        names = Counter(node["Description"]["Hostname"] for node in self._known_nodes().values())
        twice = next((name for name, count in names.items() if count > 1), None)
        if twice is not None:
            raise TargetError(
                f"{names[twice]} nodes of the swarm are called {twice}, so their logs cannot be told apart",
                hint="give each host a name of its own (`hostnamectl hostname NAME`), then restart its engine",
            )

    def _known_nodes(self) -> dict[str, dict[str, Any]]:
        """Every node by its id, as it is now."""
        if not self.api.is_swarm:
            return {}
        return {node["ID"]: node for node in self.api.nodes()}

    @cached_property
    def _node_names(self) -> dict[str, str]:
        return {key: node["Description"]["Hostname"] for key, node in self._known_nodes().items()}

    def _node_name(self, task: Mapping[str, Any]) -> str:
        return self._node_names.get(task.get("NodeID", ""), "")

    @cached_property
    def _own_id(self) -> str:
        return str(self._manager.swarm()["NodeID"])

    def _ensure_swarm(self) -> None:
        self._down = self._nodes.ensure(self._manager)
        nodes = self._known_nodes()
        label = specs.data_label(self.names)
        holders = [node for node in nodes.values() if (node["Spec"].get("Labels") or {}).get(label) == "true"]
        lost = next((node for node in holders if node["Status"]["State"] != "ready"), None)
        if lost is not None and self._deployment.database == BUNDLED:
            raise TargetError(
                f"{lost['Description']['Hostname']} is down, and the metadata database is there",
                hint="bring it back first; if it is gone for good with the data, `docker node rm --force` it",
            )
        if not holders or lost is not None:
            self.api.mark_node(self._own_id, {label: "true"})
        if lost is not None:
            self.api.mark_node(lost["ID"], {label: "false"})

    def _engine_of(self, task: Mapping[str, Any]) -> SwarmApi | None:
        if task.get("NodeID") == self._own_id:
            return self.api
        node = self._known_nodes().get(task.get("NodeID", ""))
        found = self._nodes.engine_of(node) if node else None
        return found.api if found else None

    def _engines(self) -> list[SwarmApi]:
        found = (self._nodes.engine_of(node) for node in self._known_nodes().values())
        return [engine.api for engine in found if engine is not None]

    # images

    def _push_and_pull(self, image_id: str, tags: Sequence[str], report: Report) -> str:
        reference = self._push(image_id, tags, report)
        known = self._down
        self._ensure_swarm()
        for url in set(self._down) - set(known):
            report.warn(f"{url} is down: nothing runs there until it is back")
        report.step("pull on every node")
        self._pull_everywhere(reference)
        return reference

    def _pull_everywhere(self, reference: str) -> None:
        """Let each node have an image before anything that runs is touched.

        Raises:
            TargetError: one cannot pull it.
        """
        spec = specs.pull_service(self.names, reference)
        self.api.remove_service(spec["Name"])  # left by a run that was killed
        self.api.put_service(spec)
        try:
            deadline = time.monotonic() + PULL_SECONDS
            while True:
                service, tasks = self.api.service(spec["Name"]), self.api.tasks(spec["Name"])
                ended = next(
                    (task for task in tasks if task["Status"]["State"] in ("rejected", "failed")), None
                )
                if ended is not None:
                    raise TargetError(
                        f"{self._node_name(ended)} cannot pull {reference}: {ended['Status'].get('Err', '')}",
                        hint="the engine there must reach the registry and trust its certificate "
                        f"(/etc/docker/certs.d/{reference.partition('/')[0]}/ca.crt), with a login that may read",
                    )
                if service is not None and tasks and self._runs(service, tasks):
                    return
                if time.monotonic() > deadline:
                    raise TargetError(
                        f"not every node had {reference} within {PULL_SECONDS / 60:.0f} minutes"
                    )
                time.sleep(LOOK_SECONDS)
        finally:
            self.api.remove_service(spec["Name"])

    # secrets

    def _own_secrets(self, secrets: Secrets) -> dict[str, str]:
        """What only a target with several nodes has as secrets, by role."""
        found = {stack.CERTIFICATE: secrets.certificate, stack.AUTHORITY: self._authority}
        if self._credentials is not None:
            login = {"username": self._credentials.username, "password": self._credentials.password}
            found[stack.REGISTRY] = json.dumps(login)
        return {role: text for role, text in found.items() if text}

    @cached_property
    def _authority(self) -> str:
        path = self._deployment.registry_authority
        return read_pem(path, Path("/"), "registry_authority") if path else ""

    def changed_secrets(self, secrets: Secrets) -> tuple[str, ...]:
        """See `Target`."""
        words = {stack.REGISTRY: "the registry's login", stack.AUTHORITY: "the registry's authority"}
        own = self._own_secrets(secrets).items()
        changed = [words.get(role, role) for role, text in own if not self._store.has_text(role, text)]
        return (*self._store.changed(secrets), *changed)

    def ensure_secrets(self, secrets: Secrets, *, first: bool) -> tuple[dict[str, str], str]:
        """See `Target`."""
        names, password = super().ensure_secrets(secrets, first=first)
        own = self._own_secrets(secrets).items()
        return names | {role: self._store.ensure_text(role, text) for role, text in own}, password

    # DAGs

    def publish_dags(self, release: Release, bundle: Bundle) -> None:
        """See `Target`."""
        with self._registry() as registry:
            self._versions(registry, release).publish(bundle)

    def point_dags(self, release: Release, digest: str) -> None:
        """See `Target`."""
        with self._registry() as registry:
            self._versions(registry, release).point(digest)

    def dags_digest(self, release: Release) -> str:
        """See `Target`."""
        with self._registry() as registry:
            published = self._versions(registry, release).current()
        return published.digest if published else ""

    def dags_seen(self, release: Release) -> str:  # noqa: ARG002 - the Protocol's
        """See `Target`; the dag-processor may be anywhere, but what it has read is in the database."""
        return self._digest_from([*ASK_DATABASE, "seen"])

    def _in_processor(self, command: Sequence[str]) -> tuple[int, str]:
        """Runs it beside the log server instead, which is in the same network."""
        with self.api.reached():
            return self.api.api.output_of(self._inside(), command)

    def _keep_dags(self, kept: Sequence[Release]) -> None:
        """The registry keeps every version; what it has too much of goes as its owner says."""

    def _registry(self) -> Registry:
        host = parse_repository(self._deployment.registry).host
        return Registry(host, self._credentials, environ=self._environ, authority=self._authority)

    def _versions(self, registry: Registry, release: Release) -> RegistryStore:
        repository = parse_repository(release.configuration["registry"]).name
        return RegistryStore(registry, repository, stack.dags_tag(self.names, release))

    # the proxy, on every node

    def _ensure_proxy(self, release: Release, certificate: str, report: Report, lock: Lock) -> None:
        if certificate and not self._store.has_text(stack.CERTIFICATE, certificate):
            name = self._store.ensure_text(stack.CERTIFICATE, certificate)
            release = replace(release, secrets={**release.secrets, stack.CERTIFICATE: name})
        config = self._config(PROXY, proxy_text(with_certificate=stack.CERTIFICATE in release.secrets))
        spec = specs.proxy_service(self.names, release, self._store.ids(), config=config)
        try:
            self._ensure_kept(spec, report, lock)
        except RollError as exc:
            port = release.configuration["publish"]["port"]
            if "already in use" in exc.message:
                raise AstroError(
                    f"port {port} of a node is already in use",
                    hint="choose another with `publish: {port: …}` in .astro/config.yaml",
                ) from exc
            raise

    def _remove_proxy(self) -> None:
        self.api.remove_service(self.names.of(PROXY))

    # rolling and looking

    def roll(self, release: Release, services: Sequence[str], lock: Lock, seconds: float) -> None:
        """See `Target`; the place from which the barrier is looked at comes with it."""
        beside = (stack.LOG_SERVER.name,) if stack.API_SERVER in services else ()
        super().roll(release, (*services, *beside), lock, seconds)

    def _runs(self, service: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]]) -> bool:
        """See `SwarmTarget`; an update of what is on each node never ends while one is lost, or halts there."""
        if "Global" not in service["Spec"]["Mode"]:
            return super()._runs(service, tasks)
        nodes = {key for key, node in self._known_nodes().items() if task_state.takes_tasks(node)}
        if nodes <= task_state.places(tasks):
            return True
        if halted := {task["ID"] for task in tasks if task["NodeID"] not in nodes} - self._halted:
            self._halted |= halted
            self.api.update_anew(service)
        return False

    def _inside(self) -> str:
        """The log server of the node that astro talks to."""
        for task in self.api.tasks(self.names.of(stack.LOG_SERVER.name)):
            here = task.get("NodeID") == self._own_id and task["DesiredState"] == "running"
            if here and task["Status"]["State"] == "running":
                return task_state.container_of(task)
        raise NotRunningError(f"{stack.LOG_SERVER.name} on {self._manager.host.url}")

    def _place_of(self, service: str) -> tuple[SwarmApi, str]:
        running = [
            task
            for task in self.api.tasks(self.names.of(service))
            if task["Status"]["State"] == "running" and task["DesiredState"] == "running"
        ]
        for task in running:
            engine = self._engine_of(task)
            if engine is not None:
                return engine, task_state.container_of(task)
        if running:
            raise UsageError(
                f"{service} runs on {self._node_name(running[0])}, which is not named in `hosts`",
                hint="add that node's address to `hosts` of the deployment",
            )
        raise NotRunningError(service)

    def _lines_of(self, task: Mapping[str, Any], tail: int | None) -> list[str]:
        if not task_state.container_of(task):
            return super()._lines_of(task, tail)
        options = {"stdout": "true", "stderr": "true", "tail": "all" if tail is None else str(tail)}
        with self.api.reached():
            reader = EngineReader(self._manager.endpoint)
            return list(unframe(reader.stream(f"/tasks/{task['ID']}/logs", timeout=60.0, **options)))

    def logs(self, query: LogQuery) -> Iterator[LogLine]:
        """Lines of all tasks of the services, wherever they run, merged in order of time."""
        wanted = [
            row.name for row in self.state().services if not query.services or row.name in query.services
        ]
        places = {name: f"/services/{self.names.of(name)}" for name in wanted}
        with self.api.reached():
            yield from read_logs(EngineReader(self._manager.endpoint), places, replace(query, services=()))

    # the end

    def _leave_swarm(self) -> None:
        """End the swarm if astro has made it; one of the user's goes on without our labels."""
        if self.api.is_managed:
            others = [engine for engine in self._engines() if engine is not self.api]
            for engine in (*others, self.api):
                leave(engine)
