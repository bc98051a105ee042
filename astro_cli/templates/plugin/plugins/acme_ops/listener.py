"""Called by Airflow when something has happened. Task listeners run in the task's own process."""

import logging

from airflow.listeners import hookimpl

log = logging.getLogger(__name__)


@hookimpl
def on_task_instance_success(previous_state, task_instance) -> None:
    """A line at the end of the log of every successful task."""
    log.info("acme_ops: %s.%s is done", task_instance.dag_id, task_instance.task_id)


@hookimpl
def on_task_instance_failed(previous_state, task_instance, error) -> None:
    """The same for a failed one. Here is where a message to the team would go out."""
    log.warning("acme_ops: %s.%s failed: %s", task_instance.dag_id, task_instance.task_id, error)
