"""What depends on the Airflow version: components, configuration names, the health page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from astro_cli.foundation.errors import ProjectError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEFAULT_VERSION = "3.3.2"
SUPPORTED_VERSIONS = (DEFAULT_VERSION,)
"""Versions whose full dependency lock ships with this astro (`images/requirements.lock`)."""

POSTGRES_MAJOR = "17"

HOME = "/opt/airflow"
"""AIRFLOW_HOME in the engine image; the project is copied and mounted there."""

UID = 50_000
"""Number of the user that Airflow runs as in the engine image."""

API_PORT = 8080
"""Port of the api-server inside its container."""

SCHEDULER_HEALTH_PORT = 8974
"""Port on which a scheduler tells its health, where `[scheduler] enable_health_check` is set."""

PROCESSOR_LOGGER = "airflow.dag_processing.manager.DagFileProcessorManager"

HEALTH_PATH = "/api/v2/monitor/health"

PROJECT_FOLDERS = ("dags", "plugins", "include", "tests")
"""Folders of a project that a sandbox mounts, so that an edit needs no new image."""


@dataclass(frozen=True)
class Site:
    """Where things are as Airflow sees them, which is what a container and this machine differ in.

    Attributes:
        home: AIRFLOW_HOME.
        project: the folder that holds `dags`, `plugins` and `include`; importable.
        api_host: address on which the api-server listens.
        database: SQLAlchemy address, in which `{password}` stands for the sandbox's own.
        services_on_loopback: the project's services are reached on this machine's loopback, not by their names.
    """

    home: str
    project: str
    api_host: str
    api_port: int
    database: str
    services_on_loopback: bool = False


CONTAINER = Site(
    home=HOME,
    project=HOME,
    api_host="0.0.0.0",  # noqa: S104 - inside the container; published on loopback
    api_port=API_PORT,
    database="postgresql+psycopg2://airflow:{password}@postgres:5432/airflow",
)
"""The containers of the Docker engine."""

EXECUTION_API_TIMEOUT = "60"
"""Seconds that a task waits for an answer of the api-server. With Airflow's own 5, tasks on a busy machine
fail before their code has begun, most often the first ones after a start."""

RESERVED = (
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
    "AIRFLOW__API__BASE_URL",
    "AIRFLOW__API__HOST",
    "AIRFLOW__API__PORT",
    "AIRFLOW__CORE__EXECUTION_API_SERVER_URL",
    "AIRFLOW_HOME",
)
"""Variables that hold a sandbox together; a value for one of them in `.env` is not used."""


def sandbox_environment(
    *, instance_name: str, base_url: str, parallelism: int, site: Site = CONTAINER
) -> dict[str, str]:
    """Airflow's configuration for a sandbox: quick to see a change, little that idles, no login on loopback.

    Args:
        instance_name: shown in the web UI, and part of the identity that readiness checks.
        base_url: the address in the user's browser, for example `http://localhost:8080`.
        parallelism: how many tasks run at once; the LocalExecutor forks one process for each.
        site: where things are.
    """
    return {
        "AIRFLOW_HOME": site.home,
        "AIRFLOW__API__BASE_URL": base_url,
        "AIRFLOW__API__EXPOSE_CONFIG": "non-sensitive-only",
        "AIRFLOW__API__INSTANCE_NAME": instance_name,
        "AIRFLOW__API__HOST": site.api_host,
        "AIRFLOW__API__PORT": str(site.api_port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CORE__AUTH_MANAGER": (
            "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"
        ),
        "AIRFLOW__CORE__DAGS_FOLDER": f"{site.project}/dags",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{site.api_port}/execution/",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "0",
        "AIRFLOW__CORE__PARALLELISM": str(parallelism),
        "AIRFLOW__CORE__PLUGINS_FOLDER": f"{site.project}/plugins",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "1",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "2",
        # It would report every look into the folder, three lines every two seconds.
        "AIRFLOW__LOGGING__NAMESPACE_LEVELS": f"{PROCESSOR_LOGGER}=WARNING",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": EXECUTION_API_TIMEOUT,
        "PYTHONPATH": site.project,
    }


BROKER = "broker"
"""The Redis through which the scheduler hands tasks to Celery's workers."""
BROKER_PORT = 6379
CELERY_RESERVED = ("AIRFLOW__CELERY__BROKER_URL", "AIRFLOW__CELERY__RESULT_BACKEND")
"""Like `RESERVED`, where Celery's workers run the tasks: another broker would be somebody else's."""
HEARTBEAT_TIMEOUT = "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT"
"""Seconds after which a task that was not heard of is tried again; Airflow's own are 300."""
CELERY_PARALLELISM = 32
"""Airflow's own default: how many tasks run at once is a matter of the workers, whose number can change."""


