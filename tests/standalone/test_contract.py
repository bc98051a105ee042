"""What a sandbox does for its user, on every engine: one suite, run on each of them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.canaries import files_for_everybody, processes_with
from tests.engine.astro import Astro, get, run_dag, wait_for, wait_for_dag

if TYPE_CHECKING:
    from collections.abc import Iterator

CANARY = "canary-51c0ffee"
SERVICES = {"postgres", "api-server", "scheduler", "dag-processor", "triggerer"}

USES_EVERYTHING = """
import os
from airflow.sdk import Variable, dag, task
from include.prices import PRICE

@dag(schedule=None, is_paused_upon_creation=False)
def uses_everything():
    @task
    def check():
        assert PRICE == 3
        assert os.environ["GREETING"] == "hello"
        assert Variable.get("fruit") == "apple"
    check()

uses_everything()
"""
ENDS_OFTEN = """
from airflow.sdk import dag, task

@dag(schedule=None, is_paused_upon_creation=False)
def ends_often():
    @task
    def nothing(number):
        pass
    nothing.expand(number=list(range(24)))

ends_often()
"""
SELDOM = "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL=600"
"""So long a worker sleeps that does not see its task end (see `runtime/inside/task_parent.py`)."""
OBJECTS = """
airflow:
  variables:
    - variable_name: fruit
      variable_value: apple
