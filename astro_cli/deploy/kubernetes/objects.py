"""What a release is on Kubernetes: objects rendered from the table of services, as plain dicts. Pure.

Every deployment has a namespace of its own, so objects have short names, and services find each other by them as
they do on an engine. All pods fulfil the Pod Security Standard `restricted`. Kinds and fields are those that both
Kubernetes 1.20 and the newest one know (`tests/kubernetes/test_objects.py`).
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from astro_cli.deploy import stack
from astro_cli.deploy.dag_bundle import registry_source
from astro_cli.domain import airflow
from astro_cli.domain.deployments import KUBERNETES, LOCAL
from astro_cli.domain.repository import HUB, HUB_KEY
from astro_cli.foundation import labels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from astro_cli.deploy.stack import Names
    from astro_cli.domain.releases import Release
    from astro_cli.domain.services import ServiceSpec

    Object = dict[str, Any]

OBJECT, JOB, TASK, LOCK, RECORD = "object", "job", "task", "lock", "release"
"""Values of the label `astro.kind`; those of the kind OBJECT are pruned when no release wants them."""
MANAGED_BY = "app.kubernetes.io/managed-by"
REGISTRY_SECRET = "registry"  # noqa: S105 - a name
CERTIFICATE_SECRET = "certificate"  # noqa: S105 - a name
CERTIFICATE_DIGEST = f"{labels.DIGEST}certificate"
REGISTRY_FOLDER = "/run/secrets/registry"
LOGIN_FILE, AUTHORITY_FILE, DOCKER_FILE = "login", "ca.crt", ".dockerconfigjson"
TEMPLATE_FOLDER = "/etc/astro"
NAMESPACE_VARIABLE = "AIRFLOW__KUBERNETES_EXECUTOR__NAMESPACE"
POSTGRES_GROUP = 999
AIRFLOW_GROUP = airflow.UID
"""Of volumes: their files belong to it, whatever their storage thinks."""
READ_SECONDS = 10
"""Between the end of an api-server's entry in its Service and its own: proxies take a moment to notice."""
MEMORY = {
    "api-server": 384,
    "scheduler": 512,
    "dag-processor": 256,
    "triggerer": 256,
    "janitor": 32,
    stack.WORKER: 512,
    stack.BROKER: 32,
    "postgres": 128,
}
"""MiB that a service needs in any case; by it the cluster chooses a node."""
_FILES = {
    stack.KEYS: "keys.json",
    stack.CONNECTION: "connection.json",
    stack.USER: "user.json",
    stack.LOGIN: "login",
    stack.PASSWORD: "password",
    stack.BROKER: "broker.json",
    stack.BROKER_CONFIG: "redis.conf",
    stack.ADDRESS: "address",
}
_POSTGRES_DATA = "/var/lib/postgresql/data"
# A new volume is empty, unlike one of an engine: it gets the cluster that the image carries, all of it or nothing.
_FILL = (
    "umask 077; cd /volume; [ -d data ] || { rm -rf new; mkdir new; "
    f"cp -a {_POSTGRES_DATA}/. new/; chmod 0700 new; sync; mv new data; }}"
)


