"""Deploys that succeed: what runs then, what is secured, what a release keeps, what a plan says."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.deploy.deployed import NAME, SECRET, SECRET_NAME, Deployed, Poller


def test_the_first_deploy_runs_and_asks_for_a_login(live: Deployed) -> None:
    version = live.take_back()
    live.deploy()
    assert live.run() == f"{version} {version}"
    for path in ("/api/v2/dags", "/api/v2/connections", "/api/v2/variables", "/api/v2/config"):
        assert httpx.get(f"{live.url}{path}", trust_env=False).status_code == 401, path
    wrong = {"username": "admin", "password": "admin"}
    assert httpx.post(f"{live.url}/auth/token", json=wrong, trust_env=False).status_code == 401
    assert httpx.get(f"{live.url}/auth/token", trust_env=False).status_code != 201, "everybody is an admin"


def test_only_the_proxy_is_reachable_and_nothing_runs_as_root(live: Deployed) -> None:
    with live.host.engine() as engine:
        published = {
            each.name: sorted(each.attrs["NetworkSettings"]["Ports"])
            for each in engine.containers.list()
            if any(each.attrs["NetworkSettings"]["Ports"].values())
        }
        assert list(published.values()) == [["8080/tcp"]], published
        for each in engine.containers.list():
            user = each.attrs["Config"]["User"].partition(":")[0]
            assert user not in ("", "0", "root"), f"{each.name} runs as `{user}`"
            assert each.attrs["HostConfig"]["CapDrop"] == ["ALL"], each.name
            assert not each.attrs["HostConfig"]["Privileged"], each.name
        assert engine.info()["Swarm"]["NodeAddr"] == "127.0.0.1"
    for port in (2377, 7946, 5432, 8793, 8974):
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://{live.host.address}:{port}", trust_env=False, timeout=3)


def test_a_second_deploy_of_the_same_says_so_and_touches_nothing(live: Deployed) -> None:
    live.deploy()
    before, objects = live.containers(), live.objects()
    began = time.monotonic()
    told = live.deploy()
    assert time.monotonic() - began < 120  # bench/deploy.py has the figure
    assert told["changed"] is False
    assert live.containers() == before
    assert live.objects() == objects


def test_a_plan_names_what_would_change_and_changes_nothing(live: Deployed) -> None:
    live.deploy()
    release, before, objects = live.release(), live.containers(), live.objects()
    live.write_version("planned")
    live.astro.write(
        "dags/second.py", (live.astro.folder / "dags/slow.py").read_text().replace("slow", "second")
    )
    try:
        plan = live.astro.json("deploy", NAME, "--dry-run")["plan"]
        text = live.astro("deploy", NAME, "--dry-run").stdout
    finally:
        (live.astro.folder / "dags/second.py").unlink()
    assert (plan["current"], plan["nothing"], plan["image"]) == (release, False, True)
    assert plan["dags"] == {"added": ["dags/second.py"], "changed": ["dags/slow.py"], "removed": []}
    assert "+ dags/second.py" in text
    assert "~ dags/slow.py" in text
    assert live.containers() == before
    assert live.objects() == objects


def test_a_deploy_keeps_running_tasks_keys_logins_and_the_api(live: Deployed) -> None:
    live.take_back()
    live.deploy()
    variable = f"kept-{time.time()}"
    live.request("POST", "/api/v2/variables", json={"key": variable, "value": "encrypted with Fernet"})
    run = live.trigger(seconds=600)
    began = live.wait_for_task(run, "running")
    live.write_version("after")
    with Poller(live.url) as poller:
        told = live.deploy()
        assert told["changed"]
        assert live.task(run)["state"] == "running", "it did not run through the deploy"
        live.let_go(run)
        assert live.wait_for_run(run) == "success"
    task = live.task(run)
    assert (task["state"], task["try_number"]) == ("success", 1)
    assert task["hostname"] == began["hostname"], "the task ended on another scheduler than it began on"
    assert live.run() == "after after"
    assert poller.requests > 30
    assert poller.failures == [], (
        f"{len(poller.failures)} of {poller.requests}, slowest {poller.slowest:.1f} s"
    )
    assert live.request("GET", f"/api/v2/variables/{variable}")["value"] == "encrypted with Fernet"
    assert len(live.images()) == 1


@pytest.mark.long
def test_a_task_that_needs_longer_than_it_may_take_does_not_survive_the_deploy(live: Deployed) -> None:
    """The control of the test above, which would pass as well if nothing ever ended an old scheduler."""
    configuration = live.astro.folder / ".astro/config.yaml"
    text = configuration.read_text()
    # So that Airflow looks for lost tasks at once, and not after minutes.
    soon = "".join(
        f"      AIRFLOW__SCHEDULER__{name}: '{seconds}'\n"
        for name, seconds in (("ORPHANED_TASKS_CHECK_INTERVAL", 10), ("TASK_INSTANCE_HEARTBEAT_TIMEOUT", 30))
    )
    configuration.write_text(text.replace("    drain: 10m\n", f"    drain: 5s\n    env:\n{soon}"))
    try:
        live.write_version("hasty")
        live.deploy()
        live.containers()  # waits for the end of the one before
        old, seconds = live.running("scheduler"), 240
        run, triggered = live.trigger(seconds), time.monotonic()
        began = live.wait_for_task(run, "running")
        live.write_version("hastier")
        live.deploy()
        while live.running("scheduler") & old:
            left = triggered + seconds - time.monotonic()
            assert left > 0, "the old scheduler lived as long as its task, or the deploy took as long"
            time.sleep(0.3)
        end = time.monotonic() + 200
        while is_untouched(task := live.task(run), began):
            assert time.monotonic() < end, f"nobody noticed that the task was lost: {task}"
            time.sleep(1)
    finally:
        configuration.write_text(text)
        live.deploy()
        live.request("PATCH", f"/api/v2/dags/slow/dagRuns/{run}", json={"state": "failed"})


def is_untouched(task: dict[str, Any], began: dict[str, Any]) -> bool:
    """Whether it is still the try that began, on the scheduler where it began."""
    return task["state"] == "running" and all(task[key] == began[key] for key in ("try_number", "hostname"))


def test_releases_are_listed_and_a_rollback_brings_one_back_whole(live: Deployed) -> None:
    live.write_version("old")
    live.deploy("--description", "the old one")
    old, images = live.release(), live.images()
    live.write_version("new")
    live.deploy()
    assert live.images() != images
    listed = live.releases()
    told = live.astro.json("deployment", "rollback")
    assert live.images() == images
    assert live.run() == "old old"
    assert live.releases()[: len(listed)] == listed, "a release's record changed"
    latest = live.releases()[-1]
    assert (latest["id"], latest["rolled_back_to"]) == (listed[-1]["id"] + 1, old)
    assert told["release"] == latest["id"]
    assert next(each for each in listed if each["id"] == old)["description"] == "the old one"
    plan = live.astro.json("deploy", NAME, "--dry-run")["plan"]
    assert not plan["nothing"], "the project's own state is deployed again after a rollback"


@dataclass(frozen=True)
class Watched:
    """A deploy of what was never deployed before: what it said, and every command line that was there meanwhile."""

    said: subprocess.CompletedProcess[str]
    command_lines: set[str]


@pytest.fixture(scope="module")
def watched(live: Deployed) -> Watched:
    seen: set[str] = set()
    end = threading.Event()

    def watch() -> None:
        # The host's processes are this machine's, too.
        while not end.wait(0.1):
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.add(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
                except OSError:
                    continue

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        live.write_version(f"watched {time.time()}")
        said = live.astro("deploy", NAME, "--verbose")
    finally:
        end.set()
        thread.join()
    return Watched(said, seen)


def test_without_a_registry_a_second_deploy_sends_little(watched: Watched) -> None:
    sent = next(line for line in watched.said.stderr.splitlines() if "sent" in line and "bytes" in line)
    assert int(sent.split("sent ")[1].split()[0]) < 100_000, sent


def test_no_secret_can_be_read_where_it_need_not_be(live: Deployed, watched: Watched) -> None:
    secrets = {"the user's secret": SECRET, "the admin's password": live.password}
    with live.host.engine() as engine:
        keys = _inside(engine, "cat /run/secrets/astro/*.json")
        assert SECRET in keys, "the services do not have it at all"
        for name, value in json.loads("{" + keys.replace("}{", ", ").strip("{}\n") + "}").items():
            secrets[name] = value.rpartition("://")[2].partition("@")[0].partition(":")[2] or value
        places = {
            "process list": "\n".join(watched.command_lines),
            "astro's output": watched.said.stdout + watched.said.stderr,
            "inspect": json.dumps([each.attrs for each in _everything(engine)], default=str),
            "logs": "\n".join(
                each.logs().decode(errors="replace") for each in engine.containers.list(all=True)
            ),
            "records": json.dumps(live.releases()),
            "plan": live.astro("deploy", NAME, "--dry-run", "--json").stdout,
            "project": _files(live.astro.folder),
            "home": _files(Path(live.astro.environ["HOME"])),
        }
        image = live.images().pop()
        places["image"] = json.dumps([engine.api.inspect_image(image), engine.api.history(image)])
    assert "slow.py" in places["project"], "the search itself does not work"
    found = [
        f"{name} is in {place}"
        for name, value in secrets.items()
        for place, text in places.items()
        if value in text
    ]
    assert not found


def _inside(engine: Any, command: str) -> str:
    server = next(each for each in engine.containers.list() if "api-server" in each.name)
    return str(server.exec_run(["sh", "-c", command]).output.decode())


def _everything(engine: Any) -> list[Any]:
    return [
        *engine.containers.list(all=True), *engine.services.list(), *engine.configs.list(), *engine.secrets.list(),
        *engine.volumes.list(), *engine.networks.list(),
    ]  # fmt: skip


def _files(folder: Path) -> str:
    """Names and contents of every file below a folder."""
    return "\n".join(
        f"{path}\n{path.read_bytes().decode(errors='replace')}"
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    )


def test_without_a_terminal_no_deployment_is_guessed(live: Deployed) -> None:
    configuration = live.astro.folder / ".astro/config.yaml"
    text = configuration.read_text()
    before = live.containers()
    try:
        configuration.write_text(f"{text}  staging:\n    host: {live.host.url}\n")
        told = live.astro("deploy", code=2)
    finally:
        configuration.write_text(text)
    assert NAME in told.stderr
    assert "staging" in told.stderr
    assert told.stdout == ""
    assert live.containers() == before


def test_a_missing_secret_stops_before_anything_happens(live: Deployed) -> None:
    before, objects = live.containers(), live.objects()
    environ = {name: value for name, value in live.astro.environ.items() if name != SECRET_NAME}
    error = type(live.astro)(live.astro.folder, environ).json("deploy", NAME, code=3)
    assert SECRET_NAME in error["message"]
    assert (live.containers(), live.objects()) == (before, objects)
