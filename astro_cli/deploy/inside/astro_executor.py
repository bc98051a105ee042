"""The LocalExecutor of deployments: a scheduler that is being replaced stays alive until its tasks are done.

Airflow's own stops its heartbeat on SIGTERM and waits for its tasks. After half a minute the next scheduler
takes it for dead and runs the same tasks once more (SchedulerJobRunner.adopt_or_reset_orphaned_tasks).
"""

from __future__ import annotations

import datetime
import importlib.util
import threading
from pathlib import Path

from airflow.executors import local_executor
from airflow.jobs.job import Job
from airflow.utils.session import create_session
from sqlalchemy import update

BEAT_SECONDS = 5.0
TASK_PARENT = Path(__file__).parents[1] / "task_parent.py"
"""Beside the supervisor, which does the same in a sandbox."""


class LocalExecutor(local_executor.LocalExecutor):
    """Goes on telling that its scheduler lives while the last tasks finish."""

    def start(self) -> None:
        """Fork the workers, in which tasks find what they need and see their end at once."""
        spec = importlib.util.spec_from_file_location(TASK_PARENT.stem, TASK_PARENT)
        assert spec is not None
        assert spec.loader is not None
        parent = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(parent)
        parent.preimport()
        parent.install()
        super().start()

    def end(self) -> None:
        """Wait for the running tasks."""
        done = threading.Event()
        beating = threading.Thread(target=self._beat, args=(done,), daemon=True)
        beating.start()
        try:
            super().end()
        finally:
            done.set()
            beating.join(BEAT_SECONDS)

    def _beat(self, done: threading.Event) -> None:
        while not done.wait(BEAT_SECONDS):
            try:
                with create_session() as session:
                    job = update(Job).where(Job.id == self.job_id)
                    session.execute(job.values(latest_heartbeat=datetime.datetime.now(datetime.timezone.utc)))
            except Exception:
                self.log.exception("cannot tell that this scheduler still lives")
