"""The warm runner as real processes, with a stand-in for what it does in Airflow."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from astro_cli.runtime.inside import dag_runs, parsing, runner

SERVER = """
import os, sys, time
from pathlib import Path
from astro_cli.runtime.inside import runner
runner._warm_up = lambda: None
runner.drop_leftovers = lambda: None

def work(argv):
    if argv[0] == "cat":
        print(sys.stdin.read(), end="")
    elif argv[0] == "sleep":
        try:
            print("asleep", flush=True)
            time.sleep(60)
        finally:
            Path(argv[1]).write_text("ended")
    elif argv[0] == "crash":
        raise RuntimeError("on purpose")
    elif argv[0] == "environment":
        print(os.environ.get(argv[1]))
    return int(argv[-1]) if argv[-1].isdigit() else 0

runner._request = lambda argv, connection: runner.supervised(connection, lambda: work(argv))
runner.serve(Path(sys.argv[1]))
"""

CLIENT = """
import sys
from pathlib import Path
from astro_cli.runtime.inside import runner
sys.exit(runner.client(Path(sys.argv[1]), sys.argv[2:]))
"""


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[Path]:
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(tmp_path)])
    end = time.monotonic() + 60
    try:
        while not (tmp_path / runner.SOCKET).exists():
            assert time.monotonic() < end, "the runner does not listen"
            time.sleep(0.01)
        yield tmp_path
    finally:
        process.kill()
        process.wait()


def ask(run_dir: Path, *argv: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CLIENT, str(run_dir), *argv]
    return subprocess.run(command, text=True, capture_output=True, timeout=60, **options)  # type: ignore[call-overload, no-any-return]


def test_input_output_and_exit_code_pass_through(run_dir: Path):
    done = ask(run_dir, "cat", "7", input="hello")
    assert (done.stdout, done.stderr, done.returncode) == ("hello", "", 7)


def test_each_request_begins_from_a_clean_process(run_dir: Path):
    assert ask(run_dir, "environment", "COLUMNS", env={**os.environ, "COLUMNS": "99"}).stdout == "99\n"
    environ = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    assert ask(run_dir, "environment", "COLUMNS", env=environ).stdout != "99\n"


def test_a_crash_is_the_requests_alone(run_dir: Path):
    crashed = ask(run_dir, "crash")
    assert crashed.returncode == 1
    assert "RuntimeError: on purpose" in crashed.stderr
    assert ask(run_dir, "cat", input="still here").stdout == "still here"


def test_ctrl_c_reaches_the_work_which_cleans_up(run_dir: Path, tmp_path: Path):
    note = tmp_path / "note"
    command = [sys.executable, "-c", CLIENT, str(run_dir), "sleep", str(note)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "asleep\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    process.stdout.close()
    assert note.read_text() == "ended"


def test_work_ends_when_its_client_is_gone(run_dir: Path, tmp_path: Path):
    note = tmp_path / "note"
    command = [sys.executable, "-c", CLIENT, str(run_dir), "sleep", str(note)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "asleep\n"
    process.kill()
    process.wait()
    process.stdout.close()
    end = time.monotonic() + 60
    while not note.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert note.exists()


def test_many_requests_at_once_each_get_their_own_answer(run_dir: Path):
    command = [sys.executable, "-c", CLIENT, str(run_dir), "cat"]
    processes = [
        subprocess.Popen([*command, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for n in range(8)
    ]
    for number, process in enumerate(processes):
        said, _ = process.communicate(f"I am {number}", timeout=60)
        assert (said, process.returncode) == (f"I am {number}", number)


def test_the_error_is_told_with_the_projects_own_frames_innermost_first(tmp_path: Path):
    (tmp_path / "dags").mkdir()
    (tmp_path / "include").mkdir()
    helper = tmp_path / "include/helper.py"
    helper.write_text("def boom():\n    return {}['missing']\n")
    dag = tmp_path / "dags/a.py"
    dag.write_text("import json\n\njson.loads = boom\nboom()\n")
    scope: dict[str, object] = {}
    exec(compile(helper.read_text(), str(helper), "exec"), scope)
    try:
        exec(compile(dag.read_text().replace("json.loads = boom", ""), str(dag), "exec"), scope)
    except KeyError as exc:
        told = parsing.describe(tmp_path, str(dag), exc)
    assert (told["error"], told["message"], told["file"], told["line"]) == (
        "KeyError", "'missing'", "include/helper.py", 2,
    )  # fmt: skip
    assert [frame["file"] for frame in told["frames"]] == ["include/helper.py", "dags/a.py"]
    assert told["source"][-1] == {"line": 2, "text": "    return {}['missing']"}


def test_a_tasks_log_is_told_without_airflows_own_frames_and_chatter():
    lines = [
        "[error    ] Task failed with exception     [task]",
        "Traceback (most recent call last):",
        '  File "/opt/venv/lib/python3.13/site-packages/airflow/sdk/bases/operator.py", line 462, in wrapper',
        "    return func(self, *args, **kwargs)",
        "           ~~~~^^^^^^^^^^^^^^^^^^^^^^^",
        '  File "/opt/airflow/dags/shop.py", line 19, in check',
        '    raise ValueError("no price")',
        "ValueError: no price",
        "[info     ] ::endgroup::                   [task] loc=task_runner.py:2379",
    ]
    assert list(dag_runs.readable(lines)) == [lines[0], lines[1], lines[5], lines[6], lines[7]]


class FakeTask:
    """A task with these arguments."""

    def __init__(self, **arguments: object) -> None:
        self.__dict__.update(arguments)


class FakeDag:
    """A DAG of these tasks."""

    def __init__(self, *tasks: FakeTask) -> None:
        self.tasks = tasks


def test_a_dag_needs_those_that_it_triggers_or_waits_for():
    dag = FakeDag(
        FakeTask(trigger_dag_id="next"),
        FakeTask(external_dag_id="before"),
        FakeTask(),
        FakeTask(trigger_dag_id=None),
    )
    assert dag_runs._related(dag) == ["next", "before"]
