"""Measures the Docker sandbox against the plain way, on this machine, in one run.

    python bench/sandbox.py [--rounds 3] [--json FILE]

The plain way is what the official instructions amount to, on the same images and engine: a fresh, empty Postgres,
`airflow db migrate`, then the four components, each in a container of its own. Both are polled alike, at Airflow's
health page, until every component is healthy. Rounds alternate, so that a machine that slows down slows both.
Needs a Docker engine (`DOCKER_HOST` or the usual socket); the images are built first if they are missing.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker
import httpx
from project import ASTRO, BenchProject

from astro_cli.domain import airflow, image

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PLAIN_PORT = 18080
COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")
DAG = """
from airflow.sdk import dag, task

@dag(schedule=None)
def {name}():
    @task
    def one():
        return 1
    one()

{name}()
"""


class Bench(BenchProject):
    """The sandbox in Docker, and the plain way beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.client: Any = docker.from_env(timeout=300)

    # our way

    def first_start(self) -> float:
        """`astro airflow start` without any sandbox, with the images present."""
        self.astro("airflow", "kill", "--yes")
        # kill removes the project's image; the build belongs to another figure
        self.astro("airflow", "build")
        return self.astro("airflow", "start", "--no-browser", "--wait", "300")[0]

    # the plain way

    def plain_start(self) -> float:
        """Empty Postgres, migrate, four containers; seconds until all are healthy."""
        names = [f"astro-bench-plain-{name}" for name in ("postgres", "migrate", *COMPONENTS)]
        self._remove(names)
        network = self.client.networks.create("astro-bench-plain")
        try:
            self._empty_postgres(names[0])
            began = time.monotonic()
            postgres = self.client.containers.get(names[0])
            postgres.start()
            self._until(lambda: postgres.exec_run(["pg_isready", "-q"]).exit_code == 0, 0.05)
            engine = image.engine_image(airflow.DEFAULT_VERSION)
            common: Any = {
                "environment": self._plain_environment(),
                "network": network.name,
                "volumes": [f"{self.project}/dags:/opt/airflow/dags"],
                "detach": True,
            }
            migrate = self.client.containers.run(
                engine, ["airflow", "db", "migrate"], name=names[1], **common
            )
            if migrate.wait()["StatusCode"] != 0:
                raise SystemExit(migrate.logs().decode())
            for component, name in zip(COMPONENTS, names[2:], strict=True):
                ports = {"8080/tcp": ("127.0.0.1", PLAIN_PORT)} if component == "api-server" else {}
                self.client.containers.run(
                    engine, ["airflow", component], name=name, hostname=component, ports=ports, **common
                )
            self._until(lambda: is_healthy(PLAIN_PORT), 0.25)
            return time.monotonic() - began
        finally:
            self._remove(names)
            network.remove()

    def _empty_postgres(self, name: str) -> None:
        """A stopped Postgres container whose database is initialised and empty."""
        container = self.client.containers.run(
            image.postgres_image(airflow.DEFAULT_VERSION), name=name, hostname="postgres", detach=True,
            network="astro-bench-plain", entrypoint=["postgres", "--config-file=/etc/postgresql/postgresql.conf"],
        )  # fmt: skip
        self.client.networks.get("astro-bench-plain").disconnect(container)
        self.client.networks.get("astro-bench-plain").connect(container, aliases=["postgres"])
        self._until(lambda: container.exec_run(["pg_isready", "-q"]).exit_code == 0, 0.1)
        for statement in (
            "DROP DATABASE airflow",
            "ALTER ROLE airflow LOGIN PASSWORD 'plain'",
            "CREATE DATABASE airflow OWNER airflow",
        ):
            done = container.exec_run(["psql", "-d", "postgres", "-c", statement])
            if done.exit_code != 0:
                raise SystemExit(str(done.output))
        container.stop()

    def _plain_environment(self) -> dict[str, str]:
        own = airflow.sandbox_environment(
            instance_name="plain", base_url=f"http://localhost:{PLAIN_PORT}", parallelism=4
        )
        own["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] = "http://api-server:8080/execution/"
        secrets = {"database": "plain", "fernet": "A" * 43 + "=", "jwt": "j" * 64, "api": "k" * 64}
        return {**own, **airflow.private_environment(secrets)}

    def _remove(self, names: Sequence[str]) -> None:
        for name in names:
            try:
                self.client.containers.get(name).remove(force=True, v=True)
            except docker.errors.NotFound:
                continue

    def _until(self, check: Callable[[], bool], pause: float, seconds: float = 300) -> float:
        began = time.monotonic()
        while not check():
            if time.monotonic() - began > seconds:
                raise SystemExit("not ready in time")
            time.sleep(pause)
        return time.monotonic() - began

    # the inner loop

    def dag_visible(self, url: str, file: str, name: str) -> float:
        """Seconds from saving a file until the API shows its DAG."""
        (self.project / "dags" / file).write_text(DAG.format(name=name))
        return self._until(
            lambda: httpx.get(f"{url}/api/v2/dags/{name}", trust_env=False).status_code == 200, 0.1
        )


def is_healthy(port: int) -> bool:
    """Whether all four components say so."""
    try:
        told = httpx.get(f"http://127.0.0.1:{port}{airflow.HEALTH_PATH}", trust_env=False, timeout=2).json()
    except (httpx.HTTPError, ValueError):
        return False
    return all(
        told[name]["status"] == "healthy"
        for name in ("metadatabase", "scheduler", "triggerer", "dag_processor")
    )


def cpu_seconds(command: Sequence[str], bench: Bench, runs: int = 9) -> float:
    """The median of user and system CPU seconds of a whole process."""
    readings = []
    for _ in range(runs):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, cwd=bench.project, env=bench.environ, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        readings.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(readings)


def measure(bench: Bench, rounds: int) -> dict[str, Any]:
    """Every figure, in seconds unless the name says otherwise."""
    print("building images, warming up…", file=sys.stderr)
    bench.astro("airflow", "start", "--no-browser", "--wait", "600")
    ours, plain = [], []
    for number in range(rounds):
        plain.append(bench.plain_start())
        ours.append(bench.first_start())
        print(f"round {number + 1}: plain {plain[-1]:.1f} s, astro {ours[-1]:.1f} s", file=sys.stderr)
    again, running = [], []
    for _ in range(rounds):
        bench.astro("airflow", "stop")
        again.append(bench.astro("airflow", "start", "--no-browser", "--wait", "300")[0])
        running.append(bench.astro("airflow", "start", "--no-browser")[0])
    status = json.loads(bench.astro("airflow", "ps", "--json")[1])["data"]
    new = [bench.dag_visible(status["url"], f"new_{i}.py", f"new_{i}") for i in range(rounds)]
    edit = [bench.dag_visible(status["url"], f"new_{i}.py", f"edited_{i}") for i in range(rounds)]
    time.sleep(45)  # idle, and past the supervisor's slow reading of memory
    status = json.loads(bench.astro("airflow", "ps", "--json")[1])["data"]
    memory = {service["name"]: round((service["memory"] or 0) / 2**20) for service in status["services"]}
    nothing = bench.astro("airflow", "build")[0]
    (bench.project / "requirements.txt").write_text("cowsay==6.1\n")
    requirement = bench.astro("airflow", "build")[0]
    typer = cpu_seconds([sys.executable, "-c", "import typer"], bench)
    return {
        "first start": {
            "astro": ours,
            "plain": plain,
            "ratio": statistics.median(a / p for a, p in zip(ours, plain, strict=True)),
        },
        "start after stop": again,
        "start when running": running,
        "new DAG visible": new,
        "edit visible": edit,
        "build, nothing changed": nothing,
        "build, requirement changed": requirement,
        "idle memory, MiB": {**memory, "all": sum(memory.values())},
        "CPU against `import typer`": {
            "astro --help": cpu_seconds([*ASTRO, "--help"], bench) / typer,
            "astro version": cpu_seconds([*ASTRO, "version"], bench) / typer,
            "astro airflow ps": cpu_seconds([*ASTRO, "airflow", "ps"], bench) / typer,
        },
        "machine": {
            "cpus": os.cpu_count(),
            "load": os.getloadavg()[0],
            "engine": bench.client.version()["Version"],
        },
    }


def show(figures: dict[str, Any]) -> None:
    """The figures as lines of text."""
    for name, value in figures.items():
        if isinstance(value, list):
            print(
                f"{name:<28} median {statistics.median(value):.2f}   all {', '.join(f'{v:.2f}' for v in value)}"
            )
        elif isinstance(value, dict):
            print(name)
            for key, part in value.items():
                shown = ", ".join(f"{v:.1f}" for v in part) if isinstance(part, list) else part
                print(f"    {key:<24} {shown:.2f}" if isinstance(shown, float) else f"    {key:<24} {shown}")
        else:
            print(f"{name:<28} {value:.2f}")


def main() -> None:
    """Measure, print, and keep the figures if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    bench = Bench()
    try:
        figures = measure(bench, options.rounds)
    finally:
        bench.clean()
    show(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
