"""The Celery shape on a real engine: the DAGs of the local shape, on workers that come, go and die."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker
import pytest

from tests.engine.astro import Astro, environment, get, run_dag, trigger, wait_for, wait_for_dag, wait_for_run
from tests.engine.test_runs import DAGS, SETTINGS, TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docker.models.containers import Container

OWN = """
import pathlib
import time
from datetime import datetime
from airflow.sdk import dag, task

@dag(schedule=None, is_paused_upon_creation=False)
def routed():
    @task(queue="heavy")
    def lift(): print("lifted")
    lift()
routed()

@dag(schedule=None, is_paused_upon_creation=False)
def patient():
    @task
    def wait(n):
        while not pathlib.Path(__file__).with_name("go").exists():
            time.sleep(0.5)
    wait.expand(n=[1, 2, 3, 4, 5, 6])
patient()

@dag(schedule=None, is_paused_upon_creation=False)
def struck():
    @task(retries=3, retry_delay=1)
    def hit(**context):
        while context["ti"].try_number == 1:
            time.sleep(0.5)
    hit()
struck()
"""
GROUPS = "\nworkers:\n  worker: {concurrency: 2}\n  heavy: {count: 1, concurrency: 1, queues: [heavy]}\n"


@pytest.fixture(scope="module")
def project(engine_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Astro]:
    environ = environment(tmp_path_factory.mktemp("home"), engine_url)
    parent = tmp_path_factory.mktemp("projects")
    Astro(parent, environ)("airflow", "init", "many")
    astro = Astro(parent / "many", environ)
    for path in (astro.folder / "dags").glob("*.py"):
        path.unlink()
    astro.write("dags/lab.py", DAGS)
    astro.write("dags/own.py", OWN)
    astro.write(".env", f"TOKEN={TOKEN}\nDB_HOST=db.example\nDB_PORT=5433\n")
    astro.write("airflow_settings.yaml", SETTINGS)
    astro.write(".astro/config.yaml", (astro.folder / ".astro/config.yaml").read_text() + GROUPS)
    yield astro
    astro("airflow", "kill", "--yes", "--no-snapshot", code=None)


@pytest.fixture
def url(project: Astro) -> str:
    """Two workers for everything, one for heavy tasks; nothing is done where they run already."""
    found: str = project.start("--executor", "celery", "--workers", "2", "--metrics")["url"]
    for dag_id in ("chain", "daily", "routed", "patient", "struck"):
        wait_for_dag(found, dag_id, seconds=180)
    return found


def tasks(url: str, dag_id: str, run_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = get(url, f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances")[
        "task_instances"
    ]
    return found


def workers(astro: Astro) -> set[str]:
    return {name for name in astro.services() if name.startswith(("worker-", "heavy-"))}


@pytest.fixture
def containers(project: Astro, engine_url: str) -> Iterator[Containers]:
    client = docker.DockerClient(base_url=engine_url, timeout=60)
    yield Containers(client, project.folder)
    client.close()


@dataclass(frozen=True)
class Containers:
    """What the engine has of one project."""

    client: docker.DockerClient
    folder: Path

    def __call__(self, name: str) -> Container:
        (found,) = (each for each in self.all() if each.labels["astro.service"] == name)
        return found

    def all(self) -> list[Container]:
        mine = {"label": f"astro.path={self.folder}"}
        return list(self.client.containers.list(all=True, filters=mine, ignore_removed=True))


def test_the_same_dags_run_on_workers_each_queue_on_its_own_and_their_logs_are_read(project: Astro, url: str):
    assert workers(project) == {"worker-1", "worker-2", "heavy-1"}
    for dag_id, dag_tasks in (("chain", {"first", "second"}), ("daily", {"a"})):
        run_id = trigger(url, dag_id)
        assert wait_for_run(url, dag_id, run_id, seconds=300) == "success"
        found = tasks(url, dag_id, run_id)
        assert {task["task_id"] for task in found} == dag_tasks
        assert {task["hostname"] for task in found} <= {"worker-1", "worker-2"}
    assert "rows None" in project("airflow", "logs", "--dag", "chain", "--task", "first").stdout

    run_id = trigger(url, "routed")
    assert wait_for_run(url, "routed", run_id, seconds=300) == "success"
    assert [task["hostname"] for task in tasks(url, "routed", run_id)] == ["heavy-1"]
    assert "lifted" in project("airflow", "logs", "--dag", "routed").stdout
    said = project("airflow", "logs", "heavy").stdout
    assert "ready." in said
    assert "worker-1" not in said

    def started_on_a_worker() -> list[str]:
        counters = project.json("airflow", "top")["metrics"]["counters"]
        return [each["tags"]["task_id"] for each in counters if each["name"] == "airflow.ti.start"]

    wait_for(lambda: "lift" in started_on_a_worker(), started_on_a_worker)


def test_workers_are_locked_up_like_the_rest_and_show_no_secret(url: str, containers: Containers):
    for name in ("broker", "worker-1", "heavy-1"):
        told = containers(name).attrs
        assert told["HostConfig"]["CapDrop"] == ["ALL"]
        assert "no-new-privileges:true" in told["HostConfig"]["SecurityOpt"]
        assert told["Config"]["User"].partition(":")[0] not in ("", "0")
        assert not told["HostConfig"]["PortBindings"]
        assert "redis://" not in json.dumps(told)


def test_a_worker_that_goes_first_finishes_its_tasks(project: Astro, url: str, containers: Containers):
    assert project.json("airflow", "scale", "worker=3")["workers"]["worker"] == [
        *("worker-1", "worker-2", "worker-3")
    ]
    run_id = trigger(url, "patient")
    going = {"worker-2", "worker-3"}
    wait_for(
        lambda: any(
            task["state"] == "running" and task["hostname"] in going for task in tasks(url, "patient", run_id)
        ),
        seconds=300,
    )
    scaling = project.spawn("airflow", "scale", "worker=1")
    try:
        wait_for(lambda: b"Warm shutdown" in containers("worker-3").logs(), seconds=300)
        assert scaling.poll() is None, "it waits for the tasks"
        project.write("dags/go", "")
        _, said = scaling.communicate(timeout=300)
        assert scaling.returncode == 0, said
    finally:
        project.write("dags/go", "")
        scaling.kill()
        scaling.communicate()
    assert wait_for_run(url, "patient", run_id, seconds=300) == "success"
    assert {task["try_number"] for task in tasks(url, "patient", run_id)} == {1}
    assert workers(project) == {"worker-1", "heavy-1"}


@pytest.mark.long
def test_a_task_whose_worker_is_killed_is_tried_again_and_the_worker_comes_back(
    project: Astro, url: str, containers: Containers
):
    run_id = trigger(url, "struck")
    wait_for(lambda: [task["state"] for task in tasks(url, "struck", run_id)] == ["running"], seconds=300)
    (task,) = tasks(url, "struck", run_id)
    assert task["try_number"] == 1
    # As the kernel does it when memory runs out: every process of the container at once.
    containers(task["hostname"]).exec_run(["python", "-c", "import os; os.kill(-1, 9)"])
    assert wait_for_run(url, "struck", run_id, seconds=600) == "success"
    (task,) = tasks(url, "struck", run_id)
    assert task["try_number"] > 1
    wait_for(lambda: all(each["health"] == "healthy" for each in project.services().values()), seconds=300)
    assert sum(project.services()[name]["restarts"] for name in workers(project)) > 0


def test_the_local_shape_comes_back_and_nothing_of_celery_is_left(
    project: Astro, url: str, containers: Containers
):
    stopped = project.json("airflow", "stop")["changes"]
    assert {f"stop container {name}" for name in ("worker-1", "broker", "airflow", "postgres")} <= {*stopped}
    local = project.start("--executor", "local", "--no-metrics")["url"]
    services = project.services()
    assert set(services) == {"postgres", "api-server", "scheduler", "dag-processor", "triggerer"}
    assert {each.labels["astro.service"] for each in containers.all()} == {"postgres", "airflow"}
    assert len(containers.client.volumes.list(filters={"label": f"astro.path={project.folder}"})) == 2
    assert run_dag(local, "daily") == "success"
    refused = project("airflow", "scale", "worker=2", code=2).stderr
    assert "astro airflow start --executor celery" in refused
