"""One sandbox through its life: init, start, work, look, change, stop, start again, kill."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import tarfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.engine.astro import (
    COMMAND,
    Astro,
    environment,
    get,
    run_dag,
    trigger,
    wait_for,
    wait_for_dag,
    wait_for_run,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

OWNER = 12345
CANARY = "canary-7f3a9c"
SEEN_SECONDS = 90  # on a busy machine; on Airflow's own settings a new file is not there after 221

WRITER = """
import os
from airflow.sdk import dag, task

@dag(schedule=None)
def writer():
    @task
    def write():
        with open("/opt/airflow/include/written.txt", "w") as file:
            file.write(os.environ["GREETING"])
    write()

writer()
"""


@pytest.fixture(scope="module")
def shop(engine_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Astro]:
    """A project of the default template whose folder belongs to a user without privileges."""
    home = tmp_path_factory.mktemp("home")
    parent = tmp_path_factory.mktemp("projects")
    environ = environment(home, engine_url)
    Astro(parent, environ)("airflow", "init", "shop")
    astro = Astro(parent / "shop", environ)
    astro.write(".env", f"GREETING=hello\nSECRET={CANARY}\n")
    astro.write("dags/writer.py", WRITER)
    astro.write("airflow_settings.yaml", SETTINGS)
    for folder, _, files in os.walk(astro.folder):
        os.chown(folder, OWNER, OWNER)
        for name in files:
            os.chown(os.path.join(folder, name), OWNER, OWNER)
    yield astro
    astro("airflow", "kill", "--yes", "--no-snapshot", code=None)


SETTINGS = """
airflow:
  connections:
    - conn_id: warehouse
      conn_type: postgres
      conn_host: db.example
      conn_password: ${SECRET}
      conn_extra:
        sslMode: require
  variables:
    - variable_name: greeting
      variable_value: grüß dich
  pools:
    - pool_name: small
      pool_slot: 2
      pool_description: a few