def celery_environment() -> dict[str, str]:
    """What of Airflow's configuration is different where Celery's workers run the tasks."""
    return {
        EXECUTOR: "CeleryExecutor",
        "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": "86400",
        # A task whose worker is gone is tried again after a minute, not five; signs of life come every 5 s.
        HEARTBEAT_TIMEOUT: "60",
    }


LOCAL_EXECUTOR = "astro_executor.LocalExecutor"
"""The executor of a deployment whose schedulers run the tasks."""
EDGE_EXECUTOR = "edge"
"""What tasks and `inside/astro_edge_policy.py` call the executor of the machines outside."""
EDGE_HEARTBEAT = 10
"""Seconds between two signs of life of a worker outside; after five times that it is taken for lost."""
EDGE_QUEUES = "ASTRO_EDGE_QUEUES"


def edge_environment(executor: str, queues: Sequence[str]) -> dict[str, str]:
    """What of Airflow's configuration is different where machines outside take the tasks of some queues.

    Args:
        executor: that of all other tasks.
    """
    return {
        EXECUTOR: f"{executor},{EDGE_EXECUTOR}:airflow.providers.edge3.executors.EdgeExecutor",
        EDGE_QUEUES: ",".join(queues),
        "AIRFLOW__EDGE__API_ENABLED": "True",
        "AIRFLOW__EDGE__HEARTBEAT_INTERVAL": str(EDGE_HEARTBEAT),
        # The way outside may be interrupted for a moment.
        HEARTBEAT_TIMEOUT: "120",
    }


def edge_worker_environment(url: str, drain: int) -> dict[str, str]:
    """What is different in the container of a worker outside, which knows the deployment by its address alone.

    Args:
        url: at which the deployment's api-servers are reached from there.
        drain: seconds in which running tasks may finish when the worker is told to end.
    """
    return {
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__EDGE__API_ENABLED": "False",
        "AIRFLOW__EDGE__API_URL": f"{url}/edge_worker/v1/rpcapi",
        "AIRFLOW__EDGE__DRAIN_TIMEOUT_SEC": str(drain),
    }


def worker_environment() -> dict[str, str]:
    """What is different in a worker's container."""
    return {"AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://airflow:{API_PORT}/execution/"}


def broker_environment(secrets: Mapping[str, str]) -> dict[str, str]:
    """How Celery reaches the broker; holds its password. Results are kept in the metadata database."""
    return {"AIRFLOW__CELERY__BROKER_URL": f"redis://:{secrets[BROKER]}@{BROKER}:{BROKER_PORT}/0"}


def broker_config(password: str) -> str:
    """The broker's own configuration: what waits to be run outlives a restart, in `/data`."""
    return (
        f"bind 0.0.0.0\nport {BROKER_PORT}\nrequirepass {password}\n"
        'dir /data\nappendonly yes\nsave ""\nmaxmemory-policy noeviction\n'
    )


def metrics_environment(host: str, port: int) -> dict[str, str]:
    """What has Airflow send its metrics there, each under one name, with tags."""
    return {
        "AIRFLOW__METRICS__STATSD_ON": "True",
        "AIRFLOW__METRICS__STATSD_HOST": host,
        "AIRFLOW__METRICS__STATSD_PORT": str(port),
        "AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED": "True",
        "AIRFLOW__METRICS__LEGACY_NAMES_ON": "False",
    }


EXECUTOR = "AIRFLOW__CORE__EXECUTOR"
PARALLELISM = "AIRFLOW__CORE__PARALLELISM"
ONE_AT_A_TIME = "SequentialExecutor"
"""Gone; Airflow silently takes the LocalExecutor with all its workers instead."""

DEPLOYED_CODE = f"{HOME.rpartition('/')[0]}/astro/deploy"
"""Where the engine image keeps what runs in deployed containers alone (`astro_cli/deploy/inside`)."""

AUTH_MANAGER = "AIRFLOW__CORE__AUTH_MANAGER"
ADMIN = "admin"
"""The user that a deployment begins with, unless it brings an auth manager of its own."""


LOG_SERVER_PORT = 8793
"""Airflow's own, for task logs that lie on another machine than the api-server."""
LOG_HOST = "ASTRO_LOG_HOST"
"""Variable with the name by which the api-server reaches the logs of what runs on the same node."""
NODE_NAMES = (LOG_HOST, "AIRFLOW__CORE__HOSTNAME_CALLABLE")
"""The variables by which a node's logs are found; outside of the nodes they mean nothing."""


