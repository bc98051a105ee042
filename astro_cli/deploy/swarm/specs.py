"""The services and jobs of a release, as the Engine API of an engine in swarm mode takes them. Pure.

The JSON is that of https://docs.docker.com/engine/api/v1.41/#tag/Service. Services find each other by DNS
(`dnsrr`), never by virtual addresses, which need a kernel module that not every machine has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from astro_cli.deploy import stack
from astro_cli.deploy.dag_bundle import registry_source
from astro_cli.deploy.swarm.proxy import CERTIFICATE_FILE, PROXY
from astro_cli.deploy.swarm.proxy import FOLDER as PROXY_FOLDER
from astro_cli.deploy.swarm.proxy import PORT as PROXY_PORT
from astro_cli.deploy.swarm.proxy import USER_ID as PROXY_UID
from astro_cli.domain import airflow
from astro_cli.domain.deployments import BUNDLED
from astro_cli.foundation import labels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from astro_cli.deploy.stack import Names
    from astro_cli.domain.releases import Release
    from astro_cli.domain.services import ServiceSpec

SECOND = 1_000_000_000
START_SECONDS = 600
"""A busy machine is slow, not dead: how long a service may take to start is for `--wait` to say."""
SPREAD = "node.labels.zone"
"""Copies of a service are in different zones, where nodes are labelled so; on different nodes they are anyway."""
AIRFLOW_UID = str(airflow.UID)
DATA_FOLDER, POSTGRES_ENTRY = "/var/lib/postgresql/data", "/usr/local/bin/postgres-entrypoint"
LOG_DRIVER = {"Name": "json-file", "Options": {"max-size": "10m", "max-file": "3"}}


def data_label(names: Names) -> str:
    """The label of the node on which a deployment's database, broker and backups are."""
    return f"astro.data.{names.prefix}"


def airflow_service(
    names: Names, service: ServiceSpec, release: Release, ids: Mapping[str, str]
) -> dict[str, Any]:
    """The service of one row.

    Args:
        ids: the engine's id of every secret, by its name.
    """
    configuration = release.configuration
    container = _airflow_container(names, release, ids)
    container["Args"] = [*stack.ENTRY, "run", "airflow", *service.command]
    keep = configuration.get("retention", {})
    logs, log_days, history_days = (
        f"{airflow.HOME}/logs",
        str(keep.get("logs", 0)),
        str(keep.get("history", 0)),
    )
    if service is stack.LOG_SERVER:
        program = f"{airflow.DEPLOYED_CODE}/log_server.py"
        container["Args"] = [*stack.ENTRY, "run", "python3", program, logs, log_days]
        container["Hostname"] = stack.LOG_HOST
        container["Healthcheck"] = _health(f"http://127.0.0.1:{airflow.LOG_SERVER_PORT}/docs")
    if service is stack.JANITOR:
        program = f"{airflow.DEPLOYED_CODE}/janitor.py"
        rest = (
            ("0", history_days) if stack.is_spread(release) else (log_days, history_days, stack.DAGS_FOLDER)
        )
        container["Args"] = [*stack.ENTRY, "run", "python3", program, logs, *rest]
        container["Mounts"] = [{**mount, "ReadOnly": False} for mount in container["Mounts"]]
    if service.container == stack.WORKER:
        container["Args"] = [*stack.ENTRY, *stack.worker_program(service)]
        container["Healthcheck"] = _health_of("test", "-s", stack.WORKER_READY)
    if service.name == stack.API_SERVER:
        container["Args"].append("--proxy-headers")
    if service.health:
        container["Healthcheck"] = _health(service.health)
    if service.read_only:
        _make_read_only(container)
    runs_tasks = service.container == stack.WORKER or (
        service.name == "scheduler" and not stack.has_workers(release)
    )
    container["StopGracePeriod"] = (configuration["drain"] if runs_tasks else stack.GRACE_SECONDS) * SECOND
    made = _service(
        names,
        service.name,
        container,
        release=release,
        order="start-first",
        replicas=stack.copies(release, service.name),
        limits=configuration["resources"].get(service.name),
    )
    if service is stack.LOG_SERVER:
        _put_on_each_node(made)
    elif service.name == stack.API_SERVER and stack.keeps_edge_logs(release):
        _put_beside_data(made, names, release)
    elif stack.is_spread(release):
        made["TaskTemplate"]["Placement"] = {"Preferences": [{"Spread": {"SpreadDescriptor": SPREAD}}]}
    return made


