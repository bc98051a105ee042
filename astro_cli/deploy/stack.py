"""What a release is on an engine in swarm mode: services, networks and secrets, rendered from the table. Pure.

The JSON is that of the Engine API (https://docs.docker.com/engine/api/v1.41/#tag/Service). Services find each other
by DNS (`dnsrr`), never by virtual addresses, which need a kernel module that not every machine has.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from astro_cli.deploy.dag_bundle import bundle_environment, registry_source
from astro_cli.deploy.swarm.proxy import CERTIFICATE_FILE, PROXY
from astro_cli.deploy.swarm.proxy import FOLDER as PROXY_FOLDER
from astro_cli.deploy.swarm.proxy import PORT as PROXY_PORT
from astro_cli.deploy.swarm.proxy import USER_ID as PROXY_UID
from astro_cli.domain import airflow
from astro_cli.domain.deployments import BUNDLED, CELERY, KUBERNETES, SWARM
from astro_cli.domain.edge import queues_of
from astro_cli.domain.services import SERVICES, ServiceSpec
from astro_cli.foundation import labels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from astro_cli.domain.releases import Release

SECOND = 1_000_000_000
POSTGRES = "postgres"
API_SERVER = "api-server"
ENTRY = ("python3", f"{airflow.DEPLOYED_CODE}/entry.py")
AIRFLOW_USER, AIRFLOW_UID, POSTGRES_UID = f"{airflow.UID}:0", str(airflow.UID), "999"
GRACE_SECONDS = 30
START_SECONDS = 600
"""A busy machine is slow, not dead: how long a service may take to start is for `--wait` to say."""
DATA_FOLDER, POSTGRES_ENTRY = "/var/lib/postgresql/data", "/usr/local/bin/postgres-entrypoint"
DAGS_FOLDER = "/run/astro/dags"
"""Where containers see the published versions of the DAGs."""
TMP_BYTES = 256 * 1024**2
SECRET_FOLDER = "/run/secrets/astro"  # noqa: S105 - a folder
SPREAD = "node.labels.zone"
"""Copies of a service are in different zones, where nodes are labelled so; on different nodes they are anyway."""
LOG_DRIVER = {"Name": "json-file", "Options": {"max-size": "10m", "max-file": "3"}}

# Roles of secrets. Each is one file in the containers that need it.
KEYS = "keys"
"""JSON: Fernet, JWT and API keys; made once."""
CONNECTION = "connection"
"""JSON: the SQLAlchemy address of the metadata database."""
USER = "environment"
"""JSON: the user's own secrets."""
LOGIN = "login"
"""JSON: the admin's password."""
PASSWORD = "database"  # noqa: S105 - a role
"""The bundled database's password."""
ADDRESS = "address"
"""The database's address for Postgres' own programs, and its password in a second line."""
BROKER = "broker"
"""JSON: how Celery reaches its broker."""
BROKER_CONFIG = "broker-config"
"""The broker's own configuration, which has its password."""
REGISTRY = "registry"
"""JSON: the login with which services fetch the DAGs."""
AUTHORITY = "authority"
"""PEM: who signed the registry's certificate."""
CERTIFICATE = "certificate"
"""PEM: chain and key of the web UI's address, where the proxy is a service."""
RELEASED = (USER, REGISTRY, AUTHORITY, CERTIFICATE)
"""Those of which each release may have another; the others are the deployment's own."""

_AIRFLOW_SECRETS = {
    KEYS: f"{SECRET_FOLDER}/keys.json",
    CONNECTION: f"{SECRET_FOLDER}/connection.json",
    USER: f"{SECRET_FOLDER}/user.json",
    LOGIN: f"{SECRET_FOLDER}/login",
    BROKER: f"{SECRET_FOLDER}/broker.json",
    REGISTRY: f"{SECRET_FOLDER}/registry",
    AUTHORITY: f"{SECRET_FOLDER}/authority",
}
BROKER_ANSWERS = "redis-cli ping | grep -q -e PONG -e NOAUTH"
"""Whoever does not know the password is answered as well."""
WORKER_READY = "/run/astro/status.json"
LOG_HOST = "logs-{{.Node.Hostname}}"
"""On each node the log server has this name; the engine fills the template in."""