def namespace(names: Names, name: str) -> Object:
    """The deployment's namespace."""
    marks = {**names.labels, MANAGED_BY: "astro", labels.MANAGED: "true"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": marks}}


def base_objects(names: Names, release: Release, settings: str) -> list[Object]:
    """What a release's services stand on, in the order in which it is needed; applying it restarts nothing.

    Args:
        settings: of the bundled database.
    """
    configuration = release.configuration
    storage, publish = configuration["storage"], configuration["publish"]
    found = [_account(names, "airflow")]
    if stack.PASSWORD in release.secrets:
        found += [
            _claim(names, "database", storage["storage_class"], storage["size"]),
            _object(names, "ConfigMap", "postgres", data={"postgresql.conf": settings}),
            _service(names, stack.POSTGRES, 5432),
            _postgres(names, release),
        ]
    if stack.has_workers(release):
        found += [
            _claim(names, stack.BROKER, storage["storage_class"], storage["size"]),
            _service(names, stack.BROKER, airflow.BROKER_PORT),
            _broker(names, release),
        ]
    found.append(_claim(names, "backups", storage["storage_class"], storage["size"]))
    if storage["logs"]:
        found.append(_claim(names, "logs", storage["logs"], storage["size"], mode="ReadWriteMany"))
    found.append(_service(names, stack.API_SERVER, airflow.API_PORT, kind=publish["service"]))
    if publish["ingress"]:
        found.append(_ingress(names, publish))
    found += [
        _budget(names, service.name)
        for service in stack.services_of(release)
        if stack.copies(release, service.name) > 1
    ]
    if configuration["executor"] == KUBERNETES:
        found += [
            *_rights(names, "scheduler", {"pods": _POD_VERBS, "pods/log": ["get"]}),
            *_rights(names, stack.API_SERVER, {"pods": ["get", "list"], "pods/log": ["get"]}),
            _object(
                names, "ConfigMap", template_name(release), data={"pod.yaml": task_template(names, release)}
            ),
        ]
    return found


_POD_VERBS = ["create", "delete", "get", "list", "patch", "watch"]


def template_name(release: Release) -> str:
    """Of the ConfigMap with the template of tasks' pods; each release's scheduler reads its own."""
    return f"tasks-{release.serving}"


def airflow_deployment(names: Names, service: ServiceSpec, release: Release, seconds: float) -> Object:
    """The Deployment of one row.

    Args:
        seconds: that its pods may take to become ready.
    """
    marks = {**_labels(names, service.name), labels.RELEASE: str(release.serving)}
    return _object(
        names,
        "Deployment",
        service.name,
        version="apps/v1",
        labels=marks,
        spec={
            "replicas": stack.copies(release, service.name),
            "selector": {"matchLabels": _selector(names, service.name)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "progressDeadlineSeconds": max(10, int(seconds)),
            "revisionHistoryLimit": 2,
            "template": {"metadata": {"labels": marks}, "spec": _airflow_pod(names, service, release)},
        },
    )


def _airflow_pod(names: Names, service: ServiceSpec, release: Release) -> Object:
    configuration = release.configuration
    container = _airflow_container(names, release, service.name)
    container["args"] = ["run", "airflow", *service.command]
    if service.name == stack.API_SERVER:
        container["args"].append("--proxy-headers")
        container["lifecycle"] = {"preStop": {"exec": {"command": ["sleep", str(READ_SECONDS)]}}}
    if service is stack.JANITOR:
        keep = configuration.get("retention", {})
        days = [str(keep.get("logs", 0)), str(keep.get("history", 0))]
        container["args"] = [
            "run",
            "python3",
            f"{airflow.DEPLOYED_CODE}/janitor.py",
            f"{airflow.HOME}/logs",
            *days,
        ]
    if service.health:
        container |= _probes(service.health)
    is_worker = service.container == stack.WORKER
    if is_worker:
        container["args"] = stack.worker_program(service)
        container["readinessProbe"] = _probe(["test", "-s", stack.WORKER_READY], period=5, failures=1)
    needs = stack.WORKER if is_worker else service.name
    container["resources"] = _resources(needs, configuration["resources"].get(service.name))
    runs_tasks = is_worker or (service.name == "scheduler" and configuration["executor"] == LOCAL)
    grace = configuration["drain"] if runs_tasks else stack.GRACE_SECONDS + READ_SECONDS
    volumes = _airflow_volumes(release)
    account = "airflow"
    if configuration["executor"] == KUBERNETES and service.name in ("scheduler", stack.API_SERVER):
        account = service.name
    if configuration["executor"] == KUBERNETES and service.name == "scheduler":
        container["volumeMounts"].append({"name": "template", "mountPath": TEMPLATE_FOLDER, "readOnly": True})
        volumes.append({"name": "template", "configMap": {"name": template_name(release)}})
    if service.read_only:
        _make_read_only(container, volumes)
    pod = _pod(container, volumes, account=account, token=account != "airflow", grace=grace)
    of_release = {labels.RELEASE: str(release.serving)}
    if stack.copies(release, service.name) > 1:
        pod["topologySpreadConstraints"] = [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                # Of this release alone: those that it replaces stand in nobody's way.
                "labelSelector": {"matchLabels": {**_selector(names, service.name), **of_release}},
            }
        ]
    return pod


def task_template(names: Names, release: Release) -> str:
    """The pod of a task as KubernetesExecutor takes it, which adds name, image and command.

    A task gets what the DAGs may read and the user's secrets, but neither keys nor the database.
    """
    container = _airflow_container(names, release, "base")
    container["command"] = [*container["command"], "run"]
    environment = [each for each in container["env"] if each["name"] != airflow.EXECUTOR]
    container["env"] = [*environment, {"name": airflow.EXECUTOR, "value": "LocalExecutor"}]
    container["resources"] = _resources("task", release.configuration["resources"].get("task"))
    pod = _pod(
        container,
        _airflow_volumes(release, roles=(stack.USER,)),
        account="airflow",
        token=False,
        grace=stack.GRACE_SECONDS,
    )
    pod["restartPolicy"] = "Never"
    marks = {**names.labels, labels.KIND: TASK, labels.RELEASE: str(release.serving), MANAGED_BY: "astro"}
    template = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "task", "labels": marks}, "spec": pod}
    return json.dumps(template, indent=1, sort_keys=True)


