"""The supervisor with small stand-in programs: no Airflow, real processes, a real database file."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from astro_cli.runtime.inside import supervision, supervisor
from astro_cli.runtime.inside.configuration import EXIT_CONFIG, EXIT_MIGRATION, EXIT_NEWER, Config
from astro_cli.runtime.inside.health import component_health, parse_health
from astro_cli.runtime.inside.log_lines import LINE_LIMIT, LineBuffer, LineWriter
from astro_cli.runtime.inside.migrations import database_error, judge_revisions
from astro_cli.runtime.inside.supervision import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SLEEP = "import time; time.sleep(100)"
FAIL = "import sys; print('going down', flush=True); sys.exit(7)"
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(100)
"""
# A worker in a process group of its own, as Airflow makes for a task: only its session says whose it is.
WITH_WORKER = """
import os, time
if os.fork() == 0:
    os.setpgid(0, 0)
os.write(1, b"%d\\n" % os.getpid())
time.sleep(100)
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


class Run:
    """A supervisor process with its folder."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.folder = folder
        self.environment: dict[str, str] = {"SANDBOX_VALUE": "hunter2"}
        self.config: dict[str, Any] = {"fork": False, "grace_seconds": 2, **config}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **environment: str) -> Run:
        (self.folder / "environment.json").write_text(json.dumps(self.environment))
        (self.folder / "config.json").write_text(json.dumps(self.config))
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                self.command("run", str(self.folder)),
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
            )
        return self

    @staticmethod
    def command(*arguments: str) -> list[str]:
        return [sys.executable, str(supervisor.__file__), *arguments]

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def status(self) -> dict[str, Any]:
        try:
            data: dict[str, Any] = json.loads((self.folder / "status.json").read_text())
        except FileNotFoundError:
            return {"services": {}}
        return data

    def service(self, name: str) -> dict[str, Any]:
        entry: dict[str, Any] = self.status()["services"].get(name, {})
        return entry

    def pids_in_log(self, name: str) -> list[int]:
        prefix = f"{name} | "
        return [int(line[len(prefix) :]) for line in self.log.splitlines() if line.startswith(prefix)]

    def wait_for(self, what: Callable[[], object], seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not what():
            if time.monotonic() > end:
                raise AssertionError(f"waited in vain; log:\n{self.log}\nstatus: {self.status()}")
            time.sleep(0.02)

    def stop(self) -> int:
        assert self.process
        self.process.terminate()
        return self.process.wait(60)

    def wait_for_service(self, name: str, **expected: Any) -> dict[str, Any]:
        """What the status says of a service once it says all this at one time."""
        found: dict[str, Any] = {}

        def fits() -> bool:
            found.clear()
            found.update(self.service(name))
            return all(key in found and found[key] == value for key, value in expected.items())

        self.wait_for(fits)
        return found

    def wait_for_pid(self, name: str) -> int:
        """The process of a service, once the status has it."""
        self.wait_for(lambda: self.service(name).get("pid"))
        return int(self.service(name)["pid"])


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A process that ended but was not collected by init yet is not alive.
    listing = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return bool(listing.stdout.strip()) and not listing.stdout.startswith("Z")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def build(**config: Any) -> Run:
        runs.append(Run(tmp_path, **config))
        return runs[-1]

    yield build
    for run in runs:
        if run.process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                run.process.terminate()
                run.process.wait(8)
            run.process.kill()
            run.process.wait()


def test_lines_of_a_service_carry_its_name_and_secrets_are_never_printed(make: Callable[..., Run]) -> None:
    code = "import os, sys; print('one'); sys.stderr.write('two\\n'); print(len(os.environ['SANDBOX_VALUE']))"
    run = make(services={"scheduler": python(code)}).start()
    run.wait_for(lambda: {"scheduler | two", "scheduler | 7"} <= set(run.log.splitlines()))
    lines = run.log.splitlines()
    assert "scheduler | one" in lines
    assert "scheduler | two" in lines
    assert "hunter2" not in run.log


def test_a_crashed_service_is_recorded_and_restarted_later_and_later(make: Callable[..., Run]) -> None:
    run = make(services={"scheduler": python(FAIL), "triggerer": python(SLEEP)}).start()
    crashed = run.wait_for_service("scheduler", state="backoff")
    assert (crashed["exit_code"], crashed["signal"], crashed["pid"], crashed["health"]) == (
        7,
        None,
        None,
        "unhealthy",
    )
    run.wait_for(lambda: run.service("scheduler")["restarts"] >= 2)
    assert "scheduler ended unexpectedly (exit code 7); again in 1 s" in run.log
    assert "scheduler ended unexpectedly (exit code 7); again in 2 s" in run.log
    triggerer = run.wait_for_service("triggerer", state="running")
    assert triggerer["restarts"] == 0


def test_a_killed_service_is_recorded_with_its_signal(make: Callable[..., Run]) -> None:
    run = make(services={"scheduler": python(SLEEP)}).start()
    os.kill(run.wait_for_pid("scheduler"), signal.SIGKILL)
    killed = run.wait_for_service("scheduler", state="backoff")
    assert (killed["exit_code"], killed["signal"], killed["oom"]) == (None, "SIGKILL", False)


def test_a_program_that_does_not_exist_is_named(make: Callable[..., Run]) -> None:
    run = make(services={"scheduler": ["/nowhere/airflow"]}).start()
    run.wait_for(lambda: "scheduler | cannot run /nowhere/airflow: No such file or directory" in run.log)
    run.wait_for(lambda: run.service("scheduler")["exit_code"] == 127)


def test_back_off_doubles_up_to_thirty_seconds_and_a_long_life_forgives() -> None:
    service = Service("scheduler", ["airflow"])
    assert [service.next_backoff(0) for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    assert service.next_backoff(61) == 1


def test_terminating_ends_every_process_and_says_stopped(make: Callable[..., Run]) -> None:
    run = make(services={"scheduler": python(WITH_WORKER), "triggerer": python(STUBBORN)}).start()
    run.wait_for(lambda: len(run.pids_in_log("scheduler")) == 2 and "triggerer | up" in run.log)
    triggerer = run.wait_for_pid("triggerer")
    started = time.monotonic()
    assert run.stop() == 0
    assert time.monotonic() - started < 30  # not the hundred seconds for which both would live
    assert not any(alive(pid) for pid in [*run.pids_in_log("scheduler"), triggerer])
    assert {entry["state"] for entry in run.status()["services"].values()} == {"stopped"}
    assert {entry["health"] for entry in run.status()["services"].values()} == {None}
    assert "triggerer did not stop in time: killed" in run.log
    assert not (run.folder / "control.sock").exists()


def test_killing_the_supervisor_leaves_no_process(make: Callable[..., Run]) -> None:
    run = make(services={"scheduler": python(WITH_WORKER), "triggerer": python(STUBBORN)}).start()
    run.wait_for(lambda: len(run.pids_in_log("scheduler")) == 2 and run.service("triggerer").get("pid"))
    pids = [*run.pids_in_log("scheduler"), run.service("triggerer")["pid"]]
    assert run.process
    run.process.kill()
    run.process.wait()
    run.wait_for(lambda: not any(alive(pid) for pid in pids))


def test_what_a_dead_service_leaves_behind_is_ended_too(make: Callable[..., Run]) -> None:
    run = make(services={"scheduler": python(WITH_WORKER)}).start()
    run.wait_for(lambda: len(run.pids_in_log("scheduler")) == 2)
    scheduler = run.wait_for_pid("scheduler")
    worker = next(pid for pid in run.pids_in_log("scheduler") if pid != scheduler)
    os.kill(scheduler, signal.SIGKILL)
    run.wait_for(lambda: not alive(worker))


def test_restart_replaces_the_process_of_one_service(make: Callable[..., Run]) -> None:
    run = make(services={"scheduler": python(SLEEP), "triggerer": python(SLEEP)}).start()
    run.wait_for(lambda: run.service("scheduler").get("pid") and run.service("triggerer").get("pid"))
    before = run.status()["services"]
    answer = subprocess.run(
        run.command("restart", str(run.folder), "scheduler"), capture_output=True, text=True, check=False
    )
    assert (answer.returncode, answer.stdout) == (0, "scheduler restarted\n")
    run.wait_for(lambda: run.service("scheduler")["pid"] not in (None, before["scheduler"]["pid"]))
    assert run.service("scheduler")["restarts"] == 0
    assert run.service("triggerer")["pid"] == before["triggerer"]["pid"]


def test_restart_refuses_an_unknown_service_and_says_when_nothing_runs(
    make: Callable[..., Run], tmp_path: Path
) -> None:
    run = make(services={"scheduler": python(SLEEP)}).start()
    run.wait_for(lambda: run.service("scheduler").get("pid"))
    command = run.command("restart", str(tmp_path), "webserver")
    unknown = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (unknown.returncode, unknown.stdout) == (1, "no such service; there are scheduler\n")
    run.stop()
    nothing = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (nothing.returncode, nothing.stdout) == (1, "no supervisor is running\n")


def test_a_reader_of_the_status_never_sees_half_of_it(make: Callable[..., Run]) -> None:
    services = {f"service-{number}": python("pass") for number in range(20)}
    run = make(services=services).start()
    run.wait_for(lambda: (run.folder / "status.json").exists())
    end = time.monotonic() + 60
    seen: set[float] = set()
    while len(seen) < 5 and time.monotonic() < end:
        status = json.loads((run.folder / "status.json").read_text())
        assert set(status) == {
            "version",
            "started_at",
            "updated_at",
            "pid",
            "memory",
            "database",
            "message",
            "services",
        }
        seen.add(status["updated_at"])
    assert len(seen) == 5


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_of_a_service_counts_its_whole_tree(make: Callable[..., Run]) -> None:
    code = "import os, time; os.fork(); data = os.urandom(40_000_000); time.sleep(100)"
    run = make(services={"scheduler": python(code), "triggerer": python(SLEEP)}).start()
    run.wait_for(lambda: (run.service("scheduler").get("memory") or 0) > 70_000_000)
    assert 1_000_000 < run.service("triggerer")["memory"] < 40_000_000


def test_a_forked_service_runs_the_entry_point_as_its_own_program(
    make: Callable[..., Run], tmp_path: Path
) -> None:
    (tmp_path / "standin.py").write_text(
        "import os, random, signal, sys, time, __main__\n"
        "print('imported by', os.getpid())\n"
        "imported_by = os.getpid()\n"
        "def main():\n"
        "    assert os.getpid() != imported_by and os.getsid(0) == os.getpid()\n"
        "    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL\n"
        "    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])\n"
        "    assert set(os.listdir('/dev/fd')) <= {'0', '1', '2', '3'}, os.listdir('/dev/fd')\n"
        "    print(sys.argv, random.random())\n"
        "    if sys.argv[1] == 'scheduler': raise ValueError('boom')\n"
        "    if sys.argv[1] == 'triggerer': sys.exit(9)\n"
        "    time.sleep(100)\n"
    )
    names = ("scheduler", "triggerer", "api-server", "dag-processor")
    services = {name: ["airflow", name] for name in names}
    run = make(services=services, fork=True, entry="standin:main", health_url="http://127.0.0.1:1/")
    run.start(PYTHONPATH=str(tmp_path))
    run.wait_for(lambda: all(run.log.count(f"{name} | ['airflow', '{name}']") for name in names))
    run.wait_for_service("scheduler", exit_code=1)
    run.wait_for_service("triggerer", exit_code=9)
    lines = run.log.splitlines()
    assert sum("imported by" in line for line in lines) == 1
    assert all(line.startswith(("astro | ", *(f"{name} | " for name in names))) for line in lines)
    assert "scheduler | ValueError: boom" in lines
    numbers = [line.rsplit(" ", 1)[1] for line in lines if "['airflow'" in line]
    assert len(set(numbers)) == len(numbers)
    restart = run.command("restart", str(run.folder), "dag-processor")
    assert subprocess.run(restart, stdout=subprocess.DEVNULL, check=False).returncode == 0
    run.wait_for(lambda: run.log.count("dag-processor | ['airflow', 'dag-processor']") == 2)
    assert run.service("dag-processor")["restarts"] == 0
    forked = [run.wait_for_pid(name) for name in ("api-server", "dag-processor")]
    assert run.stop() == 0
    assert not any(alive(pid) for pid in forked)


AIRFLOW = """
import asyncio, sys, time

async def answer(scope, receive, send):
    await send({"type": "http.response.start", "status": 200})

def main():
    if sys.argv[1] == "api-server":
        from airflow.api_fastapi import app
        served, told = app.cached_app(apps="all"), []
        async def send(message):
            told.append(message.get("status"))
        for host in (b"localhost:8080", b"rebound.example"):
            asyncio.run(served({"type": "http", "headers": [(b"host", host)]}, None, send))
        print(sys.argv[0], "answers", told, flush=True)
    time.sleep(100)
"""


@pytest.mark.parametrize("fork", [True, False])
def test_airflows_api_answers_no_strangers_name_forked_or_not(
    make: Callable[..., Run], tmp_path: Path, fork: bool
) -> None:
    package = tmp_path / "airflow/api_fastapi"
    package.mkdir(parents=True)
    for name in ("airflow/__init__.py", "airflow/api_fastapi/__init__.py"):
        (tmp_path / name).touch()
    (tmp_path / "airflow/__main__.py").write_text(AIRFLOW)
    (package / "app.py").write_text(
        "from airflow.__main__ import answer\ndef cached_app(apps): return answer\n"
    )
    run = make(services={"api-server": ["airflow", "api-server"]}, fork=fork).start(PYTHONPATH=str(tmp_path))
    run.wait_for(lambda: "api-server | airflow answers [200, 403, None]" in run.log)
    assert run.stop() == 0


@pytest.mark.parametrize("days", [-2, 2])
def test_a_service_is_as_old_as_it_is_when_somebody_sets_the_clock(tmp_path: Path, days: int) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"services": {"scheduler": ["airflow", "scheduler"], "triggerer": ["x"]}}))
    watched = supervision.Supervisor(tmp_path, Config.load(config))
    began, jump = time.time() - 60, days * 86400.0
    watched.services["scheduler"].started_at = began
    watched.follow_clock(supervision.clock_offset() + 1)  # as clocks are corrected all the time
    assert watched.services["scheduler"].started_at == began
    watched.follow_clock(supervision.clock_offset() + jump)
    assert watched.services["scheduler"].started_at == pytest.approx(began + jump, abs=5)
    assert watched.services["triggerer"].started_at is None
    beat = datetime.fromtimestamp(time.time() + jump, timezone.utc).isoformat()
    answer = {"scheduler": {"status": "healthy", "latest_scheduler_heartbeat": beat}}
    since = watched.services["scheduler"].started_at or 0.0
    assert component_health(answer, "scheduler", since, "healthy") == "healthy"


