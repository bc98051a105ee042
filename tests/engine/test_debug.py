"""A debugger that attaches to tasks of a real sandbox, through the program that a user would run."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.dap import Debugger
from tests.engine.astro import Astro, environment, get, run_dag, wait_for_dag, wait_for_run
from tests.free_port import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

DAGS = """
from datetime import timedelta
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import BaseSensorOperator, dag, task
from include.words import Shout

@dag(schedule=None, is_paused_upon_creation=False)
def sums():
    @task
    def first():
        return 20

    @task(execution_timeout=timedelta(seconds=5))
    def second(value):
        double = value * 2
        return double + 2

    @task
    def broken():
        return 1 / 0

    @task
    def after(value):
        return value

    second(first())
    after(broken())
sums()

@dag(schedule=None, is_paused_upon_creation=False)
def others():
    Shout(task_id="shout", word="hey")
    BashOperator(task_id="shell", bash_command="echo done")

    @task
    def each(n):
        return n
    each.expand(n=[10, 11, 12])
others()
"""

WORDS = """
from airflow.sdk import BaseOperator


class Shout(BaseOperator):
    def __init__(self, *, word, **kwargs):
        super().__init__(**kwargs)
        self.word = word

    def execute(self, context):
        loud = self.word.upper()
        return loud
"""

# Soon enough to notice if a stopped task would stop telling that it lives.
HEARTBEATS = """
AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC=3
AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT=20
AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL=2
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, engine_url: str) -> Iterator[Astro]:
    folder: Path = tmp_path_factory.mktemp("debug")
    environ = environment(tmp_path_factory.mktemp("home"), engine_url)
    Astro(folder, environ)("airflow", "init", "shop")
    astro = Astro(folder / "shop", environ)
    for name in ("hello_astro.py", "asset_report.py"):
        (astro.folder / "dags" / name).unlink()
    astro.write("dags/debugged.py", DAGS)
    astro.write("include/words.py", WORDS)
    astro.write(".env", HEARTBEATS)
    url = astro.start()["url"]
    wait_for_dag(url, "others")
    yield astro
    astro("airflow", "kill", "--yes", "--no-snapshot")


@pytest.fixture
def url(shop: Astro) -> str:
    return str(shop.json("airflow", "ps")["url"])


def finish(run: subprocess.Popen[str], code: int = 0) -> str:
    """What `debug` said, once it has ended."""
    out, err = run.communicate(timeout=300)
    assert run.returncode == code, err
    return out + err


def begin(shop: Astro, *args: str) -> tuple[subprocess.Popen[str], int]:
    port = free_port()
    return shop.spawn("airflow", "debug", *args, "--port", str(port)), port


def wait_for_line(run: subprocess.Popen[str], text: str) -> str:
    """Read what `debug` says until a line has `text` in it; returns that line."""
    assert run.stderr is not None
    said = []
    for line in run.stderr:
        if text in line:
            return line
        said.append(line)
    raise AssertionError(f"it never said {text!r}:\n{''.join(said)}")


@contextmanager
def attached(run: subprocess.Popen[str], port: int) -> Iterator[Debugger]:
    """A debugger, from the moment when the task waits for it."""
    wait_for_line(run, "waits: attach")
    with Debugger(port) as debugger:
        debugger.attach()
        yield debugger


def test_a_debugger_stops_in_the_users_function_and_the_task_then_succeeds(shop: Astro):
    run, port = begin(shop, "sums", "second")
    with attached(run, port) as debugger:
        frame = debugger.stopped()
        assert frame["source"]["path"] == "/opt/airflow/dags/debugged.py"
        assert (frame["name"], frame["line"]) == (
            "second",
            DAGS.split("\n").index("        double = value * 2") + 1,
        )
        assert debugger.value("value", frame) == "20"
        debugger.ask("next", threadId=frame["thread"])
        assert debugger.value("double", debugger.stopped()) == "40"
        # longer than the task may run, and than Airflow waits for a sign of life
        time.sleep(25)
        debugger.ask("continue", threadId=frame["thread"])
        said = finish(run)
    assert "stopped in second, dags/debugged.py:" in said
    assert "second: success after" in said


def test_what_the_debugger_changes_is_what_the_task_goes_on_with(shop: Astro, url: str):
    run, port = begin(shop, "sums", "second")
    run_id = wait_for_line(run, "waiting for").split()[1].rstrip(":")
    with attached(run, port) as debugger:
        frame = debugger.stopped()
        debugger.ask("setExpression", expression="value", value="100", frameId=frame["id"])
        debugger.ask("continue", threadId=frame["thread"])
        finish(run)
    xcom = get(url, f"/api/v2/dags/sums/dagRuns/{run_id}/taskInstances/second/xcomEntries/return_value")
    assert str(xcom["value"]) == "202"


def test_the_port_answers_on_the_loopback_interface_only_and_only_meanwhile(shop: Astro):
    run, port = begin(shop, "sums", "second")
    with attached(run, port) as debugger:
        tables = [Path(f"/proc/net/{name}").read_text().splitlines() for name in ("tcp", "tcp6")]
        sockets = [line.split() for table in tables for line in table]
        listening = [each[1] for each in sockets if each[3] == "0A" and each[1].endswith(f":{port:04X}")]
        assert listening == [f"0100007F:{port:04X}"]  # 127.0.0.1
        debugger.ask("continue", threadId=debugger.stopped()["thread"])
        finish(run)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_an_operator_of_the_project_stops_in_its_own_execute(shop: Astro):
    run, port = begin(shop, "others", "shout")
    with attached(run, port) as debugger:
        frame = debugger.stopped()
        assert frame["source"]["path"] == "/opt/airflow/include/words.py"
        assert debugger.value("self.word", frame) == "'hey'"
        debugger.ask("continue", threadId=frame["thread"])
        assert "shout: success" in finish(run)