def broker_service(names: Names, release: Release, ids: Mapping[str, str]) -> dict[str, Any]:
    """The Redis between scheduler and workers."""
    config = f"{stack.SECRET_FOLDER}/redis.conf"
    container = {
        "Image": release.companions[stack.BROKER],
        "Labels": names.labels,
        "User": stack.AIRFLOW_USER,
        "Args": ["redis-server", config],
        "Mounts": [_volume(names, stack.BROKER, "/data")],
        "Secrets": [_secret(stack.BROKER_CONFIG, config, release, ids, AIRFLOW_UID)],
        "CapabilityDrop": ["ALL"],
        "StopGracePeriod": stack.GRACE_SECONDS * SECOND,
        "Healthcheck": _health_of("sh", "-c", stack.BROKER_ANSWERS),
    }
    _make_read_only(container)
    made = _service(names, stack.BROKER, container, release=None)
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
    if stack.CERTIFICATE in release.secrets:
        container["Secrets"] = [_secret(stack.CERTIFICATE, CERTIFICATE_FILE, release, ids, str(PROXY_UID))]
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
    if stack.is_spread(release):
        service["TaskTemplate"]["Placement"] = {"Constraints": [f"node.labels.{data_label(names)}==true"]}


def airflow_job(
    names: Names, role: str, release: Release, ids: Mapping[str, str], command: Sequence[str]
) -> dict[str, Any]:
    """A job that runs a command once in a release's image, with all of its environment."""
    container = _airflow_container(names, release, ids)
    container["Args"] = [*stack.ENTRY, "run", *command]
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
        "User": f"{stack.POSTGRES_UID}:{stack.POSTGRES_UID}",
        "Mounts": [_volume(names, "database", DATA_FOLDER)],
        "Secrets": [_secret(stack.PASSWORD, "/run/astro/password", release, ids, stack.POSTGRES_UID)],
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
    if stack.is_spread(release):
        # A node that was cut off starts its new task while the old one still runs, and in another container neither
        # sees the other: both would write to the same files.
        container["Command"] = ["flock", "--no-fork", f"{DATA_FOLDER}/astro.lock", POSTGRES_ENTRY]
        container["Healthcheck"]["StartPeriod"] = START_SECONDS * SECOND
    _make_read_only(container)
    made = _service(
        names,
        stack.POSTGRES,
        container,
        release=None,
        limits=release.configuration["resources"].get(stack.POSTGRES),
    )
    _put_beside_data(made, names, release)
    return made


def postgres_job(
    names: Names, role: str, release: Release, ids: Mapping[str, str], script: str
) -> dict[str, Any]:
    """A job that runs a shell script with Postgres' own programs; see `stack.postgres_command`."""
    container = {
        "Image": release.companions["postgres"],
        "Labels": names.labels,
        "User": f"{stack.POSTGRES_UID}:{stack.POSTGRES_UID}",
        "Args": stack.postgres_command(script),
        "Mounts": [_volume(names, "backups", "/backups")],
        "Secrets": [
            _secret(stack.ADDRESS, f"{stack.SECRET_FOLDER}/address", release, ids, stack.POSTGRES_UID)
        ],
        "CapabilityDrop": ["ALL"],
    }
    made = _job(names, role, container)
    _put_beside_data(made, names, release)
    return made


def _make_read_only(container: dict[str, Any]) -> None:
    """Nothing can be written but volumes and /tmp, which lives in memory."""
    container["ReadOnly"] = True
    memory = {"Type": "tmpfs", "Target": "/tmp", "TmpfsOptions": {"SizeBytes": stack.TMP_BYTES}}  # noqa: S108
    container["Mounts"] = [*container["Mounts"], memory]


def _dags(release: Release) -> dict[str, str]:
    """Where the services of a release find the versions of the DAGs; see `bundle_environment`."""
    if not stack.is_spread(release):
        return {"folder": stack.DAGS_FOLDER}
    files = {"credentials": stack.REGISTRY, "ca": stack.AUTHORITY}
    return registry_source(
        release.configuration["registry"],
        **{option: stack.SECRET_FILES[role] for option, role in files.items() if role in release.secrets},
    )


def _airflow_container(names: Names, release: Release, ids: Mapping[str, str]) -> dict[str, Any]:
    environment = stack.airflow_environment(names, release, _dags(release))
    return {
        "Image": release.image,
        "Labels": {**names.labels, labels.RELEASE: str(release.serving)},
        "Env": [f"{name}={value}" for name, value in sorted(environment.items())],
        "User": stack.AIRFLOW_USER,
        "Mounts": [
            _volume(names, "logs", f"{airflow.HOME}/logs"),
            *(
                []
                if stack.is_spread(release)
                else [{**_volume(names, "dags", stack.DAGS_FOLDER), "ReadOnly": True}]
            ),
        ],
        "Secrets": [
            _secret(role, path, release, ids, AIRFLOW_UID)
            for role, path in stack.SECRET_FILES.items()
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
    return _health_of(*stack.ENTRY, "health", url)


def _health_of(*command: str) -> dict[str, Any]:
    return {
        "Test": ["CMD", *command],
        "Interval": 5 * SECOND,
        "Timeout": 15 * SECOND,
        "Retries": 6,
        "StartPeriod": START_SECONDS * SECOND,
    }
