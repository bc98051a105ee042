"""A deployment on Kubernetes: rolls, jobs, secrets and volumes are the cluster's. See `docs/kubernetes.md`."""

from __future__ import annotations

import base64
import json
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from astro_cli.deploy import database, stack
from astro_cli.deploy.dag_bundle import RegistryStore
from astro_cli.deploy.dags_read import PROCESSOR, DagsRead
from astro_cli.deploy.database import DatabaseJobs
from astro_cli.deploy.kubernetes import objects, pod_state, rights
from astro_cli.deploy.kubernetes.api import CONFLICT, FORBIDDEN, KINDS, RefusedError, selector
from astro_cli.deploy.kubernetes.diff import differences
from astro_cli.deploy.kubernetes.jobs import Jobs
from astro_cli.deploy.kubernetes.lock import LeaseStore
from astro_cli.deploy.kubernetes.namespace import find_namespace, find_other
from astro_cli.deploy.kubernetes.pods import (
    GONE_SECONDS,
    LAST_LINES,
    LOOK_SECONDS,
    cluster_error,
    lines_of,
    pod_logs,
    try_pod,
    wait_gone,
)
from astro_cli.deploy.kubernetes.secrets import SecretDoor
from astro_cli.deploy.lock import break_lock, hold_lock, lock_holder
from astro_cli.deploy.secret_store import SecretStore, digest_of, is_digest_of
from astro_cli.deploy.target import RollError, ServiceState, State
from astro_cli.domain.airflow import ADMIN, API_PORT
from astro_cli.domain.releases import LIVE, kept_releases, read_release
from astro_cli.foundation import labels
from astro_cli.foundation.errors import AstroError, TargetError, UsageError
from astro_cli.foundation.ports import next_free
from astro_cli.runtime.forward import forwarded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from astro_cli.deploy.dag_bundle import Bundle
    from astro_cli.deploy.kubernetes.api import KubernetesApi
    from astro_cli.deploy.lock import HeldLock
    from astro_cli.deploy.registry import Registry
    from astro_cli.deploy.target import Difference, Lock, Secrets, Unfinished
    from astro_cli.domain.deployments import Deployment
    from astro_cli.domain.releases import Release
    from astro_cli.domain.repository import Credentials, Repository
    from astro_cli.runtime.engine import LogLine, LogQuery, Report

    Object = dict[str, Any]

DATABASE_SECONDS = 300.0
FIRST_PORT = 18_080
"""On this machine, for the way to a deployment's API."""
REMOTE_LOGS = "AIRFLOW__LOGGING__REMOTE_LOGGING"
_WORKLOADS = ("Deployment", "StatefulSet", "Job")


@dataclass(frozen=True)
class RegistryDoor:
    """The way to the registry from here.

    Attributes:
        credentials: of whoever deploys; None where they have none.
        opened: opens it, with the authority (PEM) of its certificate, if it has one of its own.
        push: brings an image of this machine's engine there, and says how to pull it.
    """

    repository: Repository
    credentials: Credentials | None
    opened: Callable[[str], Registry]
    push: Callable[[str, Sequence[str], Report], str]