def test_an_operator_of_a_package_stops_in_its_execute(shop: Astro):
    run, port = begin(shop, "others", "shell")
    with attached(run, port) as debugger:
        frame = debugger.stopped()
        assert frame["source"]["path"].endswith("/operators/bash.py")
        assert (frame["name"], debugger.value("self.bash_command", frame)) == ("execute", "'echo done'")
        debugger.ask("continue", threadId=frame["thread"])
        assert "shell: success" in finish(run)


def test_one_instance_of_a_mapped_task_stops_and_the_others_run_through(shop: Astro, url: str):
    run, port = begin(shop, "others", "each[1]")
    with attached(run, port) as debugger:
        frame = debugger.stopped()
        assert debugger.value("n", frame) == "11"
        debugger.ask("continue", threadId=frame["thread"])
        assert "each[1]: success" in finish(run)


def test_a_task_of_a_run_that_is_over_is_done_again(shop: Astro, url: str):
    assert run_dag(url, "others") == "success"
    run_id = get(url, "/api/v2/dags/others/dagRuns?order_by=-id&limit=1")["dag_runs"][0]["dag_run_id"]
    run, port = begin(shop, "others", "shout", "--run", run_id)
    with attached(run, port) as debugger:
        debugger.ask("continue", threadId=debugger.stopped()["thread"])
        finish(run)
    task = get(url, f"/api/v2/dags/others/dagRuns/{run_id}/taskInstances/shout")
    assert (task["state"], task["try_number"]) == ("success", 2)


def test_a_task_that_fails_in_the_debugger_is_exit_code_1(shop: Astro):
    run, port = begin(shop, "sums", "broken")
    with attached(run, port) as debugger:
        debugger.ask("continue", threadId=debugger.stopped()["thread"])
        debugger.event("terminated")  # an editor goes now; Airflow would wait a minute for one that stays
    assert "broken: failed" in finish(run, code=1)


def test_a_task_that_can_never_begin_is_told_with_what_stands_before_it(shop: Astro):
    run, _ = begin(shop, "sums", "after")
    assert "failed in task `broken`" in finish(run, code=1)


def test_ctrl_c_lets_the_waiting_task_go_on_and_leaves_no_trap(shop: Astro, url: str):
    run, _ = begin(shop, "others", "shout")
    run_id = wait_for_line(run, "waiting for").split()[1].rstrip(":")
    wait_for_line(run, "waits: attach")
    os.killpg(run.pid, signal.SIGINT)
    said = finish(run, code=130)
    assert f"run {run_id} goes on" in said
    assert wait_for_run(url, "others", run_id) == "success"
    assert run_dag(url, "others") == "success"  # nobody is there to attach


def test_ctrl_c_while_stopped_detaches_and_the_task_goes_on(shop: Astro, url: str):
    run, port = begin(shop, "others", "shout")
    run_id = wait_for_line(run, "waiting for").split()[1].rstrip(":")
    with attached(run, port) as debugger:
        debugger.stopped()
        os.killpg(run.pid, signal.SIGINT)
        finish(run, code=130)
        assert wait_for_run(url, "others", run_id) == "success"


@pytest.mark.long
def test_when_astro_is_killed_the_next_debug_is_not_refused_for_long(shop: Astro, url: str):
    run, _ = begin(shop, "others", "shout", "--wait", "60")
    wait_for_line(run, "waits: attach")
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    end = time.monotonic() + 180
    while True:
        again, port = begin(shop, "others", "shout")
        assert again.stderr is not None
        if "another `astro airflow debug` waits" not in (line := again.stderr.readline()):
            break
        assert time.monotonic() < end, line
        finish(again, code=1)
    with attached(again, port) as debugger:
        debugger.ask("continue", threadId=debugger.stopped()["thread"])
        finish(again)


def test_nobody_attaches_in_time(shop: Astro):
    run, _ = begin(shop, "others", "shout", "--wait", "10")
    assert "no debugger was attached within 10 seconds" in finish(run, code=1)


def test_two_at_once_are_refused(shop: Astro):
    first, port = begin(shop, "others", "shout")
    wait_for_line(first, "waiting for")
    second, _ = begin(shop, "others", "shell")
    assert "another `astro airflow debug` waits in this sandbox" in finish(second, code=1)
    with attached(first, port) as debugger:
        debugger.ask("continue", threadId=debugger.stopped()["thread"])
        finish(first)


def test_what_does_not_exist_or_is_taken_is_said_before_anything_starts(shop: Astro):
    assert "did you mean `sums`?" in shop("airflow", "debug", "sum", "second", code=1).stderr
    assert "did you mean `second`?" in shop("airflow", "debug", "sums", "secnd", code=1).stderr
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        said = shop("airflow", "debug", "sums", "second", "--port", port, code=1).stderr
    assert f"port {port} is already in use" in said
    assert "--port" in said