def airflow_job(names: Names, role: str, release: Release, command: Sequence[str]) -> Object:
    """A Job that runs a command once in a release's image, with all of its environment."""
    container = _airflow_container(names, release, role)
    container["args"] = ["run", *command]
    return _job(names, role, _pod(container, _airflow_volumes(release), account="airflow"))


def image_job(names: Names, role: str, image: str) -> Object:
    """A Job that does nothing but have an image pulled."""
    container = {"name": role, "image": image, "command": ["true"], "securityContext": _locked()}
    return _job(names, role, _pod(container, [], account="airflow"))


def postgres_job(names: Names, role: str, release: Release, script: str) -> Object:
    """A Job that runs a shell script with Postgres' own programs; see `stack.postgres_command`."""
    volumes = [
        {"name": "backups", "persistentVolumeClaim": {"claimName": "backups"}},
        _secret_files("secrets", release, (stack.ADDRESS,)),
    ]
    container = {
        "name": role,
        "image": release.companions["postgres"],
        "args": stack.postgres_command(script),
        "env": [{"name": "HOME", "value": "/tmp"}],  # noqa: S108 - the container's
        "volumeMounts": [
            {"name": "backups", "mountPath": "/backups"},
            {"name": "secrets", "mountPath": stack.SECRET_FOLDER, "readOnly": True},
        ],
        "securityContext": _locked(),
    }
    _make_read_only(container, volumes)
    return _job(
        names, role, _pod(container, volumes, account="airflow", user=POSTGRES_GROUP, group=POSTGRES_GROUP)
    )


def secret(name: str, marks: Mapping[str, str], notes: Mapping[str, str], value: str) -> Object:
    """A secret of a role; it never changes."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "labels": dict(marks), "annotations": dict(notes)},
        "type": "Opaque",
        "immutable": True,
        "stringData": {"value": value},
    }


def registry_secret(names: Names, host: str, username: str, password: str, authority: str) -> Object:
    """The registry's login, for the nodes and for what reads the DAGs there."""
    key = HUB_KEY if host == HUB else host
    logins = {"auths": {key: {"username": username, "password": password}}} if username else {"auths": {}}
    data = {DOCKER_FILE: json.dumps(logins)}
    if username:
        data[LOGIN_FILE] = json.dumps({"username": username, "password": password})
    if authority:
        data[AUTHORITY_FILE] = authority
    found = _object(names, "Secret", REGISTRY_SECRET, stringData=data)
    return {**found, "type": "kubernetes.io/dockerconfigjson"}


