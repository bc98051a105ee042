"""What the supervisor does for the standalone engine alone: a database server of its own, and a log file."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from astro_cli.runtime.engine import LogQuery
from astro_cli.runtime.standalone_logs import read
from tests.runtime.test_supervisor import SLEEP, Run, make, python

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["make"]

SERVER = """
import signal, sys, time
def end(number, frame):
    print("ended by", signal.Signals(number).name, flush=True)
    sys.exit(0)
signal.signal(signal.SIGINT, end)
signal.signal(signal.SIGTERM, end)
print("serving", flush=True)
time.sleep(100)
"""
CLIENT = """
import signal, sys, time
def end(number, frame):
    time.sleep(0.3)
    print("goodbye", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("up", flush=True)
time.sleep(100)
"""
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z \S+ \| .*")


def test_the_database_server_starts_first_and_ends_last_by_its_fast_shutdown(make: Callable[..., Run]):
    run = make(services={"scheduler": python(CLIENT)}, server=python(SERVER)).start()
    run.wait_for(lambda: "serving" in run.log and "up" in run.log)
    assert list(run.status()["services"]) == ["postgres", "scheduler"]
    assert run.stop() == 0
    lines = [line for line in run.log.splitlines() if not line.startswith("astro")]
    assert lines[-2:] == ["scheduler | goodbye", "postgres | ended by SIGINT"]


def test_programs_run_beside_the_services_end_after_them_and_come_back(make: Callable[..., Run]):
    run = make(services={"scheduler": python(CLIENT)}, programs={"s3": python(SERVER)}).start()
    run.wait_for(lambda: "serving" in run.log and "up" in run.log)
    os.kill(run.wait_for_pid("s3"), signal.SIGKILL)
    run.wait_for(lambda: run.log.count("serving") == 2)
    run.wait_for_service("s3", restarts=1)
    assert run.stop() == 0
    lines = [line for line in run.log.splitlines() if not line.startswith("astro")]
    assert lines[-2:] == ["scheduler | goodbye", "s3 | ended by SIGTERM"]


def test_a_database_server_that_died_comes_back(make: Callable[..., Run]):
    run = make(services={"scheduler": python(SLEEP)}, server=python("import sys; sys.exit(3)")).start()
    run.wait_for(lambda: run.service("postgres").get("restarts", 0) >= 1)
    assert run.service("postgres")["exit_code"] == 3
    run.wait_for_service("scheduler", state="running")


def test_lines_of_the_log_file_carry_their_time_and_are_private(make: Callable[..., Run], tmp_path: Path):
    log = tmp_path / "lines"
    run = make(services={"scheduler": python("print('hello'); import time; time.sleep(100)")}, log=str(log))
    run.start()
    run.wait_for(lambda: log.exists() and "hello" in log.read_text())
    assert all(LINE.fullmatch(line) for line in log.read_text().splitlines())
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert run.log == ""


def test_a_log_that_has_grown_makes_room_and_no_line_is_lost(make: Callable[..., Run], tmp_path: Path):
    log = tmp_path / "lines"
    code = "for i in range(30000): print(i, 'x' * 400)\nimport time; time.sleep(100)"
    run = make(services={"scheduler": python(code)}, log=str(log)).start()

    def numbers() -> list[int]:
        lines = read(log, LogQuery(services=("scheduler",)), lambda: True)
        return [int(line.text.split()[0]) for line in lines]

    run.wait_for(lambda: log.exists() and "29999 x" in log.read_text())
    assert numbers() == list(range(30000))
    assert (tmp_path / "lines.1").exists()


@pytest.mark.parametrize("key", ["server", "log"])
def test_a_wrong_value_is_refused(make: Callable[..., Run], key: str):
    run = make(services={"scheduler": python(SLEEP)}, **{key: 7}).start()
    assert run.process is not None
    assert run.process.wait(60) == 1
    assert "config.json" in run.log
    assert json.loads((run.folder / "config.json").read_text())[key] == 7
