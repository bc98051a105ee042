"""Runs and objects from the terminal, on a real sandbox."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.engine.astro import Astro, environment, get, wait_for_dag

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOKEN = "canary-5b1d0e"

DAGS = """
import time
from datetime import datetime
from airflow.sdk import BaseHook, dag, task

@dag(schedule=None, is_paused_upon_creation=False)
def chain():
    @task
    def first(**context):
        print("rows", context["dag_run"].conf.get("rows"))
        if context["dag_run"].conf.get("fail"):
            raise ValueError("first is broken")
    @task
    def second(): pass
    first() >> second()
chain()

@dag(schedule=None, is_paused_upon_creation=False)
def needs_connection():
    @task
    def use(): BaseHook.get_connection("warehause")
    use()
needs_connection()

@dag(schedule=None)
def asleep():
    @task
    def a(): pass
    a()
asleep()

@dag(schedule=None, is_paused_upon_creation=False)
def slow():
    @task(pool="tiny")
    def a(n):
        for i in range(n):
            print("tick", i, flush=True)
            time.sleep(1)
    a.expand(n=[6, 6])
slow()

@dag(schedule="@daily", start_date=datetime(2026, 1, 1), catchup=False, is_paused_upon_creation=False)
def daily():
    @task
    def a(): print("ran")
    a()
daily()
"""

SETTINGS = """\
airflow:
  connections:
    - conn_id: warehouse
      conn_type: postgres
      conn_host: ${DB_HOST}
      conn_login: müller
      conn_password: ${TOKEN}
      conn_port: ${DB_PORT}
      conn_description: bought in 2019
      conn_extra:
        sslMode: require
        apiKey: ${TOKEN}
        lines: |
          one
          zwei
        nested: {camelCase: [1, 2.5, true, null, "no", "0123", "$${literal}"]}
    - conn_id: api
      conn_uri: http://user:${TOKEN}@api.example.com/https
  pools:
    - {pool_name: tiny, pool_slot: 1, pool_description: one at a time}
    - {pool_name: waiting, pool_slot: -1, pool_include_deferred: true}
  variables:
    - {variable_name: greeting, variable_value: "grüß\\n  dich \\n"}
    - {variable_name: api_key, variable_value: "${TOKEN}"}
    - {variable_name: config, variable_value: {camelCase: 1, url: "https://${DB_HOST}/x"}}
    - {variable_name: compact, variable_value: '{"a":1,"b":"é"}'}
    - {variable_name: number, variable_value: "0.10"}
    - {variable_name: empty, variable_value: ""}