"""


@pytest.fixture(scope="module")
def shop(on_engine: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Astro]:
    """A project of the default template, with something of its own in every place."""
    parent = tmp_path_factory.mktemp("projects")
    Astro(parent, on_engine)("airflow", "init", "shop")
    astro = Astro(parent / "shop", on_engine)
    astro.write(".env", f"GREETING=hello\nSECRET={CANARY}\n{SELDOM}\n")
    astro.write("include/prices.py", "PRICE = 3\n")
    astro.write("dags/uses_everything.py", USES_EVERYTHING)
    astro.write("dags/ends_often.py", ENDS_OFTEN)
    astro.write("airflow_settings.yaml", OBJECTS)
    yield astro
    astro("airflow", "kill", "--yes", "--no-snapshot", code=None)


@dataclass(frozen=True)
class Start:
    """A start, and every command line that was there meanwhile."""

    url: str
    command_lines: frozenset[bytes]


@pytest.fixture(scope="module")
def started(shop: Astro) -> Start:
    seen: set[bytes] = set()
    end = threading.Event()

    def watch() -> None:
        # What runs in containers is a process of this machine as well.
        while not end.wait(0.1):
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    seen.add(file.read_bytes())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        url = str(shop.start()["url"])
    finally:
        end.set()
        thread.join()
    return Start(url, frozenset(seen))


@pytest.fixture(scope="module")
def url(started: Start) -> str:
    """The sandbox, started; the tests of this file go on with it in their order."""
    return started.url


def secrets(shop: Astro) -> set[bytes]:
    """What the user planted, and what astro made."""
    kept = shop.secrets_file()
    return {CANARY.encode(), *(str(value).encode() for value in json.loads(kept.read_text()).values())}


def test_every_service_is_healthy_after_start(shop: Astro, url: str):
    shop.wait_until_healthy()
    assert set(shop.services()) == SERVICES


def test_the_api_refuses_pages_of_other_sites(shop: Astro, url: str):
    assert answers(url) == 200
    assert answers(url, Host="rebound.example") == 403
    assert answers(url, Origin="https://evil.example") == 403


def answers(url: str, **headers: str) -> int:
    request = urllib.request.Request(f"{url}/api/v2/version", headers=headers)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code


def test_a_second_start_changes_nothing(shop: Astro, url: str):
    before = {name: service["started_at"] for name, service in shop.services().items()}
    told = shop.start()
    assert told["changes"] == []
    assert told["url"] == url
    assert {name: service["started_at"] for name, service in shop.services().items()} == before


def test_the_dag_of_the_default_template_succeeds(shop: Astro, url: str):
    wait_for_dag(url, "hello_astro")
    assert run_dag(url, "hello_astro") == "success"


def test_a_dag_finds_include_and_env_and_objects(shop: Astro, url: str):
    wait_for_dag(url, "uses_everything")
    assert run_dag(url, "uses_everything") == "success"


def test_a_worker_sees_at_once_that_its_task_has_ended(shop: Astro, url: str):
    wait_for_dag(url, "ends_often")
    assert run_dag(url, "ends_often") == "success"  # before its first few sleeps would be over


def test_run_passes_on_output_and_exit_code(shop: Astro, url: str):
    assert "3.3.2" in shop("airflow", "run", "version").stdout
    shop("airflow", "run", "dags", "details", "no_such_dag", code=1)


def test_bash_takes_commands_from_stdin_beside_the_projects_files(shop: Astro, url: str):
    done = shop("airflow", "bash", input="echo $GREETING; ls dags; exit 5\n", code=5)
    assert "hello" in done.stdout
    assert "uses_everything.py" in done.stdout


def test_bash_beside_the_database_reaches_it(shop: Astro, url: str):
    done = shop("airflow", "bash", "postgres", input="psql -Atc 'select count(*) from dag_run'\n")
    assert int(done.stdout) >= 2


def test_every_service_has_its_lines_in_the_log(shop: Astro, url: str):
    lines = shop.json("airflow", "logs")["lines"]
    assert {line["service"] for line in lines} >= SERVICES
    assert [line["timestamp"] for line in lines] == sorted(line["timestamp"] for line in lines)
    some = shop.json("airflow", "logs", "scheduler", "postgres", "--tail", "2")["lines"]
    assert sorted(line["service"] for line in some) == ["postgres"] * 2 + ["scheduler"] * 2
    assert shop.json("airflow", "logs", "postgres", "--since", "2100-01-01")["lines"] == []


def test_follow_shows_new_lines_and_ends_with_the_sandboxs_end(shop: Astro, url: str):
    follower = shop.spawn("airflow", "logs", "--follow", "--tail", "1", "astro")
    assert follower.stdout is not None
    assert "restarting triggerer" not in follower.stdout.readline()  # it follows from here on
    shop("airflow", "restart", "triggerer")
    shop("airflow", "stop")
    out, err = follower.communicate(timeout=180)
    assert "restarting triggerer" in out, err
    shop.start()


def test_restart_of_one_service_leaves_the_others_alone(shop: Astro, url: str):
    before = {name: service["started_at"] for name, service in shop.services().items()}
    shop("airflow", "restart", "triggerer")
    after = {name: service["started_at"] for name, service in shop.services().items()}
    assert {name for name in SERVICES if after[name] != before[name]} == {"triggerer"}


def test_list_names_the_engine_and_the_folder(shop: Astro, url: str, engine: str):
    (found,) = [one for one in shop.json("airflow", "list")["sandboxes"] if one["path"] == str(shop.folder)]
    assert found["engine"] == engine
    assert found["state"] == "running"


def test_doctor_knows_the_projects_own_port(shop: Astro, url: str):
    told = json.loads(shop("doctor", "--json", code=None).stdout)["data"]["findings"]
    (found,) = (each for each in told if each["check"] == "ports")
    assert found["level"] == "ok"
    assert "this project's own" in found["message"]


def test_no_secret_is_in_the_arguments_of_any_process(shop: Astro, url: str):
    assert processes_with(secrets(shop), "cmdline") == {}


def test_no_secret_is_in_the_environment_that_a_process_was_started_with(shop: Astro, url: str):
    known = secrets(shop)
    planted = subprocess.Popen(["sleep", "600"], env={**os.environ, "PLANTED": next(iter(known)).decode()})
    try:
        wait_for(lambda: planted.pid in processes_with(known, "environ").get(os.getuid(), ()), seconds=60)
    finally:
        planted.kill()
        planted.wait()
    assert processes_with(known, "environ") == {}


def test_no_secret_was_in_an_argument_list_while_it_started(shop: Astro, started: Start):
    assert any(b"start" in line and b"astro_cli" in line for line in started.command_lines)
    found = {line for line in started.command_lines for secret in secrets(shop) if secret in line}
    assert found == set()


def test_no_file_that_others_can_read_holds_a_secret(shop: Astro, url: str):
    files = files_for_everybody(Path(shop.environ["HOME"]), shop.folder)
    assert len(files) > 5
    assert [path for path, content in files.items() if any(each in content for each in secrets(shop))] == []


def test_the_web_ui_answers_on_the_loopback_interface_only(shop: Astro, url: str):
    port = int(url.rpartition(":")[2])
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path("/proc/net", table).read_text().splitlines()[1:]
    ]
    listening = {row[1].partition(":")[0] for row in rows if row[3] == "0A" and int(row[1][-4:], 16) == port}
    assert listening == {"0100007F"}


def test_a_changed_environment_file_is_taken_over_by_start(shop: Astro, url: str):
    shop.write(".env", f"GREETING=changed\nSECRET={CANARY}\n{SELDOM}\n")
    assert shop.start()["changes"]
    assert "changed" in shop("airflow", "bash", input="echo $GREETING\n").stdout


def test_stop_keeps_history_and_logs(shop: Astro, url: str):
    runs = get(url, "/api/v2/dags/~/dagRuns")["total_entries"]
    assert runs >= 2
    shop("airflow", "stop")
    assert {service["state"] for service in shop.services().values()} == {"stopped"}
    assert shop.json("airflow", "logs", "scheduler", "--tail", "1")["lines"]
    shop("airflow", "bash", input="true\n", code=1)
    assert get(shop.start()["url"], "/api/v2/dags/~/dagRuns")["total_entries"] == runs


def test_a_port_that_another_program_holds_is_refused_and_named(shop: Astro, url: str):
    shop("airflow", "stop")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        told = shop.json("start", "--port", str(port), "--no-browser", code=1)
    assert f"port {port} is already in use" in told["message"]
    assert str(os.getpid()) in told["message"]


def test_a_requirement_that_cannot_be_installed_is_named_with_its_line(shop: Astro, url: str):
    shop.write("requirements.txt", "# what we need\nno-such-package-of-astro==9.9\n")
    told = shop.json("start", "--no-browser", code=3)
    assert "no-such-package-of-astro==9.9" in told["message"]
    assert "line 2 of requirements.txt" in told["message"]
    shop.write("requirements.txt", "")


def test_kill_leaves_nothing(shop: Astro, url: str):
    shop("airflow", "kill", "--yes")
    shop("airflow", "ps", code=1)
    assert str(shop.folder) not in [one["path"] for one in shop.json("airflow", "list")["sandboxes"]]