@dataclass(frozen=True)
class Names:
    """How everything of one deployment is called on its engine.

    Attributes:
        project_id: of the project; two projects may share an engine, and names that clash are refused.
    """

    project_id: str
    project_name: str
    deployment: str

    @property
    def prefix(self) -> str:
        """Begins every name; also the network."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.project_name.lower()).strip("-")[:16].strip("-")
        return f"{slug or 'project'}-{self.deployment}"

    def of(self, what: str) -> str:
        """A service, volume, secret, config or container."""
        return f"{self.prefix}-{what}"

    @property
    def labels(self) -> dict[str, str]:
        """By which everything of the deployment is found."""
        return {labels.PROJECT: self.project_id, labels.DEPLOYMENT: self.deployment}


JANITOR = ServiceSpec("janitor", "janitor", read_only=True)
"""Only deployments have it: removes old logs and history (`inside/janitor.py`)."""


LOG_SERVER = ServiceSpec("log-server", "log-server", read_only=True)
"""On each of several nodes (`inside/log_server.py`); also the place from which astro looks into a deployment."""
WORKER = "worker"


def is_spread(release: Release) -> bool:
    """Whether the services of a release are on several nodes, which share neither volumes nor a loopback."""
    return bool(release.configuration.get("target") == SWARM)


def has_workers(release: Release) -> bool:
    """Whether Celery's workers run the tasks of a release."""
    return bool(release.configuration["executor"] == CELERY)


def keeps_edge_logs(release: Release) -> bool:
    """Whether the api-servers write what tasks outside log, and so must share one node's volume of logs."""
    remote = release.configuration["env"].get("AIRFLOW__LOGGING__REMOTE_LOGGING", "")
    return bool(release.configuration.get("edge")) and remote.lower() not in ("true", "t", "1")


def has_own_logs(release: Release) -> bool:
    """Whether each worker keeps the logs of its tasks to itself, and hands them out."""
    configuration = release.configuration
    return bool(configuration.get("target") == KUBERNETES and not configuration["storage"]["logs"])


def copies(release: Release, service: str) -> int:
    """How many of a service, or of a group of workers, a release wants."""
    configuration = release.configuration
    group = configuration.get("workers", {}).get(service)
    return int(group["count"] if group else configuration["replicas"].get(service, 1))


def data_label(names: Names) -> str:
    """The label of the node on which a deployment's database, broker and backups are."""
    return f"astro.data.{names.prefix}"


def services_of(release: Release) -> tuple[ServiceSpec, ...]:
    """All that a release replaces: the barrier of all others first, the workers last."""
    api_server, *others = (row for row in airflow_services() if is_part_of(row, release))
    groups = release.configuration.get("workers", {})
    return (
        api_server,
        *((LOG_SERVER,) if is_spread(release) else ()),
        *others,
        *(
            ServiceSpec(name, WORKER, _worker_command(group, serves=has_own_logs(release)))
            for name, group in groups.items()
        ),
    )


def _worker_command(group: Mapping[str, Any], *, serves: bool) -> tuple[str, ...]:
    """Nobody asks the workers to know each other; most logs lie where somebody else serves them."""
    queues = ("--queues", ",".join(group["queues"])) if group["queues"] else ()
    return (
        *("celery", "worker", "--concurrency", str(group["concurrency"]), *queues),
        *(() if serves else ("--skip-serve-logs",)),
        *("--without-mingle", "--without-gossip"),
    )


