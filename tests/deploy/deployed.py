"""A project that is deployed to the second host, and how tests look at what runs there."""

from __future__ import annotations

import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

from tests.engine.astro import Astro, environment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

    from tests.deploy.host import Host

NAME = "prod"
PORT = 8080
SECRET_NAME, SECRET = "SHOP_TOKEN", "canary-5c1f0e7a9b"  # no output, file or record may hold the value
DAG = '''\
"""One task that takes its time, unless it is let go, and one that says which code it is."""

import os
import time

from airflow.sdk import dag, task

VERSION = "{version}"


@dag(schedule=None, params={{"seconds": 0}})
def slow():
    @task
    def first(params: dict, run_id: str) -> str:
        print("sleeping", params["seconds"])
        end = time.monotonic() + params["seconds"]
        while time.monotonic() < end and not os.path.exists(f"/tmp/{{run_id}}"):
            time.sleep(0.2)
        return VERSION

    @task
    def second(before: str) -> str:
        return f"{{before}} {{VERSION}}"

    second(first())


slow()
'''


@dataclass
class Deployed:
    """The project's folder, `astro` in it, and the deployment on the host.

    Attributes:
        first: what the first deploy told.
        password: of the admin.
    """

    astro: Astro
    host: Host
    password: str = ""
    first: dict[str, Any] = field(default_factory=dict)
    _token: str = field(default="", repr=False)

    @property
    def url(self) -> str:
        """Where the deployment answers."""
        return f"http://{self.host.address}:{PORT}"

    def write_version(self, version: str) -> None:
        """Let the DAG be of this version."""
        self.astro.write("dags/slow.py", DAG.format(version=version))

    def take_back(self) -> str:
        """Let the DAG be of the version that is deployed, so that the next deploy has nothing to do; returns it."""
        source = str(self.request("GET", "/api/v2/dagSources/slow")["content"])
        version = source.split('VERSION = "')[1].split('"')[0]
        self.write_version(version)
        return version

    def commit(self, message: str) -> None:
        """Commit everything in the project's folder."""
        who = ("-c", "user.name=t", "-c", "user.email=t@example.com")
        for command in (("init", "-q", "-b", "main"), ("add", "-A"), ("commit", "-q", "-m", message)):
            subprocess.run(["git", *who, *command], cwd=self.astro.folder, env=self.astro.environ, check=True)

    def deploy(self, *args: str, code: int = 0) -> Any:
        """`astro deploy`; its data, or its error."""
        return self.astro.json("deploy", NAME, *args, code=code)

    def releases(self) -> list[dict[str, Any]]:
        """Every recorded release, the oldest first."""
        found: list[dict[str, Any]] = self.astro.json("deployment", "releases", NAME)["releases"]
        return sorted(found, key=lambda release: int(release["id"]))

    def release(self) -> int:
        """Number of the release that answers."""
        return int(httpx.get(f"{self.url}/astro/release", trust_env=False, timeout=60).json()["release"])

    # The deployment's own API, with a login.

    def request(self, method: str, path: str, **options: Any) -> Any:
        """The JSON answer of one request; it must be a success."""
        with httpx.Client(base_url=self.url, trust_env=False, timeout=60) as client:
            if not self._token:
                answer = client.post("/auth/token", json={"username": "admin", "password": self.password})
                answer.raise_for_status()
                self._token = answer.json()["access_token"]
            answer = client.request(
                method, path, headers={"Authorization": f"Bearer {self._token}"}, **options
            )
            answer.raise_for_status()
            return answer.json() if answer.content else None

    def trigger(self, seconds: float = 0) -> str:
        """Begin a run of the DAG whose first task takes `seconds`, or until `let_go`; returns its id."""
        self.request("PATCH", "/api/v2/dags/slow", json={"is_paused": False})
        body = {"logical_date": None, "conf": {"seconds": seconds}}
        return str(self.request("POST", "/api/v2/dags/slow/dagRuns", json=body)["dag_run_id"])

    def let_go(self, run: str) -> None:
        """End the first task of a run, on whichever scheduler it is."""
        with self.host.engine() as engine:
            for each in engine.containers.list():
                if f"-{NAME}-scheduler." in (each.name or ""):
                    each.exec_run(["touch", f"/tmp/{run}"])

    def task(self, run: str, task: str = "first") -> dict[str, Any]:
        """One task of a run: state, try_number, hostname…"""
        found: dict[str, Any] = self.request("GET", f"/api/v2/dags/slow/dagRuns/{run}/taskInstances/{task}")
        return found

    def wait_for_task(
        self, run: str, state: str, task: str = "first", seconds: float = 180
    ) -> dict[str, Any]:
        """The task once it has that state."""
        end = time.monotonic() + seconds
        while (found := self.task(run, task))["state"] != state:
            assert time.monotonic() < end, f"task {task} is {found['state']}, not {state}"
            time.sleep(0.3)
        return found

    def wait_for_run(self, run: str, seconds: float = 300) -> str:
        """The final state of a run."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            state = str(self.request("GET", f"/api/v2/dags/slow/dagRuns/{run}")["state"])
            if state in ("success", "failed"):
                return state
            time.sleep(0.5)
        raise AssertionError(f"the run {run} has not ended: {self.task(run)} {self.task(run, 'second')}")

    def result(self, run: str) -> str:
        """What the last task said: the version of the first and of the last task's code."""
        path = f"/api/v2/dags/slow/dagRuns/{run}/taskInstances/second/xcomEntries/return_value"
        return str(self.request("GET", path)["value"]).strip('"')

    def run(self, seconds: float = 0) -> str:
        """A whole run; returns `result`."""
        run = self.trigger(seconds)
        assert self.wait_for_run(run) == "success", self.story(run)
        return self.result(run)

    def story(self, run: str) -> str:
        """Everything that Airflow tells of the tasks of a run."""
        told = []
        for task in ("first", "second"):
            found = self.task(run, task)
            told.append(str(found))
            for number in range(1, found["try_number"] + 1):
                path = f"/api/v2/dags/slow/dagRuns/{run}/taskInstances/{task}/logs/{number}"
                with suppress(httpx.HTTPError):
                    told.append(str(self.request("GET", path)))
        return "\n".join(told)

    def wait_for_dags(self, expected: set[str], seconds: float = 180) -> None:
        """Wait until the API knows just these DAGs."""
        end = time.monotonic() + seconds
        while (known := {each["dag_id"] for each in self.request("GET", "/api/v2/dags")["dags"]}) != expected:
            assert time.monotonic() < end, f"the API knows {known}, not {expected}"
            time.sleep(0.5)

    def variable(self, key: str) -> str | None:
        """A variable's value, or None where there is none."""
        try:
            return str(self.request("GET", f"/api/v2/variables/{key}")["value"])
        except httpx.HTTPStatusError as exc:
            if exc.response.status_code == 404:
                return None
            raise

    # What is on the host's engine.

    def services(self) -> dict[str, dict[str, Any]]:
        """The specification of every service, by its short name."""
        with self.host.engine() as engine:
            return {
                each.name.rpartition(f"-{NAME}-")[2]: each.attrs["Spec"] for each in engine.services.list()
            }

    def images(self) -> set[str]:
        """The images that Airflow's services are to run."""
        return {
            spec["TaskTemplate"]["ContainerSpec"]["Image"]
            for name, spec in self.services().items()
            if name in ("api-server", "scheduler", "dag-processor", "triggerer")
        }

    def inside(self, service: str, command: list[str]) -> str:
        """What a program prints in a running container of a service."""
        with self.host.engine() as engine:
            mark = f"-{NAME}-{service}."
            container = next(each for each in engine.containers.list() if mark in (each.name or ""))
            code, output = container.exec_run(command)
        assert isinstance(output, bytes)
        assert code == 0, output.decode()
        return output.decode().strip()

    def containers(self, seconds: float = 240) -> dict[str, str]:
        """Every running container, once old schedulers have ended: its id and when it began."""
        end = time.monotonic() + seconds
        with self.host.engine() as engine:
            while _draining(found := engine.containers.list()) and time.monotonic() < end:
                time.sleep(1)
            return {str(each.id): each.attrs["State"]["StartedAt"] for each in found}

    def running(self, service: str) -> set[str]:
        """Ids of the running containers of a service."""
        with self.host.engine() as engine:
            return {
                str(each.id)
                for each in engine.containers.list()
                if f"-{NAME}-{service}." in (each.name or "")
            }

    def objects(self) -> set[str]:
        """Every service, secret, config, volume and network there is."""
        with self.host.engine() as engine:
            found = {f"service {each.name}" for each in engine.services.list()}
            found |= {f"secret {each.name}" for each in engine.secrets.list()}
            found |= {f"config {each.name}" for each in engine.configs.list()}
            found |= {f"volume {each.name}" for each in engine.volumes.list()}
            return found | {f"network {each.name}" for each in engine.networks.list()}

    def step(self) -> str:
        """What a running deploy has begun, as its lock says; empty while nobody holds it."""
        with self.host.engine() as engine:
            locks = [each for each in engine.configs.list() if each.name.endswith(f"-{NAME}-lock")]
            return str(locks[0].attrs["Spec"]["Labels"].get("astro.step", "begin")) if locks else ""