"""


@pytest.fixture(scope="module")
def shop(engine_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Astro]:
    environ = environment(tmp_path_factory.mktemp("home"), engine_url)
    parent = tmp_path_factory.mktemp("projects")
    Astro(parent, environ)("airflow", "init", "runs")
    astro = Astro(parent / "runs", environ)
    for path in (astro.folder / "dags").glob("*.py"):
        path.unlink()
    astro.write("dags/lab.py", DAGS)
    astro.write(".env", f"TOKEN={TOKEN}\nDB_HOST=db.example\nDB_PORT=5433\n")
    astro.write("airflow_settings.yaml", SETTINGS)
    assert "no sandbox yet" in astro("airflow", "trigger", "chain", code=1).stderr
    assert "is valid" in astro("airflow", "object", "validate").stdout, "needs no sandbox"
    url = astro.start()["url"]
    for dag_id in ("chain", "needs_connection", "asleep", "slow", "daily"):
        wait_for_dag(url, dag_id)
    yield astro
    astro("airflow", "kill", "--yes", "--no-snapshot", code=None)


@pytest.fixture(scope="module")
def url(shop: Astro) -> str:
    found: str = shop.json("airflow", "ps")["url"]
    return found


def test_a_run_is_waited_for_and_its_tasks_are_told(shop: Astro, url: str):
    done = shop("airflow", "trigger", "chain", "--conf", '{"rows": 7}', "--wait")
    assert "chain succeeded" in done.stdout
    assert "first: success" in done.stderr
    assert "rows 7" in shop("airflow", "logs", "--dag", "chain", "--task", "first").stdout
    told = shop.json("airflow", "tasks", "chain")
    assert told["run"]["state"] == "success"
    assert [(task["task_id"], task["state"]) for task in told["tasks"]] == [
        ("first", "success"),
        ("second", "success"),
    ]


def test_a_failed_run_is_exit_code_1_with_the_end_of_the_log(shop: Astro, url: str):
    failed = shop.spawn("airflow", "trigger", "chain", "--conf", '{"fail": true}', "--wait")
    _, err = failed.communicate(timeout=300)
    assert failed.returncode == 1
    assert "ValueError: first is broken" in err
    assert "in task `first`" in err
    error = shop.json("airflow", "trigger", "chain", "--conf", '{"fail": true}', "--wait", code=1)
    assert any("first is broken" in line for line in error["details"])
    newest = shop.json("airflow", "runs", "chain")["runs"][0]
    shop("airflow", "trigger", "chain", "--wait")
    logs = shop.json("airflow", "logs", "--dag", "chain")
    assert logs["run"]["run_id"] == newest["run_id"], "the latest failure, though a later run went well"
    assert [each["task"]["task_id"] for each in logs["logs"]] == ["first"]
    only = shop("airflow", "logs", "--dag", "chain", "--grep", "^ValueError", "--tail", "3").stdout
    assert only == "ValueError: first is broken\n"


def test_a_run_is_followed_while_it_writes_and_why_names_the_pool(shop: Astro, url: str):
    run_id = shop("airflow", "trigger", "slow").stdout.strip()
    following = shop.spawn("airflow", "logs", "--dag", "slow", "-f")
    codes = set()
    while get(url, f"/api/v2/dags/slow/dagRuns/{run_id}")["state"] in ("queued", "running"):
        told = shop.json("airflow", "why", "slow")
        codes |= {finding["code"] for finding in [told["answer"], *told["also"]]}
    out, err = following.communicate(timeout=180)
    assert following.returncode == 0, err
    assert {"pool_full", "running"} <= codes
    for label in ("a[0]", "a[1]"):
        assert [line for line in out.splitlines() if line.startswith(label) and "tick" in line] == [
            f"{label} | tick {i}" for i in range(6)
        ]


def test_ctrl_c_ends_the_wait_and_not_the_run(shop: Astro, url: str):
    with shop.spawn("airflow", "trigger", "slow", "--wait") as waiting:
        assert waiting.stderr is not None
        assert waiting.stderr.readline().startswith("run manual__")
        os.killpg(waiting.pid, signal.SIGINT)
        _, err = waiting.communicate(timeout=120)
    assert waiting.returncode == 130
    assert "the run goes on" in err
    error = shop.json("airflow", "trigger", "chain", "--timeout", "0.1", code=1)
    assert "goes on" in error["hint"]


def test_a_paused_dag_is_refused_with_wait_and_why_says_so(shop: Astro, url: str):
    assert "paused" in shop("airflow", "trigger", "asleep", "--wait", code=1).stderr
    shop("airflow", "trigger", "asleep")
    assert shop.json("airflow", "why", "asleep")["answer"]["code"] == "paused"
    shop("airflow", "trigger", "asleep", "--wait", "--unpause")


def test_why_names_the_missing_connection_the_future_and_the_broken_file(shop: Astro, url: str):
    shop.json("airflow", "trigger", "needs_connection", "--wait", code=1)
    answer = shop.json("airflow", "why", "needs_connection")["answer"]
    assert answer["code"] == "missing_connection"
    assert "`warehause`" in answer["message"]
    run_id = shop("airflow", "trigger", "chain", "--date", "2099-01-01").stdout.strip()
    assert shop.json("airflow", "why", "chain", run_id)["answer"]["code"] == "future_date"
    assert "already" in shop("airflow", "trigger", "chain", "--date", "2099-01-01", code=1).stderr
    shop.write("dags/broken.py", "from airflow.sdk import dag\nimport no_such_module\n# defines newcomer\n")
    codes: list[str] = []
    end = time.monotonic() + 180
    while "import_error" not in codes and time.monotonic() < end:
        codes.append(shop.json("airflow", "why", "newcomer")["answer"]["code"])
    assert set(codes) <= {"not_parsed", "import_error"}
    assert codes[-1] == "import_error"


def test_a_backfill_runs_every_date_once(shop: Astro, url: str):
    dates = ("--from", "2026-02-01", "--to", "2026-02-03")
    planned = shop("airflow", "backfill", "daily", *dates, "--dry-run").stdout.splitlines()
    assert planned == [f"2026-02-0{day}T00:00:00Z" for day in (1, 2, 3)]
    told = shop.json("airflow", "backfill", "daily", *dates)
    assert told["states"] == {"success": 3, "none": 0}
    assert "nothing to run" in shop("airflow", "backfill", "daily", *dates).stderr
    assert "no schedule" in shop("airflow", "backfill", "chain", *dates, code=1).stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("trigger", "chian"), 1, "did you mean `chain`?"),
        (("trigger", "chain", "--conf", "{x}"), 2, "not valid JSON"),
        (("trigger", "chain", "--date", "tomorrow"), 2, "ISO 8601"),
        (("tasks", "chain", "no-such-run"), 1, "no run `no-such-run`"),
        (("logs", "--dag", "chain", "--task", "frist"), 1, "did you mean `first`?"),
        (("logs", "--dag", "chain", "--task", "first", "--try", "9"), 1, "no try 9"),
        (("logs", "--task", "first"), 2, "--dag"),
        (("why", "nowhere_to_be_found"), 1, "no DAG"),
        (("runs", "chain", "--state", "nope"), 2, "no state"),
        (("backfill", "daily", "--from", "2026-02-03", "--to", "2026-02-01"), 2, "--from is later"),
        (("object", "imprt"), 2, "did you mean `import`?"),
        (("object", "import", "-s", "missing.yaml"), 3, "missing.yaml does not exist"),
    ],
)
def test_wrong_input_is_one_sentence_and_a_way_out(
    shop: Astro, url: str, arguments: tuple[str, ...], code: int, words: str
):
    said = shop("airflow", *arguments, code=code).stderr
    assert words in said
    assert "hint:" in said


def test_objects_make_the_round_trip(shop: Astro, url: str, tmp_path: Path):
    assert shop.json("airflow", "object", "diff")["same"], "`start` has written them"
    exported = shop.json("airflow", "object", "export")
    assert exported["new_references"] == []
    assert TOKEN not in exported["text"]
    for name in ("${TOKEN}", "${DB_HOST}", "${DB_PORT}"):
        assert name in exported["text"]
    copy = tmp_path / "copy.yaml"
    shop("airflow", "object", "export", "-o", str(copy))
    before = {name: get(url, f"/api/v2/{name}") for name in ("connections", "variables", "pools")}
    assert shop.json("airflow", "object", "diff", "-s", str(copy))["same"]
    shop("airflow", "object", "import", "-s", str(copy))
    assert {name: get(url, f"/api/v2/{name}") for name in before} == before
    again = tmp_path / "again.yaml"
    shop("airflow", "object", "export", "-s", str(copy), "-o", str(again))
    assert again.read_text() == copy.read_text()
    assert "nobody" in shop("airflow", "object", "export", "-o", str(copy), code=2).stderr.lower()


def test_a_difference_is_exit_code_1_and_names_no_secret(shop: Astro, url: str, tmp_path: Path):
    changed = tmp_path / "changed.yaml"
    changed.write_text(SETTINGS.replace("pool_slot: 1,", "pool_slot: 2,").replace("müller", "meier"))
    done = shop("airflow", "object", "diff", "-s", str(changed), code=1)
    assert done.stdout.splitlines() == [
        "connection warehouse: login",
        "pool tiny: slots: 2 in the file, 1 in the sandbox",
    ]
    assert TOKEN not in done.stdout + done.stderr
    shop("airflow", "object", "import", "-p", "-s", str(changed))
    assert get(url, "/api/v2/pools/tiny")["slots"] == 2
    assert get(url, "/api/v2/connections/warehouse")["login"] == "müller"
    envelope = json.loads(shop("airflow", "object", "diff", "--json", "-s", str(changed), code=1).stdout)
    assert envelope["data"]["differences"] == [
        {"collection": "connections", "name": "warehouse", "what": "login"}
    ]


def test_a_stopped_sandbox_says_how_to_start_it(shop: Astro, url: str):
    shop("stop")
    for arguments in (("runs",), ("why", "chain"), ("object", "export"), ("logs", "--dag", "chain")):
        said = shop("airflow", *arguments, code=1).stderr
        assert "does not run" in said
        assert "astro airflow start" in said