def many_nodes_environment(log_host: str) -> dict[str, str]:
    """What is different where the services of a deployment are spread over machines.

    Args:
        log_host: see `LOG_HOST`; may be a template that the engine fills in.
    """
    return {
        LOG_HOST: log_host,
        "AIRFLOW__CORE__HOSTNAME_CALLABLE": "astro_node.log_host",
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(LOG_SERVER_PORT),
        # An api-server whose machine is lost is back within a minute, which tasks elsewhere must survive.
        HEARTBEAT_TIMEOUT: "120",
    }


def reachable_by_address_environment() -> dict[str, str]:
    """What is different where a worker has no name that others could reach it by, to ask for its logs."""
    return {"AIRFLOW__CORE__HOSTNAME_CALLABLE": "airflow.utils.net.get_host_ip_address"}


def deployed_environment(
    *,
    instance_name: str,
    base_url: str,
    parallelism: int,
    user: Mapping[str, str],
    shape: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Airflow's configuration for a deployment: a real login, nothing shown that need not be.

    Args:
        base_url: the address in the user's browser.
        user: the deployment's own variables, which win over these except for `RESERVED`.
        shape: what its executor and its machines make different.
    """
    own = {
        "AIRFLOW_HOME": HOME,
        "AIRFLOW_CONFIG": "/tmp/airflow.cfg",  # noqa: S108 - the container's, which may write nowhere else
        "AIRFLOW__API__BASE_URL": base_url,
        "AIRFLOW__API__EXPOSE_CONFIG": "False",
        "AIRFLOW__API__INSTANCE_NAME": instance_name,
        "AIRFLOW__API__HOST": "0.0.0.0",  # noqa: S104 - inside the container; only the proxy is published
        "AIRFLOW__API__PORT": str(API_PORT),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CORE__DAGS_FOLDER": f"{HOME}/dags",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://api-server:{API_PORT}/execution/",
        "AIRFLOW__CORE__EXECUTOR": LOCAL_EXECUTOR,
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": str(parallelism),
        "AIRFLOW__CORE__PLUGINS_FOLDER": f"{HOME}/plugins",
        "AIRFLOW__DATABASE__CHECK_MIGRATIONS": "False",  # a release is migrated before anything of it starts
        "AIRFLOW__LOGGING__NAMESPACE_LEVELS": f"{PROCESSOR_LOGGER}=WARNING",
        "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "True",
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": EXECUTION_API_TIMEOUT,
        "FORWARDED_ALLOW_IPS": "*",  # the proxy's address changes, and nothing else reaches the api-server
        "PYTHONPATH": f"{HOME}:{DEPLOYED_CODE}",
    }
    if AUTH_MANAGER not in user:
        own |= {
            AUTH_MANAGER: "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": "/tmp/astro-login.json",  # noqa: S108 - the container's
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{ADMIN}:admin",
        }
    own |= shape or {}
    return own | {name: value for name, value in user.items() if name not in RESERVED}


def gate_environment() -> dict[str, str]:
    """Airflow's configuration for a check of an image before it is deployed."""
    return {
        "AIRFLOW_HOME": HOME,
        "AIRFLOW__CORE__DAGS_FOLDER": f"{HOME}/dags",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PLUGINS_FOLDER": f"{HOME}/plugins",
        "PYTHONPATH": HOME,
    }


def private_environment(secrets: Mapping[str, str], *, site: Site = CONTAINER) -> dict[str, str]:
    """The part of the configuration that holds secrets; it never enters an image or `docker inspect`.

    Args:
        secrets: the values for `database`, `fernet`, `jwt` and `api` of one sandbox.
        site: where the database is.
    """
    return {
        "AIRFLOW__API__SECRET_KEY": secrets["api"],
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets["jwt"],
        "AIRFLOW__CORE__FERNET_KEY": secrets["fernet"],
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": site.database.replace("{password}", secrets["database"]),
    }


def check_database(
    made_by_postgres: str | None, made_by_airflow: str, *, postgres_major: str, airflow_version: str
) -> None:
    """Refuse the database of a sandbox that the Postgres and the Airflow of now cannot go on with.

    Raises:
        ProjectError: another major version of Postgres made it, or a newer Airflow.
    """
    if made_by_postgres != postgres_major:
        raise ProjectError(
            f"the sandbox's database was made by Postgres {made_by_postgres}, this astro runs Postgres "
            f"{postgres_major}",
            hint="use the astro that made it, or delete the sandbox's data with `astro airflow kill`",
        )
    if _numbers(made_by_airflow) > _numbers(airflow_version):
        raise ProjectError(
            f"the sandbox's database was made by Airflow {made_by_airflow}, the project now has Airflow "
            f"{airflow_version}: a database cannot go back",
            hint="raise the version in the Dockerfile's FROM line, or delete the sandbox's data with "
            "`astro airflow kill`",
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
