"""Prepares a process that tasks are forked from: what all need is there, and nothing holds them up at their end.

    preimport()   imports what Airflow loads when a DAG asks for it, which each task would do anew (25 ms of CPU)
    install()     has a worker see at once that its task's process has ended, not up to five seconds later

A worker of Airflow listens to the sockets of its task, and after each word looks whether the process has ended
(`WatchedSubprocess` of the Task SDK). The last it hears is that all sockets are closed: a moment before the end.
If it looks in that moment it has nothing left to listen to, and sleeps for `[workers] min_heartbeat_interval` with
its slot taken. On two cores that happens to about every second task.

Programs of deployed containers load this file by its path: it imports nothing that is beside it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
from typing import Any

KNOWN_VERSION = "3.3.2"

# Found by comparing sys.modules at the beginning and the end of tasks. Another Airflow may not have them all.
PREIMPORT = (
    "airflow.executors.workloads",
    "airflow.sdk.execution_time.supervisor",
    "airflow.sdk.execution_time.task_runner",
    "airflow.dag_processing.bundles.local",
    "airflow.sdk.definitions.asset.metadata",
    "airflow.sdk.definitions.decorators",
    "airflow.sdk.definitions.retry_policy",
    "airflow.providers.standard.decorators.bash",
    "airflow.providers.standard.decorators.python",
    "jinja2.ext",
)


def preimport() -> None:
    """Import it. What fails here fails again, with its message, in a task that needs it."""
    for name in PREIMPORT:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    with contextlib.suppress(Exception):
        importlib.import_module("jinja2").Environment()  # it compiles its patterns, and keeps them


def install() -> None:
    """Where a worker has no socket to listen to, have it wait for the end of the process."""
    if importlib.metadata.version("apache-airflow-core") != KNOWN_VERSION:
        return
    watched: Any = importlib.import_module("airflow.sdk.execution_time.supervisor").WatchedSubprocess
    listen = watched._service_subprocess

    def service_subprocess(self: Any, max_wait_time: float, *args: Any, **kwargs: Any) -> Any:
        if not self._open_sockets:
            max_wait_time = wait_for_end(self._process, max_wait_time)
        return listen(self, max_wait_time, *args, **kwargs)

    watched._service_subprocess = service_subprocess


def wait_for_end(process: Any, seconds: float) -> float:
    """Wait at most `seconds` for the process; how much longer to wait for something else."""
    with contextlib.suppress(process.TimeoutExpired):
        if process.wait(seconds) is None:  # somebody else has seen it end, and nobody will ever know how
            return seconds
    return 0.0