# -------------------------------------------------------------------------------------------------- database


def database(folder: Path, *revisions: str) -> str:
    path = folder / "airflow.db"
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        if revisions:
            connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
            connection.executemany("INSERT INTO alembic_version VALUES (?)", [(name,) for name in revisions])
    (folder / "migrations.json").write_text(json.dumps({"heads": ["c"], "known": ["a", "b", "c"]}))
    return f"sqlite:///{path}"


def with_database(run: Run, *revisions: str) -> Run:
    run.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = database(run.folder, *revisions)
    run.config["migrations"] = str(run.folder / "migrations.json")
    return run


def test_a_database_of_a_newer_airflow_is_refused(make: Callable[..., Run]) -> None:
    run = with_database(make(services={"scheduler": python(SLEEP)}), "z").start()
    assert run.process
    assert run.process.wait(60) == EXIT_NEWER
    assert run.status()["database"] == "newer"
    assert "astro | the database was made by a newer Airflow (revision z)" in run.log
    assert run.service("scheduler")["started_at"] is None


@pytest.mark.parametrize("revisions", [(), ("a",)])
def test_an_empty_or_older_database_is_migrated_before_anything_starts(
    make: Callable[..., Run], tmp_path: Path, revisions: tuple[str, ...]
) -> None:
    seen = tmp_path / "seen"
    migrate = python(
        "import os, time; print('migrating', flush=True)\n"
        f"while not os.path.exists({str(seen)!r}): time.sleep(0.02)"
    )
    run = with_database(make(services={"scheduler": python(SLEEP)}, migrate=migrate), *revisions).start()
    run.wait_for(lambda: run.status().get("database") == "migrating")
    assert run.service("scheduler")["state"] == "starting"
    seen.touch()
    run.wait_for(lambda: run.service("scheduler")["state"] == "running")
    assert run.status()["database"] == "ready"
    assert run.service("migrate")["state"] == "finished"
    assert run.log.index("migrate | migrating") < run.log.index("migrate finished (exit code 0)")


