"""A project that is deployed to the three hosts of a lab, and how tests look at what runs there."""

from __future__ import annotations

import http.server
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.deploy.deployed import NAME, PORT, Deployed
from tests.engine.astro import Astro, environment, wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.deploy.host import Host
    from tests.deploy.lab import Lab

DAG = '''\
"""Tasks that tell a server when they begin and end, and go on until it lets them."""

import time
import urllib.request
from datetime import timedelta

from airflow.sdk import dag, task

VERSION = "{version}"


def tell(sink: str, *words: object) -> str:
    with urllib.request.urlopen("/".join([sink, *map(str, words)]), timeout=10) as answer:
        return answer.read().decode()


@dag(schedule=None, params={{"sink": "", "count": 0}})
def many():
    @task(retries=3, retry_delay=timedelta(seconds=1))
    def numbers(params: dict) -> list[int]:
        return list(range(params["count"]))

    @task(retries=3, retry_delay=timedelta(seconds=1))
    def work(number: int, params: dict, run_id: str) -> str:
        tell(params["sink"], "begun", run_id, number)
        while tell(params["sink"], "may-end", run_id) != "yes":
            time.sleep(0.5)
        tell(params["sink"], "done", run_id, number)
        return VERSION

    work.expand(number=numbers())


many()
'''


class Sink:
    """Counts what the tasks of a run tell, and lets them end."""

    def __init__(self, address: str) -> None:
        self.begun: dict[str, Counter[str]] = {}
        self.done: dict[str, Counter[str]] = {}
        self.let_go: set[str] = set()
        sink = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer = sink.hear(*self.path.strip("/").split("/")).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self._lock = threading.Lock()
        self._server = http.server.ThreadingHTTPServer((address, 0), Handler)
        self.url = f"http://{address}:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def hear(self, word: str, run: str, number: str = "") -> str:
        """What a task tells, and the answer."""
        with self._lock:
            if word in ("begun", "done"):
                getattr(self, word).setdefault(run, Counter())[number] += 1
            return "yes" if run in self.let_go else "no"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Clustered(Deployed):
    """The deployment on the lab's hosts; `host` is the one whose proxy and engine are asked."""

    lab: Lab = field(kw_only=True)
    sink: Sink = field(kw_only=True)

    def write_version(self, version: str) -> None:
        """Let the DAG be of this version."""
        self.astro.write("dags/many.py", DAG.format(version=version))

    def deploy(self, *args: str, code: int = 0) -> Any:
        """`astro deploy`; its data, or its error. The gates are tested elsewhere."""
        return super().deploy("--skip-checks", *args, code=code)

    def begin(self, count: int = 6) -> str:
        """Begin a run, and wait until all of its tasks are at work; returns its id."""
        self.request("PATCH", "/api/v2/dags/many", json={"is_paused": False})
        body = {"logical_date": None, "conf": {"sink": self.sink.url, "count": count}}
        run = str(self.request("POST", "/api/v2/dags/many/dagRuns", json=body)["dag_run_id"])
        wait_for(lambda: len(self.sink.begun.get(run, ())) == count, lambda: self.tasks(run), seconds=300)
        return run

    def finish(self, run: str, seconds: float = 400) -> str:
        """Let the tasks of a run end; returns its state once it has."""
        self.sink.let_go.add(run)
        end = time.monotonic() + seconds
        while (state := self.state_of(run)) not in ("success", "failed"):
            assert time.monotonic() < end, self.tasks(run)
            time.sleep(0.5)
        return state

    def state_of(self, run: str) -> str:
        """The state of a run."""
        return str(self.request("GET", f"/api/v2/dags/many/dagRuns/{run}")["state"])

    def tasks(self, run: str) -> list[tuple[int, str, int, str]]:
        """Number, state, try and host of each task that does the work."""
        path = f"/api/v2/dags/many/dagRuns/{run}/taskInstances"
        found = self.request("GET", path)["task_instances"]
        work = [each for each in found if each["task_id"] == "work"]
        return [(each["map_index"], each["state"], each["try_number"], each["hostname"]) for each in work]

    def versions(self, run: str) -> set[str]:
        """What the tasks of a run said which code they are."""
        path = f"/api/v2/dags/many/dagRuns/{run}/taskInstances/work/xcomEntries/return_value"
        numbers = [number for number, *_ in self.tasks(run)]
        return {
            str(self.request("GET", path, params={"map_index": number})["value"]).strip('"')
            for number in numbers
        }

    def host_of(self, service: str) -> Host:
        """Where the only copy of a service runs."""
        (node,) = self.ps()[service]["nodes"]
        return next(host for host in self.lab.hosts if host.name == node)

    def ps(self) -> dict[str, dict[str, Any]]:
        """What `ps` says of each service."""
        services = self.astro.json("deployment", "ps", NAME)["services"]
        return {service["name"]: service for service in services}

    def wait_whole(self, seconds: float = 400) -> None:
        """Until every service runs as many as it shall."""
        wait_for(
            lambda: all(
                each["running"] >= each["wanted"] and not each["draining"] for each in self.ps().values()
            ),
            lambda: {name: (each["running"], each["wanted"]) for name, each in self.ps().items()},
            seconds,
        )

    def everywhere(self) -> set[str]:
        """Ids of the containers that run on any host."""
        found: set[str] = set()
        for host in self.lab.hosts:
            with host.engine() as engine:
                found |= {str(each.id) for each in engine.containers.list()}
        return found


def first(folder: Path, lab: Lab, engine_url: str) -> Clustered:
    """Make a project below `folder`, and deploy its first version."""
    (folder / "home").mkdir()
    variables = environment(folder / "home", engine_url) | lab.environment
    Astro(folder, variables)("airflow", "init", "shop")
    made = Clustered(
        Astro(folder / "shop", variables), lab.hosts[0], lab=lab, sink=Sink(lab.switch.machine_address)
    )
    with (folder / "shop/.astro/config.yaml").open("a") as file:
        file.write(
            f"deployments:\n  {NAME}:\n    target: swarm\n"
            f"    hosts: [{', '.join(host.url for host in lab.hosts)}]\n"
            f"    registry: {lab.repository}\n    registry_authority: {lab.authority}\n"
            "    workers: {worker: {count: 3, concurrency: 4}}\n"
            f"    drain: 10m\n    env: {{COLOUR: red}}\n    publish: {{port: {PORT}}}\n"
        )
    for name in ("asset_report.py", "hello_astro.py"):
        (folder / "shop/dags" / name).unlink()
    made.write_version("v1")
    subprocess.run(["git", "init", "-q", "-b", "main"], cwd=made.astro.folder, env=variables, check=True)
    made.first = made.deploy("--wait", "600")
    made.password = made.astro.json("deployment", "inspect", NAME, "--show-password")["admin_password"]
    return made
