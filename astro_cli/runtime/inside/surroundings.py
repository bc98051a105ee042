"""The Airflow and the project that the runner works with."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

KNOWN_VERSION = "3.3.2"
"""The Airflow whose private parts, which this package uses, were read; any other gets the plain, slower way."""


def airflow_version() -> str:
    """Of the Airflow in this environment."""
    return str(importlib.import_module("airflow.version").version)


def project_folder() -> Path:
    """The folder that holds `dags`, as this process sees it."""
    return Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"]).parent


def dagbag_module() -> Any:
    """Where Airflow reads DAG files."""
    try:
        return importlib.import_module("airflow.dag_processing.dagbag")
    except ImportError:  # before 3.2
        return importlib.import_module("airflow.models.dagbag")


def use_database(url: str) -> None:
    """Point the Airflow of this process at another database."""
    os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = url
    os.environ.pop("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC", None)
    settings = importlib.import_module("airflow.settings")
    settings.configure_vars()
    settings.dispose_orm(do_log=False)
    settings.configure_orm()
