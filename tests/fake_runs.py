"""A hand-written Airflow API for the workflows around runs: answers from a dict of bodies, and remembers calls."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import httpx

from astro_cli.airflow_api import AirflowApi

NOW = "2026-11-22T12:00:00Z"


def dag_body(dag_id: str, **changes: Any) -> dict[str, Any]:
    return {
        "dag_id": dag_id,
        "is_paused": False,
        "is_stale": False,
        "relative_fileloc": f"{dag_id}.py",
        "fileloc": f"/opt/airflow/dags/{dag_id}.py",
        "timetable_summary": None,
        "has_import_errors": False,
        "max_active_runs": 16,
        "max_active_tasks": 16,
        "next_dagrun_run_after": None,
        "file_token": "token",
        "last_parsed_time": NOW,
        "last_parse_duration": 0.1,
        **changes,
    }


def run_body(dag_id: str, run_id: str, state: str, **changes: Any) -> dict[str, Any]:
    return {
        "dag_id": dag_id,
        "dag_run_id": run_id,
        "state": state,
        "run_type": "manual",
        "logical_date": None,
        "run_after": NOW,
        "queued_at": NOW,
        "start_date": NOW,
        "end_date": None,
        "conf": {},
        **changes,
    }


def task_body(task_id: str, state: str | None, **changes: Any) -> dict[str, Any]:
    return {
        "dag_id": "etl",
        "dag_run_id": "r1",
        "task_id": task_id,
        "state": state,
        "map_index": -1,
        "try_number": 1,
        "max_tries": 0,
        "start_date": NOW,
        "end_date": NOW,
        "operator": "PythonOperator",
        "operator_name": "@task",
        "pool": "default_pool",
        "pool_slots": 1,
        **changes,
    }


@dataclass
class FakeRuns:
    """What the API has; an answer may be a list, of which each call takes the next and the last one stays."""

    dags: dict[str, dict[str, Any]] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    calls: list[tuple[str, str, Any]] = field(default_factory=list)

    def api(self) -> AirflowApi:
        return AirflowApi("http://fake", transport=httpx.MockTransport(self._answer))

    def called(self, method: str) -> list[tuple[str, Any]]:
        return [(path, body) for verb, path, body in self.calls if verb == method]

    def _answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/api/v2")
        body = json.loads(request.content) if request.content else None
        self.calls.append((request.method, path, body))
        key = path if request.method == "GET" else f"{request.method} {path}"
        if key in self.answers:
            answer = self.answers[key]
            if isinstance(answer, InTurn):
                answer = answer.next()
            if isinstance(answer, Exception):
                raise answer
            if isinstance(answer, httpx.Response):
                return answer
            return httpx.Response(200, json=answer)
        if path == "/dags":
            return httpx.Response(
                200, json={"dags": list(self.dags.values()), "total_entries": len(self.dags)}
            )
        if path == "/importErrors":
            return httpx.Response(200, json={"import_errors": [], "total_entries": 0})
        if path.startswith("/dags/") and path.count("/") == 2 and path[6:] in self.dags:
            return httpx.Response(200, json=self.dags[path[6:]])
        return httpx.Response(404, json={"detail": f"{path} was not found"})


class InTurn:
    """Answers one after the other; the last one stays."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)

    def next(self) -> Any:
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


@dataclass
class FakeClock:
    """Time that passes only in sleep."""

    now: float = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float, /) -> None:
        self.now += seconds