def certificate_secret(names: Names, pem: str, digest: str) -> Object:
    """The Ingress' certificate."""
    key = "".join(
        re.findall(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----\n?", pem, re.S)
    )
    chain = "".join(re.findall(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n?", pem, re.S))
    found = _object(names, "Secret", CERTIFICATE_SECRET, stringData={"tls.crt": chain, "tls.key": key})
    found["metadata"]["annotations"] = {CERTIFICATE_DIGEST: digest}
    return {**found, "type": "kubernetes.io/tls"}


def record(names: Names, release: Release) -> Object:
    """The ConfigMap in which a release is written down."""
    marks = {**_labels(names, kind=RECORD), labels.RELEASE: str(release.id)}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"release-{release.id:06d}", "labels": marks},
        "immutable": True,
        "data": {"release": release.to_json()},
    }


# parts


def _labels(names: Names, service: str = "", *, kind: str = OBJECT) -> dict[str, str]:
    marks = {**names.labels, labels.KIND: kind, MANAGED_BY: "astro"}
    return {**marks, labels.SERVICE: service, "app.kubernetes.io/component": service} if service else marks


def _selector(names: Names, service: str) -> dict[str, str]:
    return {**names.labels, labels.SERVICE: service}


def _object(
    names: Names,
    kind: str,
    name: str,
    *,
    version: str = "v1",
    labels: Mapping[str, str] | None = None,
    **parts: object,
) -> Object:
    metadata = {"name": name, "labels": {**_labels(names), **(labels or {})}}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **parts}


def _account(names: Names, name: str) -> Object:
    return _object(names, "ServiceAccount", name, automountServiceAccountToken=False)


def _rights(names: Names, name: str, rights: Mapping[str, Sequence[str]]) -> list[Object]:
    """An account that may do just this, in the deployment's namespace alone."""
    group = "rbac.authorization.k8s.io"
    rules = [{"apiGroups": [""], "resources": [what], "verbs": list(verbs)} for what, verbs in rights.items()]
    return [
        _account(names, name),
        _object(names, "Role", name, version=f"{group}/v1", rules=rules),
        _object(
            names,
            "RoleBinding",
            name,
            version=f"{group}/v1",
            roleRef={"apiGroup": group, "kind": "Role", "name": name},
            subjects=[{"kind": "ServiceAccount", "name": name}],
        ),
    ]


def _claim(names: Names, name: str, storage_class: str, size: str, *, mode: str = "ReadWriteOnce") -> Object:
    spec: Object = {"accessModes": [mode], "resources": {"requests": {"storage": size}}}
    if storage_class:
        spec["storageClassName"] = storage_class
    found = _object(names, "PersistentVolumeClaim", name, spec=spec)
    del found["metadata"]["labels"][labels.KIND]  # data is never pruned
    return found


def _service(names: Names, service: str, port: int, *, kind: str = "ClusterIP") -> Object:
    ports = [{"name": "main", "port": port, "targetPort": port, "protocol": "TCP"}]
    spec = {"type": kind, "selector": _selector(names, service), "ports": ports}
    return _object(names, "Service", service, spec=spec)


