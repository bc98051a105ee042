"""The debugger's two sides without Airflow: who is answered, and where a task would stop."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from astro_cli.runtime.inside import debugger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

SUPERVISOR = Path(debugger.__file__).with_name("supervisor.py")
WANTED = {
    "dag_id": "sums",
    "run_id": "r1",
    "task_id": "second",
    "map_index": None,
    "port": 5678,
    "seconds": 60,
}
QUESTION = {"dag_id": "sums", "run_id": "r1", "task_id": "second", "map_index": -1}


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment in which the Airflow that the hook knows seems to be installed."""
    metadata = tmp_path / "site" / f"apache_airflow_core-{debugger.KNOWN_VERSION}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Name: apache-airflow-core\nVersion: {debugger.KNOWN_VERSION}\n")
    return {**os.environ, "PYTHONPATH": str(metadata.parent)}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "environment.json").write_text("{}")
    return folder


class Waiting:
    """`astro-debug wait`, as the supervisor runs it."""

    def __init__(self, run_dir: Path, environ: dict[str, str], **changes: Any) -> None:
        self.run_dir = run_dir
        self._environ = environ
        self.process = self.spawn("wait", json.dumps({**WANTED, **changes}))

    def spawn(self, *args: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(SUPERVISOR), "exec", str(self.run_dir), "--", "astro-debug", *args]
        return subprocess.Popen(command, env=self._environ, stdout=subprocess.PIPE, text=True)

    def line(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def ask(self, **changes: Any) -> tuple[socket.socket, Any]:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(60)
        debugger._connect(connection, self.run_dir)
        connection.sendall(json.dumps({**QUESTION, **changes}).encode() + b"\n")
        with connection.makefile("rb") as answers:
            return connection, json.loads(answers.readline())


@pytest.fixture
def waiting(run_dir: Path, environ: dict[str, str]) -> Iterator[Waiting]:
    each = Waiting(run_dir, environ)
    yield each
    each.process.kill()
    each.process.communicate()


@pytest.mark.parametrize(
    "other", [{"dag_id": "x"}, {"run_id": "r2"}, {"task_id": "first"}], ids=["dag", "run", "task"]
)
def test_any_other_task_is_let_through(waiting: Waiting, other: dict[str, str]):
    assert waiting.line() == {"type": "armed"}
    connection, answer = waiting.ask(**other)
    connection.close()
    assert answer == {}


def test_the_task_is_stopped_once_and_what_it_tells_is_passed_on(waiting: Waiting):
    waiting.line()
    task, answer = waiting.ask()
    assert answer == {"port": 5678}
    again, second_answer = waiting.ask()
    again.close()
    assert second_answer == {}
    task.sendall(b'{"type": "listening", "map_index": -1}\n{"type": "att')
    task.sendall(b'ached"}\n')
    assert waiting.line() == {"type": "listening", "map_index": -1}
    assert waiting.line() == {"type": "attached"}
    task.close()
    assert waiting.line() == {"type": "ended"}
    assert waiting.process.wait(60) == 0
    assert not (waiting.run_dir / "debug.sock").exists()


def test_one_instance_of_a_mapped_task_is_meant_if_it_is_named(run_dir: Path, environ: dict[str, str]):
    waiting = Waiting(run_dir, environ, map_index=2)
    waiting.line()
    for index, expected in ((1, {}), (2, {"port": 5678})):
        connection, answer = waiting.ask(map_index=index)
        connection.close()
        assert answer == expected
    waiting.process.communicate(timeout=60)


def test_a_second_one_is_told_that_there_is_a_first_and_cannot_end_it(waiting: Waiting):
    waiting.line()
    second = waiting.spawn("wait", json.dumps({**WANTED, "run_id": "r2"}))
    assert json.loads(second.communicate(timeout=60)[0]) == {"type": "busy"}
    waiting.spawn("end", "r2").communicate(timeout=60)
    connection, answer = waiting.ask(run_id="r2")
    connection.close()
    assert answer == {}
    waiting.spawn("end", "r1").communicate(timeout=60)
    assert waiting.process.wait(60) == 0


def test_a_task_learns_that_nobody_waits_any_more(waiting: Waiting):
    waiting.line()
    task, _ = waiting.ask()
    waiting.process.terminate()
    assert task.recv(1) == b""
    task.close()


def test_without_a_debugger_in_time_it_ends(run_dir: Path, environ: dict[str, str]):
    waiting = Waiting(run_dir, environ, seconds=0.2)
    assert [waiting.line(), waiting.line()] == [{"type": "armed"}, {"type": "timeout"}]
    waiting.process.communicate(timeout=60)


def test_a_socket_that_a_killed_one_left_behind_lets_tasks_through_and_is_replaced(
    waiting: Waiting, environ: dict[str, str]
):
    waiting.line()
    waiting.process.kill()
    waiting.process.communicate()
    assert (waiting.run_dir / "debug.sock").exists()

    class Instance:
        dag_id, run_id, task_id, map_index = "sums", "r1", "second", -1

    assert debugger._ask(waiting.run_dir, Instance) is None
    waiting.process = waiting.spawn("wait", json.dumps(WANTED))
    assert waiting.line() == {"type": "armed"}


def test_an_airflow_that_the_hook_does_not_know_is_refused(run_dir: Path, environ: dict[str, str]):
    for metadata in Path(environ["PYTHONPATH"]).glob("*/METADATA"):
        metadata.write_text("Name: apache-airflow-core\nVersion: 4.0.0\n")
    waiting = Waiting(run_dir, environ)
    told = waiting.line()
    assert (told["type"], waiting.process.wait(60)) == ("unsupported", 1)
    assert "4.0.0" in told["reason"]
    waiting.process.communicate()


def test_the_relay_carries_both_ways_until_one_side_ends(run_dir: Path, environ: dict[str, str]):
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = [sys.executable, str(SUPERVISOR), "exec", str(run_dir), "--", "astro-debug", "relay"]
        command.append(str(server.getsockname()[1]))
        relay = subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        target, _ = server.accept()
    with target:
        assert relay.stdin is not None
        relay.stdin.write(b"question")
        relay.stdin.flush()
        assert target.recv(100) == b"question"
        target.sendall(b"answer" * 50_000)
        assert relay.stdout is not None
        assert relay.stdout.read(300_000) == b"answer" * 50_000
    relay.communicate(timeout=60)
    assert relay.returncode == 0


# where a task stops

OWN = """
class Base:
    def execute(self):
        return helper()

def helper():
    one = 1
    return one

lazy = lambda: 2
"""


class Deaf:
    """A channel that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []

    def tell(self, kind: str, **more: Any) -> None:
        self.told.append((kind, more))


def place(channel: Deaf, task: Any, project: Path) -> debugger.Place:
    """One at which no debugger is called."""
    return debugger.Place(cast("debugger.Channel", channel), task, f"{project}/", lambda frame: None)


def module(path: Path, text: str) -> ModuleType:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def stops(channel: Deaf) -> list[Any]:
    return [
        (Path(more["file"]).name, more["function"], more["line"]) if kind == "stopped" else kind
        for kind, more in channel.told
    ]


def test_an_operator_of_the_project_stops_in_its_execute(tmp_path: Path):
    own = module(tmp_path / "dags/own_operator.py", OWN)
    channel = Deaf()
    task = own.Base()
    with place(channel, task, tmp_path).watched():
        task.execute()
    assert stops(channel) == [("own_operator.py", "execute", 4)]


def test_a_function_of_the_project_stops_although_the_operator_is_a_packages(tmp_path: Path):
    own = module(tmp_path / "dags/own_function.py", OWN)
    package = module(
        tmp_path / "elsewhere/site-packages/package_operator.py",
        "class Runs:\n    def execute(self):\n        return self.python_callable()\n",
    )
    channel = Deaf()
    task = package.Runs()
    task.python_callable = own.helper
    with place(channel, task, tmp_path).watched():
        task.execute()
    assert stops(channel) == [("own_function.py", "helper", 7)]


def test_an_operator_without_code_of_the_project_stops_in_its_own_execute(tmp_path: Path):
    package = module(
        tmp_path / "site-packages/package_only.py", "class Runs:\n    def execute(self):\n        return 1\n"
    )
    channel = Deaf()
    task = package.Runs()
    with place(channel, task, tmp_path / "dags").watched():
        task.execute()
    assert stops(channel) == [("package_only.py", "execute", 3)]


def test_a_function_on_one_line_stops_there(tmp_path: Path):
    own = module(tmp_path / "dags/own_lambda.py", OWN)
    channel = Deaf()
    with place(channel, own.Base(), tmp_path).watched():
        own.lazy()
    assert stops(channel) == [("own_lambda.py", "<lambda>", 10)]


def test_a_task_that_calls_none_of_its_code_here_is_told(tmp_path: Path):
    own = module(tmp_path / "dags/own_unused.py", OWN)
    channel = Deaf()
    before = sys.gettrace()
    with place(channel, own.Base(), tmp_path).watched():
        time.sleep(0)
    assert stops(channel) == ["missed"]
    assert sys.gettrace() is before


def test_a_failing_task_fails_as_always(tmp_path: Path):
    own = module(
        tmp_path / "dags/own_failing.py", "class Fails:\n    def execute(self):\n        return 1 / 0\n"
    )
    with pytest.raises(ZeroDivisionError), place(Deaf(), own.Fails(), tmp_path).watched():
        own.Fails().execute()


def test_only_the_calling_thread_is_watched(tmp_path: Path):
    own = module(tmp_path / "dags/own_thread.py", OWN)
    channel = Deaf()
    with place(channel, own.Base(), tmp_path).watched():
        thread = threading.Thread(target=own.helper)
        thread.start()
        thread.join()
    assert stops(channel) == ["missed"]