def test_a_current_database_needs_no_migration(make: Callable[..., Run]) -> None:
    code = (
        "import os, time; print(os.environ['AIRFLOW__DATABASE__CHECK_MIGRATIONS'], flush=True); time.sleep(9)"
    )
    run = with_database(make(services={"scheduler": python(code)}, migrate=python(FAIL)), "c").start()
    run.wait_for(lambda: "scheduler | False" in run.log)
    assert "migrate" not in run.status()["services"]


def test_a_failed_migration_ends_the_run_with_its_own_exit_code(make: Callable[..., Run]) -> None:
    run = with_database(make(services={"scheduler": python(SLEEP)}, migrate=python(FAIL))).start()
    assert run.process
    assert run.process.wait(60) == EXIT_MIGRATION
    assert run.status()["database"] == "failed"
    assert run.service("migrate")["exit_code"] == 7
    assert "migrate | going down" in run.log


def test_services_wait_until_the_database_listens(make: Callable[..., Run]) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = {"host": "127.0.0.1", "port": server.getsockname()[1]}
        run = make(services={"scheduler": python(SLEEP)}, database=address).start()
        run.wait_for(lambda: run.status().get("message"))
        assert (run.status()["database"], run.service("scheduler")["state"]) == ("waiting", "starting")
        server.listen()
        run.wait_for(lambda: run.service("scheduler")["state"] == "running")
    assert (run.status()["database"], run.status()["message"]) == ("ready", None)


