"""Parse, test, pytest and watch in one real sandbox."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

import httpx
import pytest

from tests.engine.astro import Astro, environment, get, wait_for

SETTINGS = """
airflow:
  variables:
    - variable_name: rate
      variable_value: "7"
  pools:
    - pool_name: small
      pool_slot: 2
"""

NUMBERS = """
from airflow.sdk import Variable, dag, task
from airflow.sdk.exceptions import AirflowRuntimeError

@dag(schedule=None, params={"factor": 1})
def numbers():
    @task
    def read():
        return int(Variable.get("rate"))

    @task(pool="small")
    def multiply(number, params=None):
        return number * params["factor"]

    @task
    def check(number):
        Variable.set("rate", "changed by a test")
        if number == 0:
            raise ValueError(f"{number} is not a price")

    check(multiply(read()))

numbers()
"""

SIMPLE = """
from airflow.sdk import dag, task

@dag(schedule=None)
def NAME():
    @task
    def work():
        pass
    work()

NAME()
"""

UNSTORABLE = """
from airflow.sdk import dag
from airflow.timetables.interval import CronDataIntervalTimetable

class Own(CronDataIntervalTimetable):
    pass

@dag(schedule=Own("@daily", "UTC"))
def unstorable():
    pass

unstorable()
"""

CALLER = """
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import dag

@dag(schedule=None)
def caller():
    TriggerDagRunOperator(task_id="call", trigger_dag_id="numbers")