def _ingress(names: Names, publish: Mapping[str, Any]) -> Object:
    host = urlsplit(publish["base_url"]).hostname
    backend = {"service": {"name": stack.API_SERVER, "port": {"number": airflow.API_PORT}}}
    rule = {"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}
    spec: Object = {"ingressClassName": publish["ingress"], "rules": [rule]}
    if publish["certificate"]:
        spec["tls"] = [{"hosts": [host], "secretName": CERTIFICATE_SECRET}]
    return _object(names, "Ingress", "web", version="networking.k8s.io/v1", spec=spec)


def _budget(names: Names, service: str) -> Object:
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": _selector(names, service)}}
    return _object(names, "PodDisruptionBudget", service, version="policy/v1", spec=spec)


def _postgres(names: Names, release: Release) -> Object:
    image = release.companions["postgres"]
    volumes: list[Object] = [
        {"name": "data", "persistentVolumeClaim": {"claimName": "database"}},
        {"name": "settings", "configMap": {"name": "postgres"}},
        _secret_files("secrets", release, (stack.PASSWORD,)),
    ]
    fill: Object = {
        "name": "fill",
        "image": image,
        "args": ["sh", "-euc", _FILL],
        "volumeMounts": [{"name": "data", "mountPath": "/volume"}],
        "securityContext": {**_locked(), "readOnlyRootFilesystem": True},
    }
    container: Object = {
        "name": stack.POSTGRES,
        "image": image,
        "ports": [{"containerPort": 5432, "protocol": "TCP"}],
        "volumeMounts": [
            {"name": "data", "mountPath": _POSTGRES_DATA, "subPath": "data"},
            {
                "name": "settings",
                "mountPath": "/etc/postgresql/postgresql.conf",
                "subPath": "postgresql.conf",
            },
            {"name": "secrets", "mountPath": "/run/astro", "readOnly": True},
        ],
        "readinessProbe": _probe(["pg_isready", "-q", "-h", "/tmp", "-d", "airflow"], period=5, failures=6),  # noqa: S108
        "resources": _resources(stack.POSTGRES, release.configuration["resources"].get(stack.POSTGRES)),
        "securityContext": _locked(),
    }
    _make_read_only(container, volumes)
    pod = _pod(container, volumes, account="airflow", user=POSTGRES_GROUP, group=POSTGRES_GROUP, grace=60)
    pod["initContainers"] = [fill]
    return _kept(names, stack.POSTGRES, pod)


def _broker(names: Names, release: Release) -> Object:
    """The Redis between scheduler and workers; what waits to be run outlives it."""
    volumes: list[Object] = [
        {"name": "data", "persistentVolumeClaim": {"claimName": stack.BROKER}},
        _secret_files("secrets", release, (stack.BROKER_CONFIG,)),
    ]
    container: Object = {
        "name": stack.BROKER,
        "image": release.companions[stack.BROKER],
        "args": ["redis-server", f"{stack.SECRET_FOLDER}/{_FILES[stack.BROKER_CONFIG]}"],
        "ports": [{"containerPort": airflow.BROKER_PORT, "protocol": "TCP"}],
        "volumeMounts": [
            {"name": "data", "mountPath": "/data"},
            {"name": "secrets", "mountPath": stack.SECRET_FOLDER, "readOnly": True},
        ],
        "readinessProbe": _probe(["sh", "-c", stack.BROKER_ANSWERS], period=5, failures=6),
        "resources": _resources(stack.BROKER, None),
        "securityContext": _locked(),
    }
    _make_read_only(container, volumes)
    return _kept(names, stack.BROKER, _pod(container, volumes, account="airflow"))


def _kept(names: Names, service: str, pod: Object) -> Object:
    """One pod with a volume that no other may write to, and that no release replaces."""
    marks = _labels(names, service)
    spec = {
        "serviceName": service,
        "replicas": 1,
        "selector": {"matchLabels": _selector(names, service)},
        "template": {"metadata": {"labels": marks}, "spec": pod},
    }
    return _object(names, "StatefulSet", service, version="apps/v1", labels=marks, spec=spec)


def _job(names: Names, role: str, pod: Object) -> Object:
    pod["restartPolicy"] = "Never"
    marks = _labels(names, kind=JOB)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": role, "labels": marks},
        "spec": {"backoffLimit": 0, "template": {"metadata": {"labels": marks}, "spec": pod}},
    }


def _pod(
    container: Object,
    volumes: list[Object],
    *,
    account: str,
    token: bool = False,
    grace: int = stack.GRACE_SECONDS,
    user: int = airflow.UID,
    group: int = 0,
) -> Object:
    return {
        "serviceAccountName": account,
        "automountServiceAccountToken": token,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace,
        "imagePullSecrets": [{"name": REGISTRY_SECRET}],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": user,
            "runAsGroup": group,
            "fsGroup": group or AIRFLOW_GROUP,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": volumes,
    }


_AIRFLOW_ROLES = (stack.KEYS, stack.CONNECTION, stack.USER, stack.LOGIN, stack.BROKER)


