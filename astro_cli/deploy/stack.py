"""What a release is on an engine in swarm mode: services, networks and secrets, rendered from the table. Pure.

The JSON is that of the Engine API (https://docs.docker.com/engine/api/v1.41/#tag/Service). Services find each other
by DNS (`dnsrr`), never by virtual addresses, which need a kernel module that not every machine has.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from astro_cli import airflow, labels
from astro_cli.deploy.dag_bundle import bundle_environment
from astro_cli.services import SERVICES, ServiceSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from astro_cli.releases import Release

SECOND = 1_000_000_000
POSTGRES = "postgres"
API_SERVER = "api-server"
ENTRY = ("python3", f"{airflow.DEPLOYED_CODE}/entry.py")
AIRFLOW_USER, AIRFLOW_UID, POSTGRES_UID = f"{airflow.UID}:0", str(airflow.UID), "999"
GRACE_SECONDS = 30
DAGS_FOLDER = "/run/astro/dags"
"""Where containers see the published versions of the DAGs."""
TMP_BYTES = 256 * 1024**2
SECRET_FOLDER = "/run/secrets/astro"  # noqa: S105 - a folder
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

_AIRFLOW_SECRETS = {
    KEYS: f"{SECRET_FOLDER}/keys.json",
    CONNECTION: f"{SECRET_FOLDER}/connection.json",
    USER: f"{SECRET_FOLDER}/user.json",
    LOGIN: f"{SECRET_FOLDER}/login",
}


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
    return {
        **airflow.deployed_environment(
            instance_name=f"{names.project_name} {names.deployment}",
            base_url=publish["base_url"],
            parallelism=configuration["parallelism"],
            user=configuration["env"],
        ),
        **bundle_environment(dags_tag(release), folder=DAGS_FOLDER),
        "ASTRO_DEPLOYMENT": names.prefix,
        "ASTRO_RELEASE": str(release.serving),
    }


def dags_tag(release: Release) -> str:
    """Names the version of the DAGs that the services of a release take."""
    return f"release-{release.serving}"


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
    if service is JANITOR:
        keep = configuration.get("retention", {})
        days = (str(keep.get("logs", 0)), str(keep.get("history", 0)))
        program = f"{airflow.DEPLOYED_CODE}/janitor.py"
        container["Args"] = [*ENTRY, "run", "python3", program, f"{airflow.HOME}/logs", *days, DAGS_FOLDER]
        container["Mounts"] = [{**mount, "ReadOnly": False} for mount in container["Mounts"]]
    if service.name == API_SERVER:
        container["Args"].append("--proxy-headers")
    if service.health:
        container["Healthcheck"] = _health(service.health)
    if service.read_only:
        _make_read_only(container)
    grace = configuration["drain"] if service.name == "scheduler" else GRACE_SECONDS
    container["StopGracePeriod"] = grace * SECOND
    return _service(
        names,
        service.name,
        container,
        release=release,
        order="start-first",
        replicas=configuration["replicas"].get(service.name, 1),
        limits=configuration["resources"].get(service.name),
    )


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
    name, config_id = config
    container = {
        "Image": release.companions["postgres"],
        "Labels": names.labels,
        "User": f"{POSTGRES_UID}:{POSTGRES_UID}",
        "Mounts": [_volume(names, "database", "/var/lib/postgresql/data")],
        "Secrets": [_secret(PASSWORD, "/run/astro/password", release, ids, POSTGRES_UID)],
        "Configs": [
            {
                "ConfigID": config_id,
                "ConfigName": name,
                "File": {
                    "Name": "/etc/postgresql/postgresql.conf",
                    "UID": "0",
                    "GID": "0",
                    "Mode": 0o444,
                },
            }
        ],
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
    _make_read_only(container)
    return _service(
        names, POSTGRES, container, release=None, limits=release.configuration["resources"].get(POSTGRES)
    )


def postgres_job(
    names: Names, role: str, release: Release, ids: Mapping[str, str], script: str
) -> dict[str, Any]:
    """A job that runs a shell script with Postgres' own programs; the database's address is `$DATABASE`.

    The password is in the environment: arguments can be read by everybody on the machine.
    """
    read = (
        f"{{ read -r DATABASE || :; read -r PGPASSWORD || :; }} <{SECRET_FOLDER}/address; export PGPASSWORD"
    )
    container = {
        "Image": release.companions["postgres"],
        "Labels": names.labels,
        "User": f"{POSTGRES_UID}:{POSTGRES_UID}",
        "Args": ["sh", "-euc", f"umask 077; {read}; {script}"],
        "Mounts": [_volume(names, "backups", "/backups")],
        "Secrets": [_secret(ADDRESS, f"{SECRET_FOLDER}/address", release, ids, POSTGRES_UID)],
        "CapabilityDrop": ["ALL"],
    }
    return _job(names, role, container)


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
            {**_volume(names, "dags", DAGS_FOLDER), "ReadOnly": True},
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


def _health(url: str) -> dict[str, Any]:
    return {
        "Test": ["CMD", *ENTRY, "health", url],
        "Interval": 5 * SECOND,
        "Timeout": 15 * SECOND,
        "Retries": 6,
        "StartPeriod": 180 * SECOND,
    }
