"""An upgrade test without Docker: a real other Airflow, a real database server, nothing left behind."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from astro_cli.domain.image import images_folder
from astro_cli.runtime.trial import Airflow, trial_server
from astro_cli.runtime.venv import Inputs, Workshop
from tests.engine.astro import Astro

if TYPE_CHECKING:
    from collections.abc import Callable

OTHER = "3.2.2"
NEW_STYLE = """
from airflow.sdk import RetryPolicy, dag, task

@dag(schedule=None)
def new_style():
    @task
    def nothing(): ...
    nothing()

new_style()
"""
OLD_STYLE = """
from airflow import DAG
from airflow.operators.dummy import DummyOperator
with DAG("old_style", schedule_interval="@daily"):
    DummyOperator(task_id="nothing")
"""


class Silent:
    """A report for nobody."""

    def step(self, text: str) -> None: ...
    def detail(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...


@pytest.fixture
def shop(make_project: Callable[[str], Astro]) -> Astro:
    return make_project("shop")


@pytest.fixture
def shelf(shared_cache: Path) -> Path:
    """Where runs have their folders."""
    return shared_cache / "astro/upgrade-tests"


def everything(folder: Path) -> dict[str, bytes]:
    """All files of a project."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_dag_that_needs_the_present_version_is_found_and_nothing_is_touched(
    shop: Astro, shelf: Path, tmp_path: Path
):
    shop.write("dags/new_style.py", NEW_STYLE)
    shop.write("dags/old_style.py", OLD_STYLE)
    before = everything(shop.folder)
    file = tmp_path / "report.md"
    said = shop("airflow", "upgrade-test", "--airflow-version", OTHER, "-o", str(file), code=6).stdout
    assert everything(shop.folder) == before
    assert list(shelf.iterdir()) == []
    assert "breaks: dags/new_style.py cannot be imported: ImportError" in said
    assert said.count("breaks: ") == 1, "the file that is broken already does not break now"
    report = file.read_text()
    assert "error: dags/new_style.py:2: ImportError: cannot import name 'RetryPolicy'" in report
    assert "- dags/old_style.py: ModuleNotFoundError" in report
    assert "| dags/old_style.py:4 | AIR301 | `schedule_interval` is removed" in report
    assert f"| apache-airflow | 3.3.2 | {OTHER} |" in report
    assert "Not tested: the project has no sandbox yet." in report


def test_an_older_database_is_migrated_and_a_failed_migration_tells_why(
    tmp_path: Path, user: dict[str, str], shared_cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared_cache))
    workshop = Workshop(user, images_folder())
    python = workshop.interpreters("")[0]
    lock = tmp_path / "requirements.lock"
    lock.write_text(workshop.lock_for(OTHER, python, Silent()))
    old = workshop.environment(Inputs(OTHER, lock, None, python), Silent()).folder
    new = workshop.environment(
        Inputs("3.3.2", images_folder() / "requirements.lock", None, python), Silent()
    ).folder
    postgres = workshop.postgres(new / "bin/python", Silent()).folder
    template = workshop.template(old, postgres, OTHER, Silent()).folder
    with trial_server(old / "bin/python", postgres, template, user) as server:
        airflow = Airflow(new, tmp_path, server, lambda home: {"AIRFLOW_HOME": home}, user)
        assert server.revision("airflow") in airflow.known_revisions()
        server.execute("postgres", "CREATE DATABASE broken TEMPLATE airflow")
        server.execute("broken", "CREATE TABLE task_state_store (mine int)")
        done = airflow.migrate("airflow")
        assert (done.state, done.breaks) == ("migrated", False)
        assert done.after == server.revision("airflow") != done.before
        assert airflow.migrate("airflow").state == "unchanged"
        failed = airflow.migrate("broken")
    assert failed.breaks
    assert any('"task_state_store" already exists' in line for line in failed.lines)


def test_a_requirement_that_does_not_fit_the_other_version_is_a_finding(shop: Astro):
    shop.write("requirements.txt", "apache-airflow-task-sdk>=1.3\n")
    told = shop("airflow", "upgrade-test", "--airflow-version", OTHER, code=6).stdout
    assert 'breaks: requirement "apache-airflow-task-sdk>=1.3" (line 1 of requirements.txt)' in told
    assert "DAG files     not checked" in told


def test_versions_that_cannot_be_tried_are_refused_with_a_way_out(shop: Astro):
    def refused(version: str) -> str:
        return shop("airflow", "upgrade-test", "--airflow-version", version, code=2).stderr

    unknown = refused("3.2.99")
    assert "error: there is no Airflow 3.2.99" in unknown
    assert "did you mean `3.2." in unknown
    assert "the newest is 3." in unknown
    assert "the project has Airflow 3.3.2 already" in refused("3.3.2")
    assert "`2.11.0` is no version of Airflow 3" in refused("2.11.0")


def test_without_an_index_and_without_a_cache_it_says_so(shop: Astro, tmp_path: Path):
    lonely = {**shop.environ, "UV_INDEX_URL": "http://127.0.0.1:9/simple", "UV_HTTP_RETRIES": "0"}
    lonely |= {"UV_CACHE_DIR": str(tmp_path / "uv"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    said = Astro(shop.folder, lonely)("airflow", "upgrade-test", "--airflow-version", OTHER, code=4).stderr
    assert "error: the package index cannot be reached, and what is needed is not cached" in said


def test_a_report_never_replaces_a_file_of_the_users_unasked(shop: Astro):
    shop.write("notes.md", "mine\n")
    arguments = ("airflow", "upgrade-test", "--airflow-version", OTHER, "-o", "notes.md")
    assert "is no report of an upgrade test" in shop(*arguments, code=2).stderr
    assert (shop.folder / "notes.md").read_text() == "mine\n"


def test_an_interrupted_run_leaves_nothing_and_a_killed_one_only_what_the_next_removes(
    shop: Astro, shelf: Path
):
    killed, server, folder = until_the_server_runs(shop, shelf)
    killed.kill()
    killed.communicate(timeout=60)
    wait_until_gone(server)
    assert folder.exists()
    interrupted, server, _ = until_the_server_runs(shop, shelf)
    assert not folder.exists()
    interrupted.send_signal(signal.SIGINT)
    _, said = interrupted.communicate(timeout=120)
    assert interrupted.returncode == 130
    assert "no copy of its database is left" in said
    wait_until_gone(server)
    assert list(shelf.iterdir()) == []


def until_the_server_runs(shop: Astro, shelf: Path) -> tuple[subprocess.Popen[str], int, Path]:
    """A run that has its database server, the server's process id, and its folder."""
    before = set(shelf.glob("*")) if shelf.exists() else set()
    run = shop.spawn("airflow", "upgrade-test", "--airflow-version", OTHER)
    end = time.monotonic() + 400
    while True:
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < end
        found = [path for path in shelf.glob("*/data/postmaster.pid") if path.parents[1] not in before]
        words = found[0].read_text().split() if found else []
        if words:
            return run, int(words[0]), found[0].parents[1]
        time.sleep(0.1)


def wait_until_gone(pid: int) -> None:
    end = time.monotonic() + 120
    while Path(f"/proc/{pid}/cwd").exists():  # a zombie that nobody reaps works nowhere
        assert time.monotonic() < end
        time.sleep(0.1)