def test_a_supervisor_that_waits_for_its_database_can_be_stopped(make: Callable[..., Run]) -> None:
    run = make(services={"scheduler": python(SLEEP)}, database={"host": "127.0.0.1", "port": 1}).start()
    run.wait_for(lambda: run.status().get("message"))
    assert run.stop() == 0
    assert run.service("scheduler")["state"] == "stopped"


def test_a_database_error_never_quotes_the_connection_string() -> None:
    assert database_error(ValueError("postgresql://airflow:hunter2@host")) == "ValueError"
    refused = ConnectionRefusedError(111, "Connection refused")
    assert database_error(refused) == "ConnectionRefusedError: [Errno 111] Connection refused"


def test_only_revisions_this_airflow_does_not_know_are_newer() -> None:
    heads, known = {"c"}, {"a", "b", "c"}
    assert judge_revisions({"c"}, heads, known) == "ready"
    assert judge_revisions({"a"}, heads, known) == "migrate"
    assert judge_revisions(set(), heads, known) == "migrate"
    assert judge_revisions({"c", "z"}, heads, known) == "newer"


# ---------------------------------------------------------------------------------------------------- health


class HealthServer(http.server.BaseHTTPRequestHandler):
    answer: dict[str, Any] | None = None

    def do_GET(self) -> None:
        if self.answer is None:
            self.send_error(503)
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(self.answer).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def health_url() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), HealthServer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/api/v2/monitor/health"
    server.shutdown()
    server.server_close()
    thread.join()