class KubernetesTarget(DatabaseJobs, DagsRead):
    """One deployment in one namespace; see `deploy.target.Target`."""

    def __init__(
        self, api: KubernetesApi, names: stack.Names, deployment: Deployment, registry: RegistryDoor
    ) -> None:
        self.api = api
        self.names = names
        self._deployment = deployment
        self._registry = registry
        self._store = SecretStore(SecretDoor(api, self._mine), names)
        self._held: HeldLock | None = None
        self._jobs = Jobs(api, self._beat)
        self._lock = LeaseStore(api, names)

    # looking

    def check(self, *, changing: bool = False) -> None:
        """That the cluster answers, that the namespace is this deployment's, and that we may do what we must.

        Raises:
            TargetError: something of it is not so.
        """
        namespace = find_namespace(self.api)
        if namespace is not None and not self._has_my_labels(namespace):
            words = " ".join(f"{key}={value}" for key, value in self.names.labels.items())
            raise TargetError(
                f"the namespace `{self.api.namespace}` exists and is not this deployment's",
                hint=f"name another with `namespace:`; or give it this one: "
                f"`kubectl label namespace {self.api.namespace} {words}`",
            )
        if changing:
            wanted = rights.needed(self._deployment, new=namespace is None)
            rights.require(self.api, wanted)

    def platform(self) -> str:
        """What kind of machines the nodes are; empty where that may not be asked, or where they differ."""
        try:
            nodes = self.api.call("GET", "/api/v1/nodes")["items"]
        except RefusedError:
            return ""
        kinds = {f"{info['operatingSystem']}/{info['architecture']}" for info in map(_node_info, nodes)}
        return kinds.pop() if len(kinds) == 1 else ""

    def state(self) -> State:
        """What is there."""
        pods = self.api.list("Pod", self._mine)
        rows = [
            self._service_state(workload, pods)
            for kind in ("Deployment", "StatefulSet")
            for workload in self.api.list(kind, self._mine)
        ]
        order = [stack.POSTGRES, stack.BROKER, *(service.name for service in stack.airflow_services())]
        rows.sort(key=lambda row: order.index(row.name) if row.name in order else len(order))
        return State(self._releases(), tuple(rows), lock_holder(self._lock))

    def _releases(self) -> tuple[Release, ...]:
        found = self.api.list("ConfigMap", f"{self._mine},{labels.KIND}={objects.RECORD}")
        read = (read_release(each["data"]["release"]) for each in found)
        return tuple(sorted(read, key=lambda release: release.id))

    def _service_state(self, workload: Object, pods: Sequence[Object]) -> ServiceState:
        name = workload["metadata"]["labels"][labels.SERVICE]
        release = pod_state.release_of(workload)
        own = [pod for pod in pods if pod["metadata"]["labels"].get(labels.SERVICE) == name]
        new = [pod for pod in own if pod_state.release_of(pod) == release and not pod_state.is_ending(pod)]
        ready = [pod for pod in new if pod_state.is_ready(pod)]
        troubles = filter(None, map(pod_state.trouble, new))
        return ServiceState(
            name=name,
            release=release,
            wanted=workload["spec"]["replicas"],
            running=len(ready),
            draining=sum(map(pod_state.is_ending, own)),
            image=workload["spec"]["template"]["spec"]["containers"][0]["image"],
            containers=tuple(pod["metadata"]["name"] for pod in ready),
            error=next((trouble.words for trouble in troubles), pod_state.lost(workload)),
        )

    def changed_secrets(self, secrets: Secrets) -> tuple[str, ...]:
        """Names whose values differ from what the cluster has."""
        changed = self._store.changed(secrets)
        if not secrets.certificate:
            return changed
        found = self.api.get("Secret", objects.CERTIFICATE_SECRET)
        known = (
            (found["metadata"].get("annotations") or {}).get(objects.CERTIFICATE_DIGEST, "") if found else ""
        )
        return changed if is_digest_of(secrets.certificate, known) else (*changed, "certificate")

    def differences(self, release: Release) -> tuple[Difference, ...]:
        """What applying a release would change, asked of the cluster itself."""
        if find_namespace(self.api) is None:
            return differences(self._wanted(release), {}, lambda wanted: dict(wanted))
        return differences(
            self._wanted(release), self._present(), lambda wanted: self.api.apply(wanted, dry_run=True)
        )

    def _wanted(self, release: Release) -> list[Object]:
        """Every object of a release but secrets and records."""
        return [
            *objects.base_objects(self.names, release, database.settings()),
            *(
                objects.airflow_deployment(self.names, service, release, 300.0)
                for service in stack.services_of(release)
            ),
        ]

    def _present(self) -> dict[tuple[str, str], Object]:
        """Every object that applying a release makes, by kind and name."""
        found: dict[tuple[str, str], Object] = {}
        for kind in KINDS:
            if kind in ("Pod", "ReplicaSet", "Lease", "Job", "Secret"):
                continue
            with suppress(RefusedError):  # what may not be listed was never made
                for each in self.api.list(kind, self._mine):
                    if each["metadata"]["labels"].get(labels.KIND) != objects.RECORD:
                        found[kind, each["metadata"]["name"]] = {"kind": kind, **each}
        return found

    # lock and records

    @contextmanager
    def lock(self, purpose: str, wait: float) -> Iterator[HeldLock]:
        """Hold the deployment; its namespace is made if there is none."""
        if find_namespace(self.api) is None:
            try:
                made = objects.namespace(self.names, self.api.namespace)
                self.api.call("POST", "/api/v1/namespaces", body=made)
            except RefusedError as exc:
                if exc.status != CONFLICT:  # else somebody was faster
                    raise
            self.check()
        with hold_lock(self._lock, purpose, wait) as held:
            self._held = held
            yield held

    def record(self, release: Release) -> None:
        """Append to the list of releases."""
        self.api.create(objects.record(self.names, release))

    def unlock(self) -> Unfinished | None:
        """Take the lock away from whoever has it; what was begun under it, or None when it was free."""
        return break_lock(self._lock)

    # what a release stands on

    def bring_image(self, image_id: str, tags: Sequence[str], report: Report) -> str:
        """Push an image to the registry; the nodes pull it when the lock is held."""
        return self._registry.push(image_id, tags, report)

    def ensure_secrets(self, secrets: Secrets, *, first: bool) -> tuple[dict[str, str], str]:
        """Have every secret; the admin gets a password with the first release."""
        return self._store.ensure_all(self._deployment, secrets, first=first)

    def make_keys(self) -> str:
        """See `Target`."""
        found = self._store.newest(stack.KEYS)
        if found is None:
            raise AstroError("the present keys are gone", hint="see `astro deployment ps`")
        return self._store.next_keys(json.loads(self._secret_value(found["Spec"]["Name"])))

    def _secret_value(self, name: str) -> str:
        found = self.api.get("Secret", name)
        return base64.b64decode(found["data"]["value"]).decode() if found else ""

    def ensure_base(self, release: Release, secrets: Secrets, report: Report, lock: Lock) -> None:
        """Have account, login, volumes, database and Services; what is there as it should be is not touched."""
        configuration = release.configuration
        if not configuration["storage"]["logs"] and REMOTE_LOGS not in configuration["env"]:
            report.warn(
                "task logs are not kept: name a class of shared volumes (`storage: {logs: …}`), or log remotely"
            )
        self._ensure_registry_login(secrets)
        if secrets.certificate:
            pem = secrets.certificate
            if "certificate" in self.changed_secrets(secrets):
                self._put(objects.certificate_secret(self.names, pem, digest_of(pem)))
        account, *others = objects.base_objects(self.names, release, database.settings())
        self._put(account)
        live = (each for each in self._releases() if each.result == LIVE)
        known = {image for each in live for image in (each.image, *each.companions.values())}
        for image in dict.fromkeys((*release.companions.values(), release.image)):
            if image not in known:
                report.step(f"a node pulls {image.partition('@')[0]}")
                job = objects.image_job(self.names, "pull", image)
                self._jobs.run(job, "the image does not run")
        kept = []
        for each in others:
            if each["kind"] == "StatefulSet":
                kept.append(each["metadata"]["name"])
                report.step("the metadata database" if kept[-1] == stack.POSTGRES else "the broker")
            self._put(each)
        self._wait("StatefulSet", kept, None, lock, DATABASE_SECONDS)

    def _ensure_registry_login(self, secrets: Secrets) -> None:
        login = self._registry.credentials
        if login is None and self.api.get("Secret", objects.REGISTRY_SECRET) is not None:
            return  # somebody else deployed, who had one
        host = self._registry.repository.host
        if login is not None and login.is_identity_token:
            raise UsageError(
                f"the login for {host} is an identity token, with which nodes of Kubernetes cannot pull",
                hint="set ASTRO_REGISTRY_USERNAME and ASTRO_REGISTRY_PASSWORD to a login that may read",
            )
        name, password = (login.username, login.password) if login else ("", "")
        self._put(objects.registry_secret(self.names, host, name, password, secrets.authority))

    def _put(self, wanted: Object) -> None:
        """Apply an object, unless somebody else's has its name."""
        name = wanted["metadata"]["name"]
        found = self.api.get(wanted["kind"], name)
        if found is not None and not self._has_my_labels(found):
            raise AstroError(
                f"{self.api.namespace} already has a {wanted['kind']} `{name}`, which is not this deployment's",
                hint="remove or rename it, or give the deployment another `namespace`",
            )
        self.api.apply(wanted)

    # DAGs

    def publish_dags(self, release: Release, bundle: Bundle) -> None:
        """See `Target`."""
        with self._dags(release) as dags:
            dags.publish(bundle)

    def point_dags(self, release: Release, digest: str) -> None:
        """See `Target`."""
        with self._dags(release) as dags:
            dags.point(digest)

    def dags_digest(self, release: Release) -> str:
        """See `Target`."""
        with self._dags(release) as dags:
            published = dags.current()
        return published.digest if published else ""

    def _in_processor(self, command: Sequence[str]) -> tuple[int, str]:
        pod = self._pod(PROCESSOR)
        return self.api.output_of(pod, command, container=PROCESSOR) if pod else (1, "")

    @contextmanager
    def _dags(self, release: Release) -> Iterator[RegistryStore]:
        tag = stack.dags_tag(self.names, release)
        found = self.api.get("Secret", objects.REGISTRY_SECRET)
        authority = (found or {}).get("data", {}).get(objects.AUTHORITY_FILE, "")
        with self._registry.opened(base64.b64decode(authority).decode()) as registry:
            yield RegistryStore(registry, self._registry.repository.name, tag)

    # the metadata database

    def _postgres_job(self, role: str, release: Release, script: str, failure: str) -> list[str]:
        return self._jobs.run(objects.postgres_job(self.names, role, release, script), failure)

    def _airflow_job(self, role: str, release: Release, command: Sequence[str], failure: str) -> list[str]:
        return self._jobs.run(objects.airflow_job(self.names, role, release, command), failure)

    # rolling

    def roll(self, release: Release, services: Sequence[str], lock: Lock, seconds: float) -> None:
        """Replace services by those of a release, and wait until each of them runs healthy."""
        rows = [service for service in stack.services_of(release) if service.name in services]
        for service in rows:
            wanted = objects.airflow_deployment(self.names, service, release, seconds)
            marks = f"{labels.SERVICE}={service.name},{labels.RELEASE}={release.serving}"
            if not self.api.list("Pod", f"{self._mine},{marks}"):  # else it goes back to what still runs
                try_pod(self.api, wanted)
            self._put(wanted)
        self._wait("Deployment", [service.name for service in rows], release.serving, lock, seconds)
        if rows[-1] == stack.services_of(release)[-1]:
            self._remove_unwanted(release)

    def _remove_unwanted(self, release: Release) -> None:
        """Remove what earlier releases had and this one has not; workers finish their tasks first."""
        wanted = {service.name for service in stack.services_of(release)}
        for each in self.api.list("Deployment", self._mine):
            if each["metadata"]["name"] not in wanted:
                self.api.delete("Deployment", each["metadata"]["name"])

    def _wait(
        self, kind: str, services: Sequence[str], release: int | None, lock: Lock, seconds: float
    ) -> None:
        deadline = time.monotonic() + seconds
        waiting, known = list(services), dict.fromkeys(services, "")
        while True:
            for name in tuple(waiting):
                late = time.monotonic() > deadline
                if self._is_up(kind, name, release, known, late=late, seconds=seconds):
                    waiting.remove(name)
            if not waiting:
                return
            lock.beat()
            time.sleep(LOOK_SECONDS)

    def _is_up(
        self, kind: str, name: str, release: int | None, known: dict[str, str], *, late: bool, seconds: float
    ) -> bool:
        workload = self.api.get(kind, name)
        if workload is None:
            raise RollError(f"the service {name} was removed by somebody")
        if pod_state.is_up({"kind": kind, **workload}):
            return True
        found = self.api.list("Pod", f"{self._mine},{labels.SERVICE}={name}")
        pods = [
            pod
            for pod in pod_state.newest(found)
            if pod_state.release_of(pod) == release and not pod_state.is_ending(pod)
        ]
        troubles = {pod["metadata"]["name"]: pod_state.trouble(pod, known[name]) for pod in pods}
        worst = max(filter(None, troubles.values()), key=lambda each: each.final, default=None)
        refused = pod_state.lost(workload)
        if worst is not None:
            known[name] = worst.words
        if late or refused or (worst is not None and worst.final):
            if worst is not None and worst.cluster:
                raise cluster_error(f"the service {name} cannot run: {worst.words}")
            if refused and not pods:
                raise cluster_error(f"the service {name} cannot run: {refused}")
            words = worst.words if worst else refused or f"did not become healthy within {seconds:.0f} s"
            pod = next((pod for pod in pods if troubles[pod["metadata"]["name"]]), next(iter(pods), None))
            lines = lines_of(self.api, pod, LAST_LINES) if pod else []
            raise RollError(f"the service {name} {words}", details=tuple(lines))
        return False

    def remove_services(self) -> None:
        """Remove every service that a release replaces."""
        for each in self.api.list("Deployment", self._mine):
            self.api.delete("Deployment", each["metadata"]["name"])

    def stop(self, lock: Lock) -> None:
        """End every service, those that they stand on last; volumes, secrets and records stay."""
        self.remove_services()
        kept = (stack.BROKER, stack.POSTGRES)
        self._wait_gone(f"{labels.SERVICE},{labels.SERVICE} notin ({','.join(kept)})", lock)
        for name in kept:
            self.api.delete("StatefulSet", name)
        self._wait_gone(f"{labels.SERVICE} in ({','.join(kept)})", lock)

    def _wait_gone(self, pods: str, lock: Lock) -> None:
        """Wait until none of these pods is left; the cluster ends them after their tasks."""
        while self.api.list("Pod", f"{self._mine},{pods}"):
            lock.beat()
            time.sleep(LOOK_SECONDS)

    # beside what runs

    def run_inside(self, service: str, command: Sequence[str], *, interactive: bool) -> int:
        """Run a command beside a service, with its environment, on this terminal; returns its exit code."""
        words = list(command) if service == stack.POSTGRES else [*stack.ENTRY, "run", *command]
        return self.api.run_inside(self._running(service), words, container=service, interactive=interactive)

    @contextmanager
    def forwarded_api(self) -> Iterator[str]:
        """Address on this machine of the deployment's API, through the cluster's own."""
        pod, port = self._running(stack.API_SERVER), next_free(FIRST_PORT)
        if port is None:
            raise AstroError(f"no free port was found from {FIRST_PORT} upwards on this machine")
        with forwarded(port, lambda client: self.api.forward(pod, API_PORT, client)):
            yield f"http://127.0.0.1:{port}"

    def admin_password(self) -> str:
        """The admin's password; empty with an auth manager of the user's own."""
        found = self._store.newest(stack.LOGIN)
        return str(json.loads(self._secret_value(found["Spec"]["Name"]))[ADMIN]) if found else ""

    def _running(self, service: str) -> str:
        pod = self._pod(service)
        if not pod:
            raise AstroError(f"the service {service} does not run", hint="see `astro deployment ps`")
        return pod

    def _pod(self, service: str) -> str:
        """A pod of a service that is ready; empty where there is none."""
        pods = pod_state.newest(self.api.list("Pod", f"{self._mine},{labels.SERVICE}={service}"))
        return next((str(pod["metadata"]["name"]) for pod in pods if pod_state.is_ready(pod)), "")

    def ask(self, path: str) -> dict[str, object] | None:
        """The deployment's own API, asked beside it: in some networks a pod cannot reach itself by its Service."""
        pod = self._pod(stack.API_SERVER)
        if not pod:
            return None
        command = [*stack.ENTRY, "fetch", f"http://127.0.0.1:{API_PORT}{path}"]
        try:
            code, output = self.api.output_of(pod, command, container=stack.API_SERVER)
        except RefusedError as exc:  # it has just ended
            if exc.status == FORBIDDEN:
                raise
            return None
        if code:
            return None
        answer = json.loads(output)
        return answer if isinstance(answer, dict) else None

    def logs(self, query: LogQuery) -> Iterator[LogLine]:
        """Lines of every pod there is, tasks' included, merged in order of time."""
        return pod_logs(self.api, self._mine, query)

    # tidying

    def prune(self, keep: int) -> None:
        """Remove what the running release no longer wants, and secrets of releases that cannot be returned to."""
        kept = kept_releases(self._releases(), keep)
        wanted = {(each["kind"], each["metadata"]["name"]) for each in self._wanted(kept[-1])}
        for (kind, name), each in self._present().items():
            is_object = each["metadata"]["labels"].get(labels.KIND) == objects.OBJECT
            if is_object and (kind, name) not in wanted:
                self.api.delete(kind, name)
        needed = {name for each in kept for name in each.secrets.values()}
        for name, each in self._store.stored().items():
            if name not in needed and each["Spec"]["Labels"].get(labels.ROLE) in stack.RELEASED:
                self.api.delete("Secret", name)

    def destroy(self, report: Report, wait: float) -> None:
        """Remove everything of the deployment, and the namespace that astro made if nothing of others is in it."""
        namespace = find_namespace(self.api)
        if namespace is None:
            return
        with self.lock("astro deployment destroy", wait):
            report.step("remove services")
            for kind in (*_WORKLOADS, "Pod"):
                self._remove_all(kind)
            wait_gone(
                lambda: self.api.list("Pod", self._mine),
                "some pods do not end",
                self._beat,
                2 * GONE_SECONDS,
            )
            report.step("remove data")
            for kind in KINDS:
                if kind not in ("Lease", "ReplicaSet"):
                    self._remove_all(kind)
        if namespace["metadata"]["labels"].get(labels.MANAGED) != "true":
            return
        if others := find_other(self.api, self._has_my_labels):
            report.warn(f"the namespace {self.api.namespace} stays: {others} is not this deployment's")
            return
        report.step("remove the namespace")
        with suppress(RefusedError):
            self.api.call("DELETE", f"/api/v1/namespaces/{self.api.namespace}")
            self._held = None
            wait_gone(lambda: find_namespace(self.api), "the namespace does not go", self._beat)

    def _remove_all(self, kind: str) -> None:
        with suppress(RefusedError):  # what may not be listed was never made
            for each in self.api.list(kind, self._mine):
                self.api.delete(kind, each["metadata"]["name"])

    # small things

    def _beat(self) -> None:
        if self._held is not None:
            self._held.beat()

    @property
    def _mine(self) -> str:
        return selector(self.names.labels)

    def _has_my_labels(self, thing: Mapping[str, Any]) -> bool:
        marks = thing["metadata"].get("labels") or {}
        return all(marks.get(key) == value for key, value in self.names.labels.items())


def _node_info(node: Mapping[str, Any]) -> Mapping[str, str]:
    info: Mapping[str, str] = node["status"]["nodeInfo"]
    return info
