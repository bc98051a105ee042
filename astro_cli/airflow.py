"""What depends on the Airflow version: components, configuration names, the health page."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_VERSION = "3.3.2"
SUPPORTED_VERSIONS = (DEFAULT_VERSION,)
"""Versions whose full dependency lock ships with this astro (`images/requirements.lock`)."""

POSTGRES_MAJOR = "17"

HOME = "/opt/airflow"
"""AIRFLOW_HOME in the engine image; the project is copied and mounted there."""

API_PORT = 8080
"""Port of the api-server inside its container."""

HEALTH_PATH = "/api/v2/monitor/health"

PROJECT_FOLDERS = ("dags", "plugins", "include", "tests")
"""Folders of a project that a sandbox mounts, so that an edit needs no new image."""

RESERVED = (
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
    "AIRFLOW__API__BASE_URL",
    "AIRFLOW__API__PORT",
    "AIRFLOW__CORE__EXECUTION_API_SERVER_URL",
    "AIRFLOW_HOME",
)
"""Variables that hold a sandbox together; a value for one of them in `.env` is not used."""


def sandbox_environment(*, instance_name: str, base_url: str, parallelism: int) -> dict[str, str]:
    """Airflow's configuration for a sandbox: quick to see a change, little that idles, no login on loopback.

    Args:
        instance_name: shown in the web UI, and part of the identity that readiness checks.
        base_url: the address in the user's browser, for example `http://localhost:8080`.
        parallelism: how many tasks run at once; the LocalExecutor forks one process for each.
    """
    return {
        "AIRFLOW__API__BASE_URL": base_url,
        "AIRFLOW__API__EXPOSE_CONFIG": "non-sensitive-only",
        "AIRFLOW__API__INSTANCE_NAME": instance_name,
        "AIRFLOW__API__PORT": str(API_PORT),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CORE__AUTH_MANAGER": (
            "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"
        ),
        "AIRFLOW__CORE__DAGS_FOLDER": f"{HOME}/dags",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://localhost:{API_PORT}/execution/",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "0",
        "AIRFLOW__CORE__PARALLELISM": str(parallelism),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "1",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "2",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
    }


def private_environment(secrets: Mapping[str, str], *, database_host: str) -> dict[str, str]:
    """The part of the configuration that holds secrets; it never enters an image or `docker inspect`.

    Args:
        secrets: the values for `database`, `fernet`, `jwt` and `api` of one sandbox.
        database_host: where Postgres answers, as seen by Airflow.
    """
    return {
        "AIRFLOW__API__SECRET_KEY": secrets["api"],
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets["jwt"],
        "AIRFLOW__CORE__FERNET_KEY": secrets["fernet"],
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": (
            f"postgresql+psycopg2://airflow:{secrets['database']}@{database_host}:5432/airflow"
        ),
    }
