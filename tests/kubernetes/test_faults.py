"""A real Kubernetes that loses a node, a deploy that loses its machine, and a database that is somebody else's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from tests.deploy.deployed import NAME
from tests.deploy.host import poll
from tests.deploy.test_failures import Running
from tests.engine.astro import Astro, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.kubernetes.live import Live

pytestmark = [pytest.mark.long, pytest.mark.engine, pytest.mark.deploy]

PASSWORD = "canary-0d9f31"


def test_the_tasks_of_a_lost_node_run_again_on_the_other(live: Live):
    live.take_back()
    live.deploy()
    keeper = live.node_of("postgres-0")
    (lost,) = (node for node in live.lab.nodes if node.node_name != keeper)
    tries = {}
    for _ in range(8):
        run = live.trigger(seconds=900)
        task = live.wait_for_task(run, "running", seconds=300)
        if live.node_of(task["hostname"]) == lost.node_name:
            tries[run] = task["try_number"]
        if len(tries) == 2:
            break
    assert tries, "no task went to the node that is to be lost"

    def runs_again(run: str) -> bool:
        try:
            task = live.task(run)
        except httpx.HTTPError:  # the api-server was there as well
            return False
        return bool(task["state"] == "running" and task["try_number"] > tries[run])

    with live.without(lost):
        wait_for(lambda: all(runs_again(run) for run in tries), seconds=600)
        for run in tries:
            live.request("PATCH", f"/api/v2/dags/slow/dagRuns/{run}", json={"state": "failed"})
    assert live.run().startswith("v")


def test_a_deploy_that_is_killed_at_any_step_is_finished_by_the_next(live: Live):
    live.take_back()
    live.deploy()
    live.write_version("v8")
    for step in ("a node pulls", "roll: api-server", "roll: scheduler"):
        running = Running(live)
        running.until(step)
        running.kill()
    told = live.astro("deploy", NAME)
    assert "takes over" in told.stderr
    assert live.run() == "v8 v8"
    assert not live.astro.json("deployment", "ps", NAME)["locked_by"]
    assert not live.names("jobs")
    assert len(live.images()) == 1


def test_new_keys_open_what_the_old_ones_closed(live: Live):
    connection = {"connection_id": "kept", "conn_type": "http", "password": "canary-77ab"}
    live.request("POST", "/api/v2/connections", json=connection)
    live.astro("deployment", "rotate-keys", NAME)
    told = live.astro("deployment", "run", "--of", NAME, "connections", "get", "kept", "-o", "json").stdout
    assert "canary-77ab" in told
    assert live.run().startswith("v")


@pytest.fixture
def sql(live: Live) -> Iterator[Callable[..., str]]:
    """Asks a Postgres on the first node that is none of the deployment's."""
    node = live.lab.nodes[0]
    password = node.write("own/password", PASSWORD)
    (node.root / password.removeprefix("/")).chmod(0o644)
    statefulset = ("get", "statefulset", "postgres", "-o")
    image = live.kubectl(*statefulset, "jsonpath={.spec.template.spec.containers[0].image}")
    with node.engine() as engine:
        if not engine.images.list(image):
            login = {"username": "alice", "password": "correct horse"}
            engine.images.pull(image, auth_config=login)
        container = engine.containers.run(
            image, detach=True, network_mode="host", volumes=[f"{password}:/run/astro/password:ro"]
        )

        def ask(statement: str, database: str = "own") -> str:
            code, output = container.exec_run(["psql", "-qAt", "-d", database, "-c", statement])
            assert isinstance(output, bytes)
            assert code == 0, output.decode()
            return output.decode().strip()

        try:
            poll(lambda: container.exec_run(["pg_isready", "-q"])[0] == 0, "the user's own Postgres")
            ask("CREATE DATABASE own OWNER airflow", "postgres")
            yield ask
        finally:
            container.remove(force=True, v=True)


def test_a_database_of_ones_own_is_migrated_saved_put_back_and_left_alone(
    bare: Live, live: Live, sql: Callable[..., str]
):
    place = f"{live.lab.nodes[0].address}:5432/own"
    with bare.configured("executor: kubernetes", "database: secret:OWN_URL"):
        url = f"postgresql+psycopg2://airflow:{PASSWORD}@{place}"
        own = Astro(bare.astro.folder, {**bare.astro.environ, "OWN_URL": url})
        try:
            assert own.json("deploy", NAME, "--wait", "600")["changed"]
            assert sql("SELECT count(*) FROM alembic_version") == "1"
            assert not bare.names("statefulsets")
            assert PASSWORD not in bare.kubectl("get", "pods,deployments,configmaps,jobs", "-o", "yaml")
            saved = own.json("deployment", "backup", NAME)["backup"]
            own("deployment", "run", "--of", NAME, "variables", "set", "late", "x")
            own("deployment", "restore", saved, "--of", NAME, "--yes")
            assert sql("SELECT count(*) FROM variable") == "0"
        finally:
            own("deployment", "destroy", NAME, "--yes")
    assert sql("SELECT count(*) FROM alembic_version") == "1", "what is the user's stays"
