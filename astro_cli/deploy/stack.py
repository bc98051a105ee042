"""What a release consists of, wherever it runs: its services, how they are called, what they are told. Pure.

`swarm/specs.py`, `kubernetes/objects.py` and `edge/plan.py` render it, each for its own kind of target.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from astro_cli.deploy.dag_bundle import CLASSPATH, bundle_environment
from astro_cli.domain import airflow
from astro_cli.domain.deployments import CELERY, KUBERNETES, SWARM
from astro_cli.domain.edge import queues_of
from astro_cli.domain.services import SERVICES, ServiceSpec
from astro_cli.foundation import labels

if TYPE_CHECKING:
    from collections.abc import Mapping

    from astro_cli.domain.releases import Release

POSTGRES = "postgres"
API_SERVER = "api-server"
ENTRY = ("python3", f"{airflow.DEPLOYED_CODE}/entry.py")
AIRFLOW_USER, POSTGRES_UID = f"{airflow.UID}:0", "999"
GRACE_SECONDS = 30
DAGS_FOLDER = "/run/astro/dags"
"""Where containers see the published versions of the DAGs."""
TMP_BYTES = 256 * 1024**2
SECRET_FOLDER = "/run/secrets/astro"  # noqa: S105 - a folder

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

SECRET_FILES = {
    KEYS: f"{SECRET_FOLDER}/keys.json",
    CONNECTION: f"{SECRET_FOLDER}/connection.json",
    USER: f"{SECRET_FOLDER}/user.json",
    LOGIN: f"{SECRET_FOLDER}/login",
    BROKER: f"{SECRET_FOLDER}/broker.json",
    REGISTRY: f"{SECRET_FOLDER}/registry",
    AUTHORITY: f"{SECRET_FOLDER}/authority",
}
"""Where Airflow's containers on an engine find the secret of each role."""
BROKER_ANSWERS = "redis-cli ping | grep -q -e PONG -e NOAUTH"
"""Whoever does not know the password is answered as well."""
WORKER_READY = "/run/astro/status.json"
LOG_HOST = "logs-{{.Node.Hostname}}"
"""On each node the log server has this name; the engine fills the template in."""


@dataclass(frozen=True)
class Names:
    """How everything of one deployment is called on its target.

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


def airflow_environment(
    names: Names, release: Release, dags: Mapping[str, str], *, classpath: str = CLASSPATH
) -> dict[str, str]:
    """Plain variables of every Airflow process of a release.

    Args:
        dags: where it finds the versions of the DAGs, and `classpath` with which class; see `bundle_environment`.
    """
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
        **bundle_environment(dags_tag(names, release), classpath=classpath, **dags),
        "ASTRO_DEPLOYMENT": names.prefix,
        "ASTRO_RELEASE": str(release.serving),
    }


def dags_tag(names: Names, release: Release) -> str:
    """Names the version of the DAGs that the services of a release take."""
    if release.configuration.get("target") in (SWARM, KUBERNETES):  # in a repository that several may share
        return f"dags-{names.prefix}-{release.serving}"
    return f"release-{release.serving}"


def postgres_command(script: str) -> list[str]:
    """Runs a shell script in which the database's address is `$DATABASE`.

    The password is in the environment: arguments can be read by everybody on the machine.
    """
    read = (
        f"{{ read -r DATABASE || :; read -r PGPASSWORD || :; }} <{SECRET_FOLDER}/address; export PGPASSWORD"
    )
    return ["sh", "-euc", f"umask 077; {read}; {script}"]
