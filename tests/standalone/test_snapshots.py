"""Snapshots of a running sandbox, on every engine: one suite, run on each of them."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.engine.astro import Astro, get, trigger, wait_for, wait_for_dag, wait_for_run

SLEEPER = """
import time
from airflow.sdk import dag, task

@dag(schedule=None, is_paused_upon_creation=False)
def sleeper():
    @task
    def sleep():
        time.sleep(600)
    sleep()

sleeper()
"""
SETTINGS = """
airflow:
  variables:
    - variable_name: fruit
      variable_value: from the file
"""


@pytest.fixture(scope="module")
def shop(on_engine: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Astro]:
    """A project of the default template; the tests of this file go on with it in their order."""
    parent = tmp_path_factory.mktemp("projects")
    Astro(parent, on_engine)("airflow", "init", "shop")
    astro = Astro(parent / "shop", on_engine)
    astro.write("dags/sleeper.py", SLEEPER)
    yield astro
    astro("airflow", "kill", "--yes", "--no-snapshot", code=None)


@pytest.fixture(scope="module")
def url(shop: Astro) -> str:
    """The sandbox, started."""
    return str(shop.start()["url"])


def set_fruit(url: str, value: str) -> None:
    body = {"key": "fruit", "value": value}
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        if client.patch("/api/v2/variables/fruit", json=body).status_code == 404:
            client.post("/api/v2/variables", json=body).raise_for_status()


def fruit(url: str) -> str | None:
    found = get(url, "/api/v2/variables")["variables"]
    return next((str(one["value"]) for one in found if one["key"] == "fruit"), None)


def fruit_after_a_cut(url: str) -> str | None:
    """The same when the database may be away for a moment."""
    end = time.monotonic() + 180
    while True:
        try:
            return fruit(url)
        except httpx.HTTPError:
            if time.monotonic() > end:
                raise
            time.sleep(0.4)


def listed(shop: Astro) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in shop.json("airflow", "snapshot", "list")["snapshots"]}


def databases(shop: Astro) -> set[str]:
    said = shop("airflow", "bash", "postgres", input="psql -Atc 'SELECT datname FROM pg_database'\n").stdout
    return set(said.split())


def test_what_was_there_when_it_was_saved_is_there_after_the_restore(shop: Astro, url: str):
    set_fruit(url, "apple")
    saved = shop.json("airflow", "snapshot", "save", "apple")
    assert (saved["name"], saved["airflow"], saved["automatic"]) == ("apple", "3.3.2", False)
    set_fruit(url, "pear")
    told = shop.json("airflow", "snapshot", "restore", "apple")
    assert fruit(url) == "apple"
    shop("airflow", "snapshot", "restore", told["before"]["name"])
    assert fruit(url) == "pear"


def test_services_run_on_through_saves_and_restores(shop: Astro, url: str):
    shop.wait_until_healthy()
    before = {name: one["restarts"] for name, one in shop.services().items()}
    for _ in range(3):
        shop("airflow", "snapshot", "restore", "apple")
        shop("airflow", "snapshot", "save")
    time.sleep(8)  # every component has told its heartbeat meanwhile
    shop.wait_until_healthy()
    after = {name: one["restarts"] for name, one in shop.services().items()}
    # Sessions are ended when they are idle; on a busy machine one may begin its next query in that very moment.
    assert sum(after.values()) - sum(before.values()) <= 1, (before, after)


def test_of_what_was_before_a_restore_only_some_are_kept(shop: Astro, url: str):
    known = listed(shop).values()
    assert len([one for one in known if one["reason"] == "before restore"]) == 3
    assert len([one for one in known if one["reason"] == "asked for"]) == 4


def test_a_restored_sandbox_runs_dags(shop: Astro, url: str):
    wait_for_dag(url, "hello_astro")
    assert wait_for_run(url, "hello_astro", trigger(url, "hello_astro")) == "success"


def test_a_task_that_runs_ends_when_its_past_is_replaced(shop: Astro, url: str):
    wait_for_dag(url, "sleeper")
    shop("airflow", "snapshot", "save", "idle")
    run = trigger(url, "sleeper")
    tasks = f"/api/v2/dags/sleeper/dagRuns/{run}/taskInstances"
    wait_for(lambda: get(url, tasks)["task_instances"][0]["state"] == "running", lambda: get(url, tasks))
    done = shop("airflow", "snapshot", "restore", "idle")
    assert "1 tasks run or are queued" in done.stderr
    assert get(url, "/api/v2/dags/sleeper/dagRuns")["total_entries"] == 0
    shop.wait_until_healthy()
    assert wait_for_run(url, "hello_astro", trigger(url, "hello_astro")) == "success"


def test_object_import_saves_first(shop: Astro, url: str):
    set_fruit(url, "mine")
    shop.write("airflow_settings.yaml", SETTINGS)
    told = shop.json("airflow", "object", "import", "--variables")
    assert fruit(url) == "from the file"
    shop("airflow", "snapshot", "restore", told["snapshot"])
    assert fruit(url) == "mine"
    assert shop.json("airflow", "object", "import", "-v", "--no-snapshot")["snapshot"] is None


def test_an_exported_snapshot_is_imported_under_another_name(shop: Astro, url: str, tmp_path: Path):
    shop("airflow", "snapshot", "export", "apple", str(tmp_path / "apple.astro"))
    assert (tmp_path / "apple.astro").stat().st_mode & 0o777 == 0o600
    done = shop("airflow", "snapshot", "export", "apple", str(tmp_path / "apple.astro"), code=2)
    assert "--yes" in done.stderr
    shop("airflow", "snapshot", "import", str(tmp_path / "apple.astro"), code=1)  # that name is in use
    shop("airflow", "snapshot", "import", str(tmp_path / "apple.astro"), "orchard")
    set_fruit(url, "pear")
    shop("airflow", "snapshot", "restore", "orchard")
    assert fruit(url) == "apple"
    shop("airflow", "snapshot", "delete", "orchard")
    assert "orchard" not in listed(shop)


def test_a_file_that_is_not_all_there_is_refused_and_nothing_is_left_of_it(
    shop: Astro, url: str, tmp_path: Path
):
    path = tmp_path / "apple.astro"
    shop("airflow", "snapshot", "export", "apple", str(path))
    before = databases(shop)
    path.write_bytes(path.read_bytes()[:-2000])
    error = shop.json("airflow", "snapshot", "import", str(path), "part", code=1)
    assert "not a snapshot, or not all of one" in error["message"]
    shop("airflow", "snapshot", "import", str(tmp_path / "none.astro"), "part", code=1)
    assert databases(shop) == before


def test_a_disk_that_is_full_leaves_no_half_file(shop: Astro, url: str, tmp_path: Path):
    small = Astro(shop.folder, {**shop.environ, "PYTHONPATH": str(tmp_path / "limits")})
    (tmp_path / "limits").mkdir()
    # Files of this process and its children may have 64 KiB: what a full disk answers, only with another number.
    (tmp_path / "limits/sitecustomize.py").write_text(
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
    )
    (tmp_path / "out").mkdir()
    error = small.json("airflow", "snapshot", "export", "apple", str(tmp_path / "out/apple.astro"), code=1)
    assert error["message"].startswith(str(tmp_path / "out/apple.astro"))
    assert os.listdir(tmp_path / "out") == []


def test_another_key_or_airflow_is_refused_with_what_to_do(shop: Astro, url: str):
    about = (
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = 'astro_snapshot_apple'"
    )
    known = shop("airflow", "bash", "postgres", input=f'psql -Atc "{about}"\n').stdout.strip()
    for old, new, message in (
        (listed(shop)["apple"]["key"], "0123456789ab", "another Fernet key"),
        ('"airflow": "3.3.2"', '"airflow": "3.2.0"', "is of Airflow 3.2.0"),
    ):
        other = known.replace(old, new)
        assert other != known
        sql = f"COMMENT ON DATABASE astro_snapshot_apple IS '{other}'"
        shop("airflow", "bash", "postgres", input=f"psql -c \"$(cat <<'END'\n{sql}\nEND\n)\"\n")
        error = shop.json("airflow", "snapshot", "restore", "apple", code=1)
        assert message in error["message"]
        assert error["hint"]
        shop("airflow", "snapshot", "restore", "apple", "--force")
        assert fruit(url) == "apple"
    sql = f"COMMENT ON DATABASE astro_snapshot_apple IS '{known}'"
    shop("airflow", "bash", "postgres", input=f"psql -c \"$(cat <<'END'\n{sql}\nEND\n)\"\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("command", ["save", "restore"])
def test_a_run_that_is_ended_in_the_middle_leaves_the_old_or_the_new(
    shop: Astro, url: str, number: signal.Signals, command: str
):
    for turn, after in enumerate((0.4, 0.6, 0.8, 1.1)):
        set_fruit(url, "pear")
        name = f"cut-{number.value}-{turn}" if command == "save" else "apple"
        run = shop.spawn("airflow", "snapshot", command, name)
        time.sleep(after)
        run.send_signal(number)
        _, err = run.communicate(timeout=180)
        assert "Traceback" not in err
        if number == signal.SIGKILL:
            time.sleep(1)  # what it has begun in the database ends there
        assert fruit_after_a_cut(url) in ("pear", "apple")
    shop("airflow", "snapshot", "save", f"after-{command}-{number.value}")
    shop("airflow", "snapshot", "restore", f"after-{command}-{number.value}")
    assert not [name for name in databases(shop) if name.startswith("astro_draft_")]
    shop.wait_until_healthy()


def test_clones_of_other_commands_are_no_snapshots(shop: Astro, url: str):
    clones = ("astro_template_x", "astro_test_x")
    for clone in clones:
        shop("airflow", "bash", "postgres", input=f"psql --command 'CREATE DATABASE {clone}'\n")
    assert set(clones) <= databases(shop)
    assert not [name for name in listed(shop) if name.endswith("_x")]
    for clone in clones:
        shop("airflow", "bash", "postgres", input=f"psql --command 'DROP DATABASE {clone}'\n")


def test_a_stopped_sandbox_says_so(shop: Astro, url: str):
    shop("airflow", "stop")
    for command in (("save",), ("restore", "apple"), ("delete", "apple"), ("export", "apple", "x.astro")):
        error = shop.json("airflow", "snapshot", *command, code=1)
        assert "database does not run" in error["message"]
        assert "astro airflow start" in error["hint"]
    assert shop.json("airflow", "snapshot", "list") == {"snapshots": [], "complete": False}
    shop.start()
    assert "apple" in listed(shop)


def test_what_a_kill_keeps_is_brought_back_after_the_next_start_and_can_be_read(shop: Astro, url: str):
    connection = {"connection_id": "shop", "conn_type": "http", "password": "open sesame"}
    answer = httpx.post(f"{url}/api/v2/connections", json=connection, trust_env=False, timeout=60)
    answer.raise_for_status()
    set_fruit(url, "precious")
    kept = shop.json("airflow", "kill", "--yes")["snapshot"]
    assert Path(kept["file"]).stat().st_mode & 0o777 == 0o600
    assert list(listed(shop)) == [kept["name"]]
    (shop.folder / "airflow_settings.yaml").unlink()
    shop.start()
    assert fruit(url) is None
    shop("airflow", "snapshot", "restore", kept["name"])
    assert fruit(url) == "precious"
    assert "open sesame" in shop("airflow", "run", "connections", "get", "shop", "-o", "json").stdout
    assert shop.json("airflow", "kill", "--yes", "--no-snapshot")["snapshot"] is None
    assert list(listed(shop)) == [kept["name"]]
    shop("airflow", "snapshot", "delete", kept["name"])
    assert listed(shop) == {}


def test_a_project_that_was_never_started_has_none_and_looking_leaves_no_trace(shop: Astro, tmp_path: Path):
    shutil.copytree(shop.folder, tmp_path / "new", ignore=shutil.ignore_patterns("checkout"))
    new = Astro(tmp_path / "new", shop.environ)
    assert new.json("airflow", "snapshot", "list")["snapshots"] == []
    assert "no sandbox yet" in new.json("airflow", "snapshot", "save", code=1)["message"]
    assert not (new.folder / ".astro/checkout").exists()