def worker_program(service: ServiceSpec) -> list[str]:
    """What a worker's container runs: Airflow's command, which says in `WORKER_READY` when it takes tasks."""
    program = f"{airflow.DEPLOYED_CODE.rpartition('/')[0]}/worker.py"
    return ["run", "python3", program, WORKER_READY.rpartition("/")[0], *service.command]


def airflow_services() -> tuple[ServiceSpec, ...]:
    """The rows of the table that a release replaces, the barrier of all others first."""
    return (*(service for service in SERVICES if service.name != POSTGRES), JANITOR)


def is_part_of(service: ServiceSpec, release: Release) -> bool:
    """Whether a release has a service; the image of one that an older astro made may know nothing of it."""
    return service is not JANITOR or "retention" in release.configuration


def airflow_environment(names: Names, release: Release) -> dict[str, str]:
    """Plain variables of every Airflow process of a release."""
    configuration = release.configuration
    publish = configuration["publish"]
    celery = airflow.celery_environment() if has_workers(release) else {}
    spread = airflow.many_nodes_environment(LOG_HOST) if is_spread(release) else {}
    if has_workers(release) and has_own_logs(release):
        spread = airflow.reachable_by_address_environment()
    reserved = airflow.CELERY_RESERVED if has_workers(release) else ()
    edge: dict[str, str] = {}
    if groups := configuration.get("edge"):
        executor = celery.get(airflow.EXECUTOR, airflow.LOCAL_EXECUTOR)
        edge = airflow.edge_environment(executor, queues_of(groups))
    return {
        **airflow.deployed_environment(
            instance_name=f"{names.project_name} {names.deployment}",
            base_url=publish["base_url"],
            parallelism=configuration["parallelism"],
            user={name: value for name, value in configuration["env"].items() if name not in reserved},
            shape={**celery, **spread, **edge},
        ),
        **bundle_environment(dags_tag(names, release), **dags_source(release)),
        "ASTRO_DEPLOYMENT": names.prefix,
        "ASTRO_RELEASE": str(release.serving),
    }


def dags_tag(names: Names, release: Release) -> str:
    """Names the version of the DAGs that the services of a release take."""
    # Several deployments may share a repository.
    return f"dags-{names.prefix}-{release.serving}" if is_spread(release) else f"release-{release.serving}"


def dags_source(release: Release) -> dict[str, str]:
    """Where the services of a release find the versions of the DAGs; see `bundle_environment`."""
    if not is_spread(release):
        return {"folder": DAGS_FOLDER}
    files = {"credentials": REGISTRY, "ca": AUTHORITY}
    return registry_source(
        release.configuration["registry"],
        **{option: _AIRFLOW_SECRETS[role] for option, role in files.items() if role in release.secrets},
    )


def airflow_service(
    names: Names, service: ServiceSpec, release: Release, ids: Mapping[str, str]
) -> dict[str, Any]:
    """The service of one row.

    Args:
        ids: the engine's id of every secret, by its name.
    """
    configuration = release.configuration
    container = _airflow_container(names, release, ids)
    container["Args"] = [*ENTRY, "run", "airflow", *service.command]
    keep = configuration.get("retention", {})
    logs, log_days, history_days = (
        f"{airflow.HOME}/logs",
        str(keep.get("logs", 0)),
        str(keep.get("history", 0)),
    )
    if service is LOG_SERVER:
        program = f"{airflow.DEPLOYED_CODE}/log_server.py"
        container["Args"] = [*ENTRY, "run", "python3", program, logs, log_days]
        container["Hostname"] = LOG_HOST
        container["Healthcheck"] = _health(f"http://127.0.0.1:{airflow.LOG_SERVER_PORT}/docs")
    if service is JANITOR:
        program = f"{airflow.DEPLOYED_CODE}/janitor.py"
        rest = ("0", history_days) if is_spread(release) else (log_days, history_days, DAGS_FOLDER)
        container["Args"] = [*ENTRY, "run", "python3", program, logs, *rest]
        container["Mounts"] = [{**mount, "ReadOnly": False} for mount in container["Mounts"]]
    if service.container == WORKER:
        container["Args"] = [*ENTRY, *worker_program(service)]
        container["Healthcheck"] = _health_of("test", "-s", WORKER_READY)
    if service.name == API_SERVER:
        container["Args"].append("--proxy-headers")
    if service.health:
        container["Healthcheck"] = _health(service.health)
    if service.read_only:
        _make_read_only(container)
    runs_tasks = service.container == WORKER or (service.name == "scheduler" and not has_workers(release))
    container["StopGracePeriod"] = (configuration["drain"] if runs_tasks else GRACE_SECONDS) * SECOND
    made = _service(
        names,
        service.name,
        container,
        release=release,
        order="start-first",
        replicas=copies(release, service.name),
        limits=configuration["resources"].get(service.name),
    )
    if service is LOG_SERVER:
        _put_on_each_node(made)
    elif service.name == API_SERVER and keeps_edge_logs(release):
        _put_beside_data(made, names, release)
    elif is_spread(release):
        made["TaskTemplate"]["Placement"] = {"Preferences": [{"Spread": {"SpreadDescriptor": SPREAD}}]}
    return made


