"""A debugger and hot connections without Docker."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

from tests.dap import Debugger
from tests.engine.astro import get, run_dag, wait_for_dag, wait_for_run
from tests.free_port import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.engine.astro import Astro

SUMS = """
from airflow.sdk import BaseHook, dag, task

@dag(schedule=None, is_paused_upon_creation=False)
def sums():
    @task
    def second(value):
        double = value * 2
        return double + 2
    second(20)
sums()

@dag(schedule=None, is_paused_upon_creation=False)
def asks():
    @task
    def ask():
        return BaseHook.get_connection("warehouse").host
    ask()
asks()
"""


def said(run: subprocess.Popen[str], code: int) -> str:
    out, err = run.communicate(timeout=300)
    assert run.returncode == code, err
    return out + err


def test_a_task_stops_in_the_debugger_and_a_connections_file_is_read_at_every_run(
    make_project: Callable[[str], Astro],
):
    shop = make_project("shop")
    shop.write("dags/sums.py", SUMS)
    shop.write("secrets/connections.yaml", "warehouse: {conn_type: postgres, host: one.example}\n")
    url = shop.start()["url"]
    wait_for_dag(url, "asks")

    assert returned_host(url) == "one.example"
    shop.write("secrets/connections.yaml", "warehouse: {conn_type: postgres, host: two.example}\n")
    assert returned_host(url) == "two.example"

    port = free_port()
    run = shop.spawn("airflow", "debug", "sums", "second", "--port", str(port))
    with Debugger(port) as debugger:
        debugger.attach()
        frame = debugger.stopped()
        assert frame["source"]["path"] == str((shop.folder / "dags/sums.py").resolve())
        assert (frame["name"], debugger.value("value", frame)) == ("second", "20")
        debugger.ask("continue", threadId=frame["thread"])
        assert "second: success after" in said(run, 0)

    run = shop.spawn("airflow", "debug", "sums", "second", "--port", str(port))
    assert run.stderr is not None
    run_id = next(line for line in run.stderr if "waiting for" in line).split()[1].rstrip(":")
    next(line for line in run.stderr if "waits: attach" in line)
    os.killpg(run.pid, signal.SIGINT)
    assert f"run {run_id} goes on" in said(run, 130)
    assert wait_for_run(url, "sums", run_id) == "success"


def returned_host(url: str) -> str:
    """What the host of the connection is for a task of a new run."""
    assert run_dag(url, "asks") == "success"
    run_id = get(url, "/api/v2/dags/asks/dagRuns?order_by=-id&limit=1")["dag_runs"][0]["dag_run_id"]
    value = get(url, f"/api/v2/dags/asks/dagRuns/{run_id}/taskInstances/ask/xcomEntries/return_value")[
        "value"
    ]
    return str(value).strip('"')