def airflow_health(beat: str, **statuses: str) -> dict[str, Any]:
    keys = ("scheduler", "triggerer", "dag_processor")
    return {"metadatabase": {"status": "healthy"}} | {
        key: {"status": statuses.get(key, "healthy"), f"latest_{key}_heartbeat": beat} for key in keys
    }


def test_health_of_every_service_follows_airflows_answer(make: Callable[..., Run], health_url: str) -> None:
    names = ("api-server", "scheduler", "triggerer", "dag-processor")
    run = make(services={name: python(SLEEP) for name in names}, health_url=health_url)

    def health() -> list[str]:
        return [run.service(name).get("health", "") for name in names]

    HealthServer.answer = None
    run.start()
    run.wait_for(lambda: run.service("dag-processor").get("pid"))
    time.sleep(1.2)
    assert health() == ["starting"] * 4
    HealthServer.answer = airflow_health("2020-01-01T00:00:00Z")
    run.wait_for(lambda: health() == ["healthy", "starting", "starting", "starting"])
    HealthServer.answer = airflow_health("2099-01-01T00:00:00Z", triggerer="unhealthy")
    run.wait_for(lambda: health() == ["healthy", "healthy", "unhealthy", "healthy"])
    HealthServer.answer = None
    run.wait_for(lambda: health()[0] == "unhealthy")