caller()
"""


@pytest.fixture(scope="module")
def shop(engine_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Astro]:
    """A running project of the default template."""
    environ = environment(tmp_path_factory.mktemp("home"), engine_url)
    parent = tmp_path_factory.mktemp("projects")
    Astro(parent, environ)("airflow", "init", "shop")
    astro = Astro(parent / "shop", environ)
    astro.write("airflow_settings.yaml", SETTINGS)
    astro.write("dags/numbers.py", NUMBERS)
    yield astro
    astro("airflow", "kill", "--yes", "--no-snapshot", code=None)


@pytest.fixture(scope="module")
def url(shop: Astro) -> str:
    """The sandbox, started."""
    return str(shop.start()["url"])


def databases(shop: Astro) -> set[str]:
    said = shop("airflow", "bash", "postgres", input="psql -At -c 'SELECT datname FROM pg_database'\n").stdout
    return set(said.split())


def test_a_sandbox_that_was_never_started_says_what_to_do(engine_url: str, tmp_path: Path):
    astro = Astro(tmp_path, environment(tmp_path / "home", engine_url))
    astro("airflow", "init", "new")
    said = Astro(tmp_path / "new", astro.environ)("airflow", "parse", code=1).stderr
    assert "astro airflow start" in said


def test_every_dag_file_is_parsed_with_its_time(shop: Astro, url: str):
    told = shop.json("airflow", "parse")
    assert told["ok"] is True
    assert told["dags"] == ["asset_report", "hello_astro", "numbers"]
    assert all(0 < file["seconds"] < 30 for file in told["files"])


def test_an_error_names_file_line_and_source_and_fails(shop: Astro, url: str, tmp_path: Path):
    shop.write("include/prices.py", "def read(row):\n    return row['price']\n")
    shop.write("dags/broken.py", "from airflow.sdk import dag\nfrom include.prices import read\nread({})\n")
    report = tmp_path / "report.xml"
    said = shop("airflow", "parse", "dags/broken.py", "--junit", str(report), code=1).stdout
    assert "error: include/prices.py:2: KeyError: 'price'" in said
    assert "> 2 |     return row['price']" in said
    assert "called from dags/broken.py:3" in said
    assert ElementTree.parse(report).getroot().get("failures") == "1"
    (shop.folder / "dags/broken.py").unlink()


def test_an_edit_of_what_a_dag_imports_is_seen_at_once(shop: Astro, url: str):
    shop.write("plugins/rates.py", "RATE = 1\n")
    shop.write("dags/rated.py", SIMPLE.replace("NAME", "rated") + "\nimport rates\nassert rates.RATE == 1\n")
    shop("airflow", "parse", "dags/rated.py")
    shop.write("plugins/rates.py", "RATE = 22\n")
    assert "AssertionError" in shop("airflow", "parse", "dags/rated.py", code=1).stdout
    (shop.folder / "dags/rated.py").unlink()
    (shop.folder / "plugins/rates.py").unlink()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            "from airflow.sdk import Variable, dag\nVariable.get('nothing')\n",
            "there is no variable `nothing`",
        ),
        ("import os, airflow  # dag\nos._exit(3)\n", "exit code 3"),
        ("x = 1 /\n", "SyntaxError"),
        (SIMPLE.replace("NAME", "hello_astro"), "is also used in dags/hello_astro.py"),
    ],
    ids=["missing variable", "ends the process", "skipped by safe mode", "duplicate"],
)
def test_what_airflow_would_tell_late_or_never_is_an_error(shop: Astro, url: str, source: str, words: str):
    shop.write("dags/bad.py", source)
    said = shop("airflow", "parse", code=1).stdout
    (shop.folder / "dags/bad.py").unlink()
    assert words in said


def test_a_folder_without_dags_is_a_failure(shop: Astro, url: str):
    shop.write("dags/empty/note.txt", "nothing")
    assert "there is no DAG" in shop("airflow", "parse", "dags/empty", code=1).stdout
    assert "does not exist" in shop("airflow", "parse", "dags/nowhere", code=2).stderr
    (shop.folder / "dags/empty/note.txt").unlink()


def test_a_test_run_succeeds_and_leaves_no_trace(shop: Astro, url: str):
    told = shop.json("airflow", "test", "numbers", "--conf", '{"factor": 3}')
    assert told["state"] == "success"
    assert {task["task"]: task["state"] for task in told["tasks"]} == {
        "read": "success", "multiply": "success", "check": "success",
    }  # fmt: skip
    assert get(url, "/api/v2/dags/numbers/dagRuns")["total_entries"] == 0
    assert get(url, "/api/v2/variables/rate")["value"] == "7"
    assert not [name for name in databases(shop) if name.startswith("astro_test_")]


def test_a_dag_that_cannot_be_stored_is_an_error_but_of_no_other_dag(shop: Astro, url: str):
    shop.write("dags/bad.py", UNSTORABLE)
    assert "is not registered" in shop("airflow", "parse", "dags/bad.py", code=1).stdout
    assert shop.json("airflow", "test", "numbers")["state"] == "success"
    (shop.folder / "dags/bad.py").unlink()


def test_a_dag_that_another_one_triggers_is_there(shop: Astro, url: str):
    shop.write("dags/caller.py", CALLER)
    told = shop.json("airflow", "test", "caller")
    (shop.folder / "dags/caller.py").unlink()
    assert told["state"] == "success"
    assert get(url, "/api/v2/dags/numbers/dagRuns")["total_entries"] == 0


def test_a_failing_task_shows_its_log_and_the_exit_code(shop: Astro, url: str):
    done = shop("airflow", "test", "numbers", "--conf", '{"factor": 0}', code=1)
    assert "check | ValueError: 0 is not a price" in done.stdout
    assert "site-packages/airflow" not in done.stdout
    assert "numbers failed" in done.stdout


def test_one_task_alone_and_tasks_that_are_not_run(shop: Astro, url: str):
    alone = shop.json("airflow", "test", "numbers", "--task", "read", "--date", "2026-01-31")
    assert [task["task"] for task in alone["tasks"]] == ["read"]
    assert alone["logical_date"].startswith("2026-01-31")
    marked = shop.json("airflow", "test", "numbers", "--mark-success", ".*")
    assert all(task["seconds"] is None for task in marked["tasks"])


def test_a_dag_or_task_that_is_not_there_is_named(shop: Astro, url: str):
    assert "no DAG `nimbers`" in shop("airflow", "test", "nimbers", code=1).stderr
    assert (
        "choose from: check, multiply, read"
        in shop("airflow", "test", "numbers", "--task", "x", code=1).stderr
    )


def test_ctrl_c_ends_a_test_run_and_its_database(shop: Astro, url: str):
    shop.write("dags/slow.py", SIMPLE.replace("NAME", "slow").replace("pass", "import time; time.sleep(60)"))
    process = shop.spawn("airflow", "test", "slow")

    def copies() -> list[str]:
        return [name for name in databases(shop) if name.startswith("astro_test_")]

    wait_for(copies)
    time.sleep(2)  # the task itself is what is to be interrupted, most of the time
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=180)
    assert process.returncode == 130
    wait_for(lambda: not copies(), copies)
    (shop.folder / "dags/slow.py").unlink()


def test_the_templates_tests_pass(shop: Astro, url: str):
    assert " passed" in shop("airflow", "pytest", "-q").stdout


def test_pytests_exit_code_and_the_lack_of_tests_are_told(shop: Astro, url: str):
    shop.write("tests/test_wrong.py", "def test_wrong():\n    assert 1 == 2\n")
    assert "assert 1 == 2" in shop("airflow", "pytest", "tests/test_wrong.py", code=1).stdout
    (shop.folder / "tests/test_wrong.py").unlink()
    assert "no tests" in shop("airflow", "pytest", "-k", "nothing_of_this_name", code=5).stderr


def test_two_test_runs_at_once_do_not_collide(shop: Astro, url: str):
    running = [shop.spawn("airflow", "pytest", "-q") for _ in range(2)]
    for process in running:
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, out + err


class Told:
    """Collects what a running command writes."""

    def __init__(self, stream: IO[str] | None) -> None:
        self.lines: list[str] = []
        assert stream is not None
        self._reader = threading.Thread(target=self.lines.extend, args=(stream,), daemon=True)
        self._reader.start()

    def end(self) -> None:
        self._reader.join(120)

    def wait_for(self, text: str, *, after: int = 0, seconds: float = 240) -> None:
        end = time.monotonic() + seconds
        while not any(text in line for line in self.lines[after:]):
            assert time.monotonic() < end, f"not told: {text}\n{''.join(self.lines)}"
            time.sleep(0.05)


@pytest.mark.parametrize("command", [("airflow", "watch"), ("start", "--no-browser", "--watch")])
def test_watch_tells_errors_and_when_the_api_is_up_to_date(shop: Astro, url: str, command: tuple[str, ...]):
    def shown() -> set[str]:
        known = httpx.get(f"{url}/api/v2/dags", trust_env=False, timeout=60).json()["dags"]
        return {dag["dag_id"] for dag in known}

    with shop.spawn(*command) as process:
        told, errors = Told(process.stderr), Told(process.stdout)
        try:
            told.wait_for("watching")
            time.sleep(1)
            for name in ("fresh", "edited", "edited_again"):
                before = len(told.lines)
                shop.write("dags/fresh.py", SIMPLE.replace("NAME", name))
                told.wait_for("Airflow is up to date", after=before)
                assert name in shown()
            shop.write("dags/fresh.py", "import dag_of_airflow\n")
            errors.wait_for("No module named 'dag_of_airflow'")
            before = len(told.lines)
            (shop.folder / "dags/fresh.py").unlink()
            told.wait_for("Airflow is up to date", after=before)
            assert not {"fresh", "edited", "edited_again"} & shown()
            process.send_signal(signal.SIGINT)
            assert process.wait(180) == 0, "".join(told.lines)
            told.end()
            errors.end()
        finally:
            process.kill()  # does nothing after a good end
