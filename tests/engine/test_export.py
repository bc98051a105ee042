"""What `astro export compose` writes, brought up by Docker Compose: nothing of astro runs in it."""

from __future__ import annotations

import base64
import io
import secrets
import shutil
import subprocess
import tarfile
from contextlib import suppress
from typing import TYPE_CHECKING

import docker
import httpx
import pytest

from tests.engine.astro import Astro, environment, wait_for
from tests.free_port import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECONDS = 600.0
"""For one step on a machine that does other things as well."""

# On a machine that is too busy Airflow may give up a try of a task whose heartbeats found no answer.
DAG = """
from datetime import timedelta
from airflow.sdk import Variable, dag, task

@dag(schedule=None, is_paused_upon_creation=False)
def away():
    @task(retries=10, retry_delay=timedelta(seconds=1))
    def count(number):
        Variable.set(f"number_{number}", str(number))
        return number

    @task(retries=10, retry_delay=timedelta(seconds=1))
    def add(numbers):
        assert sum(numbers) == 6

    add(count.expand(number=[1, 2, 3]))
away()
"""

# The image `postgres:17` is in a registry that not every machine reaches. This one behaves like it: a folder for
# the socket that everybody may write to, and at its first start an empty database with the given names.
STAND_IN = {
    "Dockerfile": """\
ARG BASE
FROM $BASE
USER root
RUN chmod 3777 /run/postgresql
USER 999:999
COPY start /start
ENTRYPOINT ["/start"]
""",
    "start": """\
#!/bin/sh
set -eu
config=/etc/postgresql/postgresql.conf
if [ ! -e "$PGDATA/made" ]; then
    printf '%s\\n' "DROP DATABASE $POSTGRES_DB" "CREATE DATABASE $POSTGRES_DB OWNER $POSTGRES_USER" \\
        "ALTER ROLE $POSTGRES_USER PASSWORD '$POSTGRES_PASSWORD'" \\
        | postgres --single --config-file=$config postgres
    touch "$PGDATA/made"
fi
exec postgres --config-file=$config
""",
}


@pytest.mark.long
def test_docker_compose_runs_the_project_without_astro(tmp_path: Path, home: Path, engine_url: str):
    if shutil.which("docker-compose") is None:
        pytest.skip("the program docker-compose is missing: apt-get install docker-compose")
    astro = Astro(tmp_path, environment(home, engine_url))
    astro("init", "shop")
    astro = Astro(tmp_path / "shop", astro.environ)
    astro.write("dags/away.py", DAG)
    built = astro.json("airflow", "build")
    exported = astro.json("export", "compose", "--output", "docker-compose.yaml")
    password = f"'{secrets.token_urlsafe(9)}\"\\ü"
    given = {name: secrets.token_hex(32) for name in exported["needed"]} | {
        "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "AIRFLOW_ADMIN_PASSWORD": password,
        "AIRFLOW_PORT": str(free_port()),
        "AIRFLOW_IMAGE": built["image"],
        "POSTGRES_IMAGE": stand_in(engine_url, built["airflow_version"]),
        "COMPOSE_HTTP_TIMEOUT": str(int(SECONDS)),
    }
    compose = Compose(astro, {**astro.environ, **given}, f"astro-test-{secrets.token_hex(4)}")
    try:
        compose("up", "--detach", "--no-build")

        state = run_of(f"http://127.0.0.1:{given['AIRFLOW_PORT']}", password)
        assert state == "success", compose("logs", "--no-color", "--tail", "200", "scheduler", "api-server")
        assert compose.health() == {"postgres": "healthy", "api-server": "healthy", "scheduler": "healthy"}
    finally:
        compose("down", "--volumes", "--timeout", "1", check=False)
        client = docker.DockerClient(base_url=engine_url, timeout=120)
        client.images.remove(given["POSTGRES_IMAGE"], force=True)
        client.close()
        astro("airflow", "kill", "--yes", code=None)


class Compose:
    """`docker-compose` in the project, as a user would call it."""

    def __init__(self, astro: Astro, environ: dict[str, str], name: str) -> None:
        self._astro, self._environ, self._name = astro, environ, name

    def __call__(self, *args: str, check: bool = True) -> str:
        done = subprocess.run(
            ["docker-compose", "--project-name", self._name, *args],
            cwd=self._astro.folder, env=self._environ, text=True, capture_output=True, timeout=SECONDS,
        )  # fmt: skip
        assert done.returncode == 0 or not check, f"{done.stdout}\n{done.stderr}\n{self('logs', check=False)}"
        return done.stdout

    def health(self) -> dict[str, str]:
        """Service to its health, once all are well; those without a check are left out."""
        client = docker.DockerClient(base_url=self._environ["DOCKER_HOST"], timeout=120)
        mine = {"label": f"com.docker.compose.project={self._name}"}

        def found() -> dict[str, str]:
            return {
                each.labels["com.docker.compose.service"]: each.attrs["State"]["Health"]["Status"]
                for each in client.containers.list(filters=mine)
                if "Health" in each.attrs["State"]
            }

        try:
            wait_for(lambda: set(found().values()) == {"healthy"}, found, seconds=SECONDS)
            return found()
        finally:
            client.close()


def run_of(url: str, password: str) -> str:
    """Log in, run the DAG, and give the run's final state."""
    with httpx.Client(base_url=url, trust_env=False, timeout=300) as client:
        until(lambda: client.get("/api/v2/version").status_code == 200)
        assert client.get("/api/v2/dags").status_code == 401
        token = client.post("/auth/token", json={"username": "admin", "password": password})
        client.headers["Authorization"] = f"Bearer {token.raise_for_status().json()['access_token']}"
        dag = "/api/v2/dags/away"
        until(lambda: client.get(dag).status_code == 200)
        begun = client.post(f"{dag}/dagRuns", json={"logical_date": None}).raise_for_status().json()

        def state() -> str:
            answer = client.get(f"{dag}/dagRuns/{begun['dag_run_id']}").raise_for_status()
            return str(answer.json()["state"])

        until(lambda: state() in ("success", "failed"))
        return state()


def until(is_so: Callable[[], bool]) -> None:
    """Wait for what the API tells; one that does not answer yet, or is too busy to, is asked again."""

    def found() -> bool:
        with suppress(httpx.TransportError):
            return is_so()
        return False

    wait_for(found, seconds=SECONDS)


def stand_in(engine_url: str, airflow_version: str) -> str:
    """Build the image that stands in for `postgres:17`; returns its name."""
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        for name, text in STAND_IN.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text.encode()), 0o755
            tar.addfile(entry, io.BytesIO(text.encode()))
    context.seek(0)
    name = f"astro-test-postgres:{secrets.token_hex(4)}"
    client = docker.DockerClient(base_url=engine_url, timeout=SECONDS)
    try:
        client.images.build(
            fileobj=context, custom_context=True, tag=name, rm=True,
            buildargs={"BASE": f"localhost/astro/postgres:17-airflow{airflow_version}"},
        )  # fmt: skip
    finally:
        client.close()
    return name
