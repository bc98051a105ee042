"""A cluster policy: tasks of the queues that are served outside go there, whatever executor runs the others.

Found by Airflow through an entry point. A DAG says `queue="onsite"` and nothing else, so it is the same in a
sandbox, which has no machines outside.
"""

from __future__ import annotations

import os
from typing import Any

from airflow.policies import hookimpl

EXECUTOR = "edge"


@hookimpl
def task_policy(task: Any) -> None:  # noqa: ANN401 - Airflow's own, mapped or not
    """Send a task outside if its queue is there."""
    queues = os.environ.get("ASTRO_EDGE_QUEUES", "").split(",")
    if not task.queue or task.queue not in queues or task.executor:
        return
    if isinstance(
        getattr(task, "partial_kwargs", None), dict
    ):  # a mapped one, whose attributes cannot be set
        task.partial_kwargs["executor"] = EXECUTOR
    else:
        task.executor = EXECUTOR