def broker_service(names: Names, release: Release, ids: Mapping[str, str]) -> dict[str, Any]:
    """The Redis between scheduler and workers."""
    config = f"{SECRET_FOLDER}/redis.conf"
    container = {
        "Image": release.companions[BROKER],
        "Labels": names.labels,
        "User": AIRFLOW_USER,
        "Args": ["redis-server", config],
        "Mounts": [_volume(names, BROKER, "/data")],
        "Secrets": [_secret(BROKER_CONFIG, config, release, ids, AIRFLOW_UID)],
        "CapabilityDrop": ["ALL"],
        "StopGracePeriod": GRACE_SECONDS * SECOND,
        "Healthcheck": _health_of("sh", "-c", BROKER_ANSWERS),
    }
    _make_read_only(container)
    made = _service(names, BROKER, container, release=None)
    if release.configuration["database"] == BUNDLED:
        _put_beside_data(made, names, release)
    return made


def proxy_service(
    names: Names, release: Release, ids: Mapping[str, str], *, config: tuple[str, str]
) -> dict[str, Any]:
    """The proxy on each of several nodes, so that with one of them no entrance is lost.

    Args:
        config: name and id of the engine's config with its configuration.
    """
    container = {
        "Image": release.companions[PROXY],
        "Labels": names.labels,
        "User": f"{PROXY_UID}:{PROXY_UID}",
        "Configs": [_config(config, f"{PROXY_FOLDER}/haproxy.cfg")],
        "CapabilityDrop": ["ALL"],
        "StopGracePeriod": 10 * SECOND,
    }
    if CERTIFICATE in release.secrets:
        container["Secrets"] = [_secret(CERTIFICATE, CERTIFICATE_FILE, release, ids, str(PROXY_UID))]
    made = _service(names, PROXY, container, release=None)
    port = {"Protocol": "tcp", "TargetPort": PROXY_PORT, "PublishMode": "host"}
    made["EndpointSpec"]["Ports"] = [{**port, "PublishedPort": release.configuration["publish"]["port"]}]
    _put_on_each_node(made)
    return made


def pull_service(names: Names, image: str) -> dict[str, Any]:
    """Lets every node have an image: a container on each, which does nothing."""
    container = {"Image": image, "Labels": names.labels, "Command": ["sleep"], "Args": ["infinity"]}
    made = _job(names, "pull", {**container, "CapabilityDrop": ["ALL"], "StopGracePeriod": 0})
    del made["TaskTemplate"]["Networks"]
    _put_on_each_node(made)
    return made


def _put_on_each_node(service: dict[str, Any]) -> None:
    service["Mode"] = {"Global": {}}
    if "UpdateConfig" in service:
        service["UpdateConfig"]["Order"] = "stop-first"