def test_a_heartbeat_of_an_earlier_process_is_no_sign_of_health() -> None:
    answer = airflow_health("2026-11-22T10:00:00+00:00")
    assert component_health(answer, "scheduler", started_at=0.0, before="starting") == "healthy"
    assert component_health(answer, "scheduler", started_at=9e9, before="starting") == "starting"
    assert component_health({}, "scheduler", started_at=0.0, before="starting") == "starting"
    assert component_health({}, "scheduler", started_at=0.0, before="healthy") == "unhealthy"


def test_only_a_json_object_with_status_200_is_an_answer() -> None:
    assert parse_health(b'HTTP/1.1 200 OK\r\nServer: x\r\n\r\n{"a": 1}') == {"a": 1}
    assert parse_health(b"HTTP/1.1 200 OK\r\n\r\n<html>") is None
    assert parse_health(b"HTTP/1.1 200 OK\r\n\r\n[]") is None
    assert parse_health(b"HTTP/1.1 404 Not Found\r\n\r\n{}") is None
    assert parse_health(b"") is None


# ------------------------------------------------------------------------------------------- lines and input


def test_lines_are_put_together_from_pieces_and_cut_between_characters() -> None:
    buffer = LineBuffer()
    assert buffer.feed(b"one\r\ntw") == [b"one"]
    assert buffer.feed(b"o\n\nthree") == [b"two", b""]
    assert buffer.flush() == [b"three"]
    assert buffer.flush() == []
    text = "ü" * 20_001
    pieces = buffer.feed(b"x" + text.encode() + b"\n")
    assert all(len(piece) <= LINE_LIMIT for piece in pieces)
    assert "".join(piece.decode() for piece in pieces) == "x" + text
    assert sum(map(len, buffer.feed(b"y" * 50_000))) + len(b"".join(buffer.flush())) == 50_000


def test_bytes_that_are_no_text_are_replaced(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        LineWriter(out.fileno()).write("scheduler", [b"caf\xe9"])
    assert (tmp_path / "out").read_text() == "scheduler | caf\N{REPLACEMENT CHARACTER}\n"


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({}, "'services'"),
        ({"services": {"scheduler": "airflow scheduler"}}, "a command must be a list of strings"),
        ({"services": {}, "grace": 3}, "unknown keys: grace"),
    ],
)
def test_an_unusable_configuration_is_explained(
    tmp_path: Path, config: dict[str, Any], complaint: str
) -> None:
    (tmp_path / "environment.json").write_text("{}")
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = subprocess.run(Run.command("run", str(tmp_path)), capture_output=True, text=True, check=False)
    assert done.returncode == EXIT_CONFIG
    assert complaint in done.stdout


def test_exec_replaces_itself_by_a_program_in_the_environment_of_the_sandbox(tmp_path: Path) -> None:
    (tmp_path / "environment.json").write_text(json.dumps({"SANDBOX_VALUE": "hunter2"}))
    code = "import os, sys; print(os.environ['SANDBOX_VALUE'], sys.argv[1:]); sys.exit(5)"
    command = Run.command("exec", str(tmp_path), "--", *python(code), "--", "a b")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (5, "hunter2 ['--', 'a b']\n")
    missing = subprocess.run(
        Run.command("exec", str(tmp_path), "--", "no-such-program"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (missing.returncode, missing.stderr) == (
        127,
        "cannot run no-such-program: No such file or directory\n",
    )


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in Path(supervisor.__file__).parent.glob("[!_]*.py"))
)
def test_a_module_of_the_project_may_be_called_like_one_of_ours(tmp_path: Path, name: str) -> None:
    (tmp_path / "environment.json").write_text("{}")
    (tmp_path / "airflow").mkdir()
    (tmp_path / "airflow/__init__.py").touch()
    (tmp_path / "airflow/settings.py").write_text(f"import {name}; print({name}.OWNER); raise SystemExit")
    (tmp_path / f"{name}.py").write_text("OWNER = 'the project'")
    done = subprocess.run(
        Run.command("exec", str(tmp_path), "--", "astro-runner", "parse"),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "the project\n", "")
