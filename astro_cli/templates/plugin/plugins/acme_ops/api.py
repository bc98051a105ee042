"""A small API inside of Airflow's api-server, below `/ops`.

Airflow protects its own routes only. A route of a plugin is open to everybody who can reach the server, **even
where a login is needed for all the rest**, unless it asks for the user. `GetUserDep` is how Airflow's own routes
ask; it is no documented interface, so a test in `tests/` holds it.
"""

from datetime import datetime, timedelta, timezone
from pathlib import Path

from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import GetUserDep
from airflow.models.taskinstance import TaskInstance
from fastapi import FastAPI
from fastapi.responses import FileResponse
from sqlalchemy import select

app = FastAPI(title="Acme operations")


@app.get("/health")
def health() -> dict:
    """Open: for a load balancer that has no login."""
    return {"status": "ok"}


@app.get("/")
def page() -> FileResponse:
    """Open: the page holds no data. It asks `slow-tasks` for it, with the login of whoever looks at it."""
    return FileResponse(Path(__file__).with_name("page.html"), media_type="text/html")


@app.get("/slow-tasks")
def slow_tasks(user: GetUserDep, session: SessionDep, limit: int = 10) -> list[dict]:
    """For users only: the slowest task instances of the last day, slowest first."""
    since = datetime.now(timezone.utc) - timedelta(days=1)
    query = (
        select(TaskInstance.dag_id, TaskInstance.task_id, TaskInstance.map_index, TaskInstance.duration)
        .where(TaskInstance.start_date >= since, TaskInstance.duration.is_not(None))
        .order_by(TaskInstance.duration.desc())
        .limit(min(limit, 100))
    )
    return [
        {
            "dag": row.dag_id,
            "task": row.task_id if row.map_index < 0 else f"{row.task_id}[{row.map_index}]",
            "seconds": round(row.duration, 2),
        }
        for row in session.execute(query)
    ]