def _put_beside_data(service: dict[str, Any], names: Names, release: Release) -> None:
    """Where its volume is; on a single node that is no question."""
    if is_spread(release):
        service["TaskTemplate"]["Placement"] = {"Constraints": [f"node.labels.{data_label(names)}==true"]}


def airflow_job(
    names: Names, role: str, release: Release, ids: Mapping[str, str], command: Sequence[str]
) -> dict[str, Any]:
    """A job that runs a command once in a release's image, with all of its environment."""
    container = _airflow_container(names, release, ids)
    container["Args"] = [*ENTRY, "run", *command]
    return _job(names, role, container)


def postgres_service(
    names: Names, release: Release, ids: Mapping[str, str], *, config: tuple[str, str]
) -> dict[str, Any]:
    """The bundled database.

    Args:
        config: name and id of the engine's config that holds the server's settings.
    """
    container: dict[str, Any] = {
        "Image": release.companions["postgres"],
        "Labels": names.labels,
        "User": f"{POSTGRES_UID}:{POSTGRES_UID}",
        "Mounts": [_volume(names, "database", DATA_FOLDER)],
        "Secrets": [_secret(PASSWORD, "/run/astro/password", release, ids, POSTGRES_UID)],
        "Configs": [_config(config, "/etc/postgresql/postgresql.conf")],
        "CapabilityDrop": ["ALL"],
        "StopGracePeriod": 60 * SECOND,
        "Healthcheck": {
            "Test": ["CMD", "pg_isready", "-q", "-h", "/tmp", "-d", "airflow"],  # noqa: S108 - the container's
            "Interval": 5 * SECOND,
            "Timeout": 5 * SECOND,
            "Retries": 6,
            "StartPeriod": 60 * SECOND,
        },
    }
    if is_spread(release):
        # A node that was cut off starts its new task while the old one still runs, and in another container neither
        # sees the other: both would write to the same files.
        container["Command"] = ["flock", "--no-fork", f"{DATA_FOLDER}/astro.lock", POSTGRES_ENTRY]
        container["Healthcheck"]["StartPeriod"] = START_SECONDS * SECOND
    _make_read_only(container)
    made = _service(
        names, POSTGRES, container, release=None, limits=release.configuration["resources"].get(POSTGRES)
    )
    _put_beside_data(made, names, release)
    return made


def postgres_job(
    names: Names, role: str, release: Release, ids: Mapping[str, str], script: str
) -> dict[str, Any]:
    """A job that runs a shell script with Postgres' own programs; see `postgres_command`."""
    container = {
        "Image": release.companions["postgres"],
        "Labels": names.labels,
        "User": f"{POSTGRES_UID}:{POSTGRES_UID}",
        "Args": postgres_command(script),
        "Mounts": [_volume(names, "backups", "/backups")],
        "Secrets": [_secret(ADDRESS, f"{SECRET_FOLDER}/address", release, ids, POSTGRES_UID)],
        "CapabilityDrop": ["ALL"],
    }
    made = _job(names, role, container)
    _put_beside_data(made, names, release)
    return made


def postgres_command(script: str) -> list[str]:
    """Runs a shell script in which the database's address is `$DATABASE`.

    The password is in the environment: arguments can be read by everybody on the machine.
    """
    read = (
        f"{{ read -r DATABASE || :; read -r PGPASSWORD || :; }} <{SECRET_FOLDER}/address; export PGPASSWORD"
    )
    return ["sh", "-euc", f"umask 077; {read}; {script}"]


def _make_read_only(container: dict[str, Any]) -> None:
    """Nothing can be written but volumes and /tmp, which lives in memory."""
    container["ReadOnly"] = True
    memory = {"Type": "tmpfs", "Target": "/tmp", "TmpfsOptions": {"SizeBytes": TMP_BYTES}}  # noqa: S108
    container["Mounts"] = [*container["Mounts"], memory]