"""


@pytest.fixture(scope="module")
def url(shop: Astro) -> str:
    """The sandbox, started; later tests of this file go on with it."""
    return str(shop.start()["url"])


def containers(client: Any, shop: Astro) -> dict[str, Any]:
    found = client.containers.list(all=True, filters={"label": f"astro.path={shop.folder}"})
    return {container.labels["astro.service"]: container for container in found}


def test_all_five_services_are_healthy_after_start(shop: Astro, url: str):
    shop.wait_until_healthy()
    services = shop.services()
    assert set(services) == {"postgres", "api-server", "scheduler", "dag-processor", "triggerer"}
    assert {service["health"] for service in services.values()} == {"healthy"}


def test_a_second_start_changes_nothing_and_says_so(shop: Astro, url: str, client: Any):
    before = {
        name: (found.id, found.attrs["State"]["StartedAt"])
        for name, found in containers(client, shop).items()
    }
    done = shop("start", "--no-browser")
    after = {
        name: (found.id, found.attrs["State"]["StartedAt"])
        for name, found in containers(client, shop).items()
    }
    assert "already running" in done.stdout
    assert before == after


def test_the_templates_dags_succeed(url: str):
    assert run_dag(url, "hello_astro") == "success"


def test_what_a_task_writes_belongs_to_the_owner_of_the_project(shop: Astro, url: str):
    assert run_dag(url, "writer") == "success"
    written = shop.folder / "include/written.txt"
    assert written.read_text() == "hello"
    assert written.stat().st_uid == OWNER


def test_a_new_dag_and_an_edit_are_visible_in_seconds(shop: Astro, url: str):
    shop.write("dags/fresh.py", WRITER.replace("writer", "fresh"))
    assert wait_for_dag(url, "fresh") < SEEN_SECONDS
    shop.write("dags/fresh.py", WRITER.replace("writer", "edited"))
    assert wait_for_dag(url, "edited") < SEEN_SECONDS
    (shop.folder / "dags/fresh.py").unlink()


def test_the_objects_file_is_in_airflow(url: str):
    connection = get(url, "/api/v2/connections/warehouse")
    assert (connection["host"], connection["extra"]) == ("db.example", '{"sslMode": "require"}')
    assert get(url, "/api/v2/variables/greeting")["value"] == "grüß dich"
    assert get(url, "/api/v2/pools/small")["slots"] == 2


def test_a_changed_objects_file_is_applied_without_a_restart(shop: Astro, url: str):
    shop.write("airflow_settings.yaml", SETTINGS.replace("pool_slot: 2", "pool_slot: 3"))
    assert shop.start()["changes"] == []
    assert get(url, "/api/v2/pools/small")["slots"] == 3


def test_logs_hold_every_service_and_can_be_narrowed(shop: Astro, url: str):
    lines = shop.json("airflow", "logs")["lines"]
    assert {"postgres", "api-server", "scheduler", "dag-processor", "triggerer"} <= {
        line["service"] for line in lines
    }
    stamps = [line["timestamp"] for line in lines]
    assert stamps == sorted(stamps)
    only = shop("logs", "scheduler", "--tail", "2").stdout.splitlines()
    assert len(only) == 2
    assert all(line.startswith("scheduler") for line in only)
    found = shop("logs", "--grep", "database system is ready").stdout
    assert found.startswith("postgres")


def test_logs_follow_what_is_written_from_now_on(shop: Astro, url: str):
    following = shop.spawn("logs", "-f", "--tail", "0", "api-server")
    assert following.stdout is not None
    end = time.monotonic() + 120
    ready: list[Any] = []
    try:
        while not ready:  # what is asked before it follows is not shown
            assert time.monotonic() < end, "nothing came within two minutes"
            httpx.get(f"{url}/api/v2/version?follow-me", trust_env=False, timeout=60)
            ready, _, _ = select.select([following.stdout], [], [], 1)
        assert following.stdout.readline().startswith("api-server")
    finally:
        following.kill()
        following.communicate()


def test_run_passes_the_exit_code_and_keeps_the_streams_apart(shop: Astro, url: str):
    done = shop("airflow", "run", "version")
    assert done.stdout.strip() == "3.3.2"
    refused = shop("airflow", "run", "no-such-command", code=2)
    assert "invalid choice" in refused.stderr
    assert "invalid choice" not in refused.stdout


def test_bash_takes_commands_from_stdin_and_passes_the_exit_code(shop: Astro, url: str):
    done = shop("airflow", "bash", input="echo $GREETING; echo lost >&2; exit 7\n", code=7)
    assert done.stdout == "hello\n"
    assert done.stderr == "lost\n"


def test_bash_gives_a_terminal_with_its_size_and_exit_code(shop: Astro, url: str):
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "airflow", "bash"],
        cwd=shop.folder,
        env=shop.environ,
        stdin=follower,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    os.write(leader, b"tty && stty size; exit 3\n")
    said = b""
    try:
        with suppress(OSError):  # nobody holds the other end any more
            while piece := os.read(leader, 4096):
                said += piece
        assert process.wait(timeout=120) == 3
    finally:
        process.kill()
        process.wait()
        os.close(leader)
    assert b"/dev/pts/" in said


def test_ctrl_c_ends_the_command_inside_too(shop: Astro, url: str):
    process = subprocess.Popen(
        [*COMMAND, "airflow", "bash"], cwd=shop.folder, env=shop.environ, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write("echo up; sleep 987\n")
        process.stdin.flush()
        assert process.stdout.readline() == "up\n"
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=120)
        assert process.returncode == 130
    finally:
        process.kill()
        process.communicate()

    def inside() -> str:
        return shop("airflow", "bash", input="cat /proc/[0-9]*/cmdline | tr '\\0' ' '; exit 0\n").stdout

    wait_for(lambda: "sleep 987" not in inside(), inside)


def test_no_secret_is_in_an_image_an_argument_list_or_what_inspect_shows(shop: Astro, url: str, client: Any):
    shown = []
    for container in containers(client, shop).values():
        shown.append(str(container.attrs))
        shown.append(str(container.top()))
        shown.append(str(container.image.history()))
        shown.append(str(container.image.attrs))
    kept = shop.secrets_file()
    assert kept.stat().st_mode & 0o777 == 0o600
    for value in json.loads(kept.read_text()).values():
        assert all(value not in text for text in shown)
    assert all(CANARY not in text for text in shown)
    logs = shop("airflow", "logs").stdout
    assert CANARY not in logs


def test_no_layer_of_the_projects_own_holds_a_secret(shop: Astro, url: str, client: Any, tmp_path: Path):
    image = containers(client, shop)["airflow"].image
    below = set(client.images.get("localhost/astro/airflow:3.3.2").attrs["RootFS"]["Layers"])
    kept = shop.secrets_file()
    secrets = [CANARY.encode(), *(value.encode() for value in json.loads(kept.read_text()).values())]
    with (tmp_path / "image.tar").open("wb") as stream:
        for piece in image.save():
            stream.write(piece)
    names = set()
    with tarfile.open(tmp_path / "image.tar") as saved:
        (about,) = json.load(saved.extractfile("manifest.json"))
        for digest, layer in zip(image.attrs["RootFS"]["Layers"], about["Layers"], strict=True):
            if digest in below:
                continue
            with tarfile.open(fileobj=saved.extractfile(layer)) as files:
                for member in files:
                    names.add(member.name)
                    if member.isfile():
                        content = files.extractfile(member).read()
                        assert not [secret for secret in secrets if secret in content], member.name
    (tmp_path / "image.tar").unlink()
    assert "opt/airflow/dags/hello_astro.py" in names, "these are not the layers with the project"
    assert "opt/airflow/.env" not in names


def test_only_loopback_is_listened_on_and_postgres_not_at_all(
    shop: Astro, url: str, client: Any, docker_ip: str
):
    published = {name: container.ports for name, container in containers(client, shop).items()}
    assert {binding["HostIp"] for binding in published["airflow"]["8080/tcp"]} == {docker_ip} == {"127.0.0.1"}
    assert not any(published["postgres"].values())


def test_containers_have_no_root_and_no_capabilities(shop: Astro, url: str, client: Any):
    for container in containers(client, shop).values():
        assert not container.attrs["Config"]["User"].startswith("0")
        assert container.attrs["HostConfig"]["CapDrop"] == ["ALL"]
        assert container.attrs["HostConfig"]["SecurityOpt"] == ["no-new-privileges:true"]


def test_restarting_one_service_leaves_the_others_alone(shop: Astro, url: str):
    before = shop.services()
    shop("airflow", "restart", "webserver")
    after = shop.services()
    assert after["api-server"]["started_at"] != before["api-server"]["started_at"]
    assert after["scheduler"]["started_at"] == before["scheduler"]["started_at"]
    shop.start()


def test_a_run_in_flight_survives_a_look_from_fifty_sides(shop: Astro, url: str):
    run_id = trigger(url, "hello_astro")
    for process in [shop.spawn("airflow", "ps", "--json") for _ in range(50)]:
        _, err = process.communicate(timeout=400)
        assert process.returncode == 0, err
    assert wait_for_run(url, "hello_astro", run_id) == "success"


def test_a_changed_requirement_replaces_airflow_and_keeps_the_database(shop: Astro, url: str, client: Any):
    before = containers(client, shop)
    shop.write("requirements.txt", "cowsay==6.1\n")
    told = shop.start()
    assert told["built"]
    assert told["changes"] == ["replace container airflow"]
    assert containers(client, shop)["postgres"].id == before["postgres"].id
    said = shop("airflow", "bash", input="python -c 'import cowsay; print(cowsay.__version__)'\n").stdout
    assert said.strip() == "6.1"
    images = client.images.list(filters={"label": f"astro.path={shop.folder}"})
    assert len(images) == 1, "the superseded image is removed"


def test_a_requirement_that_cannot_be_installed_is_named_and_the_sandbox_goes_on(shop: Astro, url: str):
    shop.write("requirements.txt", "cowsay==6.1\nno-such-package-of-astro==1\n")
    failed = shop("start", "--no-browser", code=3)
    assert "no-such-package-of-astro==1" in failed.stderr
    assert "line 2" in failed.stderr
    assert get(url, "/api/v2/version")["version"] == "3.3.2"
    shop.write("requirements.txt", "cowsay==6.1\n")


def test_a_killed_service_comes_back_by_itself(shop: Astro, url: str):
    pid = "import json; print(json.load(open('/run/astro/status.json'))['services']['triggerer']['pid'])"
    shop("airflow", "bash", input=f'kill -9 $(python -c "{pid}")\n')
    end = time.monotonic() + 180
    while time.monotonic() < end:
        triggerer = shop.services()["triggerer"]
        if triggerer["restarts"] >= 1 and triggerer["health"] == "healthy":
            break
        time.sleep(0.5)
    assert (triggerer["restarts"], triggerer["exit_code"], triggerer["health"]) == (1, -9, "healthy")


def test_a_killed_container_is_repaired_by_start(shop: Astro, url: str, client: Any):
    airflow = containers(client, shop)["airflow"]
    airflow.kill()
    airflow.wait()
    assert shop.json("airflow", "ps")["state"] == "partial"
    shop.start()
    assert get(url, "/api/v2/version")["version"] == "3.3.2"


def test_history_and_logs_are_there_after_stop_and_start(shop: Astro, url: str):
    runs = get(url, "/api/v2/dags/hello_astro/dagRuns")["total_entries"]
    assert runs >= 1
    shop("stop")
    assert {service["state"] for service in shop.services().values()} == {"stopped"}
    assert shop("logs", "postgres", "--tail", "1").stdout
    assert shop.start()["url"] == url
    assert get(url, "/api/v2/dags/hello_astro/dagRuns")["total_entries"] == runs
    assert get(url, "/api/v2/connections/warehouse")["host"] == "db.example"


def test_kill_asks_and_then_leaves_nothing(shop: Astro, url: str, client: Any):
    assert "--yes" in shop("airflow", "kill", code=2).stderr
    assert containers(client, shop)
    shop("airflow", "kill", "--yes")
    mine = {"label": f"astro.path={shop.folder}"}
    assert not client.containers.list(all=True, filters=mine)
    assert not client.volumes.list(filters=mine)
    assert not client.networks.list(filters=mine)
    assert not client.images.list(filters=mine)
    assert "no sandbox yet" in shop("airflow", "ps", code=1).stderr
