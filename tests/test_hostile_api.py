"""Something else than Airflow answers, or Airflow does so wrongly: one sentence, never a traceback."""

from __future__ import annotations

import http.server
import json
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from astro_cli.airflow_api import AirflowApi
from astro_cli.domain.dagrun import Task
from astro_cli.foundation.errors import AstroError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TASK = Task(dag_id="d", run_id="r", task_id="t", map_index=-1, state="success")
CALLS: dict[str, Callable[[AirflowApi], Any]] = {
    "dags": lambda api: api.dags(),
    "dag": lambda api: api.dag("d"),
    "dag_files": lambda api: api.dag_files(),
    "runs": lambda api: api.runs("d", limit=5),
    "run": lambda api: api.run("d", "r"),
    "task_ids": lambda api: api.task_ids("d"),
    "trigger": lambda api: api.trigger("d", logical_date=None, conf={}),
    "tasks": lambda api: api.tasks("d", "r"),
    "count_tasks": lambda api: api.count_tasks("running"),
    "dependencies": lambda api: api.dependencies(TASK),
    "log": lambda api: api.log(TASK, 1),
    "health": lambda api: api.health(),
    "import_faults": lambda api: api.import_faults(),
    "pool_uses": lambda api: api.pool_uses(),
    "backfill_dates": lambda api: api.backfill_dates({}),
    "create_backfill": lambda api: api.create_backfill({}),
    "backfill": lambda api: api.backfill(1),
    "objects": lambda api: api.objects("variables"),
    "upsert": lambda api: api.upsert("pools", [{"name": "p"}]),
    "log_in": lambda api: api.log_in("admin", "x"),
}
LISTS = [
    "dags",
    "dag_runs",
    "tasks",
    "task_instances",
    "dependencies",
    "content",
    "import_errors",
    "variables",
]
PAGE = b"<!doctype html><title>Grafana</title>"
BODIES = {
    "a web page": PAGE,
    "nothing": b"",
    "half of an answer": b'{"dags": [{"dag_id": "d", ',
    "no text": b"\xff\xfe\x00",
    "a list": b"[1]",
    "a number": b"7",
    "another program's JSON": b'{"status": "ok"}',
    "deep JSON": b"[" * 200_000,
    "lists of numbers": json.dumps(
        {key: [7] for key in LISTS} | {"pools": 7, "backfills": [[]], "total_entries": "many"}
    ).encode(),
}


@contextmanager
def answering(status: int, body: bytes, headers: dict[str, str] | None = None) -> Iterator[str]:
    """A server that answers everything with this."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PATCH = do_PUT = answer  # noqa: N815 - as the library wants it

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def said(url: str, call: Callable[[AirflowApi], Any], **options: Any) -> str:
    with AirflowApi(url, **options) as api:
        return refused(api, call)


def refused(api: AirflowApi, call: Callable[[AirflowApi], Any]) -> str:
    with pytest.raises(AstroError) as caught:
        call(api)
    assert len(caught.value.message.splitlines()) == 1
    return caught.value.message


LENIENT = {"health", "log", "upsert"}
"""They ask for so little that another program's JSON may hold it."""


@pytest.mark.parametrize("name", BODIES)
def test_what_is_not_airflows_answer_is_said_to_be_so_by_every_call(name: str):
    spared = LENIENT if name in ("another program's JSON", "lists of numbers") else set()
    with answering(200, BODIES[name]) as url, AirflowApi(url) as api:
        for called in CALLS.keys() - spared:
            message = refused(api, CALLS[called])
            assert message.startswith(
                (f"what answers at {url} is not Airflow", "Airflow did not let admin in")
            ), called


@pytest.mark.parametrize("status", [302, 400, 404, 405])
def test_a_foreign_web_server_is_not_taken_for_airflow_that_knows_nothing_of_that_name(status: int):
    with answering(status, PAGE, {"Location": "https://elsewhere.example/login"}) as url:
        for name in ("dags", "dag", "run", "trigger", "objects"):
            assert f"what answers at {url} is not Airflow's API" in said(url, CALLS[name])


@pytest.mark.parametrize(("status", "words"), [(500, "HTTP 500"), (502, "HTTP 502"), (503, "HTTP 503")])
def test_a_server_that_fails_is_named_with_its_status(status: int, words: str):
    with answering(status, PAGE) as url:
        assert said(url, CALLS["dags"]) == f"Airflow's API failed: {words}"


def test_a_body_that_ends_too_early_is_a_lost_connection():
    with answering(200, b'{"dags": []', {"Content-Length": "400"}) as url:
        assert "no connection" in said(url, CALLS["dags"])


def test_an_answer_that_does_not_come_is_waited_for_as_long_as_told():
    release = threading.Event()

    class Silent(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            release.wait(60)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        began = time.monotonic()
        message = said(f"http://127.0.0.1:{server.server_port}", CALLS["dags"], seconds=1.0)
        assert "did not answer within 1 second" in message
        assert time.monotonic() - began < 30
    finally:
        release.set()
        server.shutdown()
        server.server_close()
        thread.join()