def _airflow_container(names: Names, release: Release, ids: Mapping[str, str]) -> dict[str, Any]:
    environment = airflow_environment(names, release)
    return {
        "Image": release.image,
        "Labels": {**names.labels, labels.RELEASE: str(release.serving)},
        "Env": [f"{name}={value}" for name, value in sorted(environment.items())],
        "User": AIRFLOW_USER,
        "Mounts": [
            _volume(names, "logs", f"{airflow.HOME}/logs"),
            *([] if is_spread(release) else [{**_volume(names, "dags", DAGS_FOLDER), "ReadOnly": True}]),
        ],
        "Secrets": [
            _secret(role, path, release, ids, AIRFLOW_UID)
            for role, path in _AIRFLOW_SECRETS.items()
            if role in release.secrets
        ],
        "CapabilityDrop": ["ALL"],
    }


def _service(
    names: Names,
    service: str,
    container: Mapping[str, Any],
    *,
    release: Release | None,
    order: str = "stop-first",
    replicas: int = 1,
    limits: Sequence[float | None] | None = None,
) -> dict[str, Any]:
    marks = {**names.labels, labels.SERVICE: service}
    if release is not None:
        marks[labels.RELEASE] = str(release.serving)
    memory, cpus = limits or (None, None)
    most = {"MemoryBytes": memory, "NanoCPUs": int(cpus * SECOND) if cpus else None}
    return {
        "Name": names.of(service),
        "Labels": marks,
        "TaskTemplate": {
            "ContainerSpec": container,
            "Resources": {"Limits": {key: value for key, value in most.items() if value}},
            "RestartPolicy": {"Condition": "any", "Delay": 3 * SECOND},
            "Networks": [{"Target": names.prefix, "Aliases": [service]}],
            "LogDriver": LOG_DRIVER,
        },
        "Mode": {"Replicated": {"Replicas": replicas}},
        # What has to be undone is undone for the whole release, so an engine must not undo one service alone.
        "UpdateConfig": {"Parallelism": 1, "Order": order, "FailureAction": "pause", "Monitor": SECOND},
        "EndpointSpec": {"Mode": "dnsrr"},
    }


def _job(names: Names, role: str, container: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "Name": names.of(role),
        "Labels": {**names.labels, labels.KIND: "job"},
        "TaskTemplate": {
            "ContainerSpec": container,
            "RestartPolicy": {"Condition": "none"},
            "Networks": [{"Target": names.prefix}],
            "LogDriver": LOG_DRIVER,
        },
        "Mode": {"ReplicatedJob": {"MaxConcurrent": 1, "TotalCompletions": 1}},
    }


def _volume(names: Names, what: str, target: str) -> dict[str, Any]:
    return {
        "Type": "volume",
        "Source": names.of(what),
        "Target": target,
        "VolumeOptions": {"Labels": names.labels},
    }


def _secret(role: str, path: str, release: Release, ids: Mapping[str, str], uid: str) -> dict[str, Any]:
    name = release.secrets[role]
    return {
        "SecretID": ids[name],
        "SecretName": name,
        "File": {"Name": path, "UID": uid, "GID": "0", "Mode": 0o400},
    }


def _config(config: tuple[str, str], path: str) -> dict[str, Any]:
    name, config_id = config
    return {
        "ConfigID": config_id,
        "ConfigName": name,
        "File": {"Name": path, "UID": "0", "GID": "0", "Mode": 0o444},
    }


def _health(url: str) -> dict[str, Any]:
    return _health_of(*ENTRY, "health", url)


def _health_of(*command: str) -> dict[str, Any]:
    return {
        "Test": ["CMD", *command],
        "Interval": 5 * SECOND,
        "Timeout": 15 * SECOND,
        "Retries": 6,
        "StartPeriod": START_SECONDS * SECOND,
    }