def first(
    folder: Path,
    host: Host,
    engine_url: str,
    more: str = "",
    *,
    secrets: Mapping[str, str] | None = None,
    ssh_config: Path | None = None,
    url: str = "",
) -> Deployed:
    """Make a project below `folder`, and deploy its first version.

    Args:
        more: lines of the deployment's configuration.
        secrets: more of them.
        ssh_config: one that works for more hosts.
        url: where people reach it, if not where tests do.
    """
    (folder / "home").mkdir()
    variables = environment(folder / "home", engine_url)
    values = {SECRET_NAME: SECRET, **(secrets or {})}
    variables |= {"ASTRO_SSH_CONFIG": str(ssh_config or host.login().config), **values}
    Astro(folder, variables)("airflow", "init", "shop")
    deployed = Deployed(Astro(folder / "shop", variables), host)
    with (folder / "shop/.astro/config.yaml").open("a") as file:
        file.write(
            f"deployments:\n  {NAME}:\n    host: {host.url}\n    secrets: [{', '.join(values)}]\n    drain: 10m\n"
            f"    publish:\n      bind: 0.0.0.0\n      port: {PORT}\n      url: {url or deployed.url}\n{more}"
        )
    for name in ("asset_report.py", "hello_astro.py"):
        (folder / "shop/dags" / name).unlink()
    deployed.astro.write(
        "tests/test_dags.py", "def test_dags(dag_bag):\n    assert 'slow' in dag_bag.dag_ids\n"
    )
    deployed.write_version("v1")
    deployed.commit("first")
    deployed.first = deployed.deploy()
    deployed.password = deployed.astro.json("deployment", "inspect", NAME, "--show-password")[
        "admin_password"
    ]
    return deployed


def _draining(containers: list[Any]) -> bool:
    """Whether one service has several: `PREFIX-SERVICE.SLOT.TASK`."""
    services = [each.name.rpartition(".")[0] for each in containers if "." in each.name]
    return len(set(services)) < len(services)


class Poller:
    """Asks the deployment for its health ten times a second, each time over a new connection.

    Args:
        patience: seconds after which no answer is a failed request.
    """

    def __init__(self, url: str, path: str = "/api/v2/monitor/health", *, patience: float = 30) -> None:
        self._patience = patience
        self._address = f"{url}{path}"
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.requests = 0
        self.failures: list[str] = []
        self.slowest = 0.0

    def _run(self) -> None:
        while not self._end.wait(0.1):
            began = time.monotonic()
            try:
                status = httpx.get(self._address, trust_env=False, timeout=self._patience).status_code
                problem = "" if status == 200 else f"status {status}"
            except httpx.HTTPError as exc:
                problem = repr(exc)
            self.requests += 1
            self.slowest = max(self.slowest, time.monotonic() - began)
            if problem:
                self.failures.append(f"{time.strftime('%H:%M:%S')} {problem}")

    def __enter__(self) -> Poller:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join(60)