def _airflow_container(names: Names, release: Release, name: str) -> Object:
    environment = environment_of(names, release)
    return {
        "name": name,
        "image": release.image,
        "command": ["/usr/bin/tini", "--", *stack.ENTRY],
        "env": [
            *({"name": key, "value": value} for key, value in sorted(environment.items())),
            {"name": NAMESPACE_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        ],
        "volumeMounts": [
            {"name": "secrets", "mountPath": stack.SECRET_FOLDER, "readOnly": True},
            {"name": "registry", "mountPath": REGISTRY_FOLDER, "readOnly": True},
            {"name": _logs(release)["name"], "mountPath": f"{airflow.HOME}/logs"},
        ],
        "securityContext": _locked(),
    }


def environment_of(names: Names, release: Release) -> dict[str, str]:
    """Plain variables of every Airflow process of a release."""
    own = {
        # A pod on a lost node is never seen to end: its task is tried again when it was not heard of for so long.
        **({airflow.HEARTBEAT_TIMEOUT: "120"} if release.configuration["executor"] == KUBERNETES else {}),
        **stack.airflow_environment(names, release, _dags(release)),
    }
    if release.configuration["executor"] == KUBERNETES:
        own |= {
            airflow.EXECUTOR: "KubernetesExecutor",
            "AIRFLOW__KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE": f"{TEMPLATE_FOLDER}/pod.yaml",
        }
    return own


def _dags(release: Release) -> dict[str, str]:
    """Where a release's services read their DAGs: in the repository of its images."""
    authority = f"{REGISTRY_FOLDER}/{AUTHORITY_FILE}" if release.configuration["registry_authority"] else ""
    login = f"{REGISTRY_FOLDER}/{LOGIN_FILE}"
    return registry_source(release.configuration["registry"], credentials=login, ca=authority)


def _airflow_volumes(release: Release, *, roles: Sequence[str] = _AIRFLOW_ROLES) -> list[Object]:
    return [
        _secret_files("secrets", release, roles),
        {"name": "registry", "secret": {"secretName": REGISTRY_SECRET}},
        _logs(release),
    ]


def _logs(release: Release) -> Object:
    """The volume for task logs; two kinds have two names, or Kubernetes 1.20 would merge one into the other."""
    if release.configuration["storage"]["logs"]:
        return {"name": "shared-logs", "persistentVolumeClaim": {"claimName": "logs"}}
    return {"name": "logs", "emptyDir": {}}


def _secret_files(name: str, release: Release, roles: Sequence[str]) -> Object:
    """Each secret as a file, as on an engine; the group of the pod may read them, nobody else."""
    sources = [
        {"secret": {"name": release.secrets[role], "items": [{"key": "value", "path": _FILES[role]}]}}
        for role in roles
        if role in release.secrets
    ]
    return {"name": name, "projected": {"defaultMode": 0o440, "sources": sources}}


def _make_read_only(container: Object, volumes: list[Object]) -> None:
    """Nothing can be written but volumes and /tmp, which lives in memory."""
    container["securityContext"] = {**container["securityContext"], "readOnlyRootFilesystem": True}
    container["volumeMounts"].append({"name": "tmp", "mountPath": "/tmp"})  # noqa: S108 - the container's
    volumes.append(
        {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": f"{stack.TMP_BYTES // 1024**2}Mi"}}
    )


def _locked() -> Object:
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def _resources(service: str, limits: Sequence[float | None] | None) -> Object:
    """What a service needs at least, and may take at most."""
    memory, cpus = limits or (None, None)
    most = {"memory": str(int(memory)) if memory else None, "cpu": f"{int(cpus * 1000)}m" if cpus else None}
    least = {"memory": f"{MEMORY.get(service, 256)}Mi", "cpu": "100m"}
    given = {key: value for key, value in most.items() if value}
    return {"requests": {**least, **given}, **({"limits": given} if given else {})}


def _probes(health: str) -> Object:
    parts = urlsplit(health)
    get = {"httpGet": {"path": parts.path, "port": parts.port, "scheme": "HTTP"}}
    return {
        "ports": [{"containerPort": parts.port, "protocol": "TCP"}],
        "startupProbe": {**get, "periodSeconds": 5, "timeoutSeconds": 15, "failureThreshold": 60},
        "readinessProbe": {**get, "periodSeconds": 5, "timeoutSeconds": 15, "failureThreshold": 3},
        "livenessProbe": {**get, "periodSeconds": 20, "timeoutSeconds": 15, "failureThreshold": 6},
    }


def _probe(command: Sequence[str], *, period: int, failures: int) -> Object:
    seconds = {"periodSeconds": period, "timeoutSeconds": 5, "failureThreshold": failures}
    return {"exec": {"command": list(command)}, **seconds}
