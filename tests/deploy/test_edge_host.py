"""A deployment with a machine outside, which reaches it by its web address and by nothing else."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import shutil
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy import deployed
from tests.deploy.clustered import Clustered, Sink
from tests.deploy.deployed import NAME, PORT, SECRET, SECRET_NAME, Deployed
from tests.deploy.host import Host, Switch, missing
from tests.deploy.lab import Lab
from tests.deploy.registry_server import PASSWORD, USER, Certificate, make_certificate
from tests.engine.astro import Astro, environment, wait_for

DAG = '''\
"""A task outside, one inside that gets what it says, and mapped ones outside."""

import os
import socket
import time
from datetime import timedelta
from pathlib import Path

from airflow.sdk import Variable, dag, task

VERSION = "{version}"


@dag(schedule=None, params={{"wait": False}})
def onsite():
    @task(queue="onsite", retries=2, retry_delay=timedelta(seconds=1))
    def outside(params: dict, run_id: str) -> dict:
        print("reading the meter")
        while params["wait"] and not Path("/tmp", run_id).exists():
            time.sleep(0.2)
        told = Variable.get("meter", default="none")
        known = sorted({{"{secret}", "ONSITE_TOKEN"}} & set(os.environ))
        return {{"host": socket.gethostname(), "version": VERSION, "known": known, "meter": told}}

    @task(queue="onsite", retries=2, retry_delay=timedelta(seconds=1))
    def mapped(number: int) -> str:
        return socket.gethostname()

    @task
    def inside(told: dict, hosts: list[str]) -> dict:
        return {{**told, "mapped": sorted(set(hosts)), "inside": socket.gethostname()}}

    inside(outside(), mapped.expand(number=[1, 2]))


onsite()
'''
EDGE = """\
    edge:
      onsite:
        concurrency: 2
        hosts: [{outside}]
        secrets: [ONSITE_TOKEN]
        authority: {authority}
"""
TOKEN = "canary-88e1f0a2c7"
HOP_BY_HOP = ("connection", "transfer-encoding", "content-length")


class Site:
    """The deployment, and the machine outside."""

    def __init__(self, live: Deployed, outside: Host) -> None:
        self.live = live
        self.outside = outside

    def write(self, version: str) -> None:
        self.live.astro.write("dags/onsite.py", DAG.format(version=version, secret=SECRET_NAME))

    def trigger(self, *, wait: bool = False) -> str:
        self.live.request("PATCH", "/api/v2/dags/onsite", json={"is_paused": False})
        body = {"logical_date": None, "conf": {"wait": wait}}
        return str(self.live.request("POST", "/api/v2/dags/onsite/dagRuns", json=body)["dag_run_id"])

    def task(self, run: str, name: str = "outside") -> dict[str, Any]:
        path = f"/api/v2/dags/onsite/dagRuns/{run}/taskInstances"
        found = self.live.request("GET", path)["task_instances"]
        return next(each for each in found if each["task_id"] == name)

    def log(self, run: str, number: int = 1) -> str:
        path = f"/api/v2/dags/onsite/dagRuns/{run}/taskInstances/outside/logs/{number}"
        return json.dumps(self.live.request("GET", path))

    def wait_for(self, run: str, state: str, name: str = "outside", seconds: float = 240) -> dict[str, Any]:
        wait_for(
            lambda: self.task(run, name)["state"] == state,
            lambda: f"{self.task(run, name)} {self.logs()}",
            seconds=seconds,
        )
        return self.task(run, name)

    def result(self, run: str) -> dict[str, Any]:
        self.wait_for(run, "success", "inside")
        path = f"/api/v2/dags/onsite/dagRuns/{run}/taskInstances/inside/xcomEntries/return_value"
        value = self.live.request("GET", path)["value"]
        return dict(value if isinstance(value, dict) else json.loads(value.replace("'", '"')))

    def containers(self) -> dict[str, str]:
        """The workers on the machine: name and state."""
        with self.outside.engine() as engine:
            return {
                str(each.attrs["Config"]["Hostname"]): str(each.status)
                for each in engine.containers.list(all=True)
            }

    def logs(self) -> str:
        with self.outside.engine() as engine:
            return "\n".join(each.logs(tail=60).decode() for each in engine.containers.list(all=True))

    def inside(self, worker: str, *command: str) -> str:
        with self.outside.engine() as engine:
            found = {each.attrs["Config"]["Hostname"]: each for each in engine.containers.list()}[worker]
            code, output = found.exec_run(list(command))
        assert code == 0, output.decode()
        return str(output.decode())

    def let_go(self, run: str) -> None:
        for worker, state in self.containers().items():
            if state == "running":
                self.inside(worker, "touch", f"/tmp/{run}")

    def workers(self) -> dict[str, dict[str, Any]]:
        return {each["name"]: each for each in self.live.astro.json("deployment", "ps", NAME)["edge"]}

    def name(self, release: int) -> str:
        return f"onsite-{self.outside.address.replace('.', '-')}-2222-{release}"


@pytest.mark.long
@pytest.mark.engine
@pytest.mark.deploy
def test_a_machine_outside_takes_the_tasks_of_its_queue(engine_url: str, tmp_path: Path):
    if reason := missing():
        pytest.skip(reason)
    switch = Switch()
    hosts: list[Host] = []
    try:
        for name in ("host", "outside"):
            (tmp_path / name).mkdir()
            hosts.append(Host(tmp_path / name, switch=switch))
        certificate = make_certificate(tmp_path, switch.machine_address)
        with front(switch.machine_address, certificate, (hosts[0].address, PORT)) as url:
            _run(engine_url, tmp_path, *hosts, url, certificate.certificate)
    finally:
        for host in hosts:
            host.close()
        switch.close()


@pytest.mark.long
def test_a_swarm_has_machines_that_only_their_owner_reaches(lab: Lab, engine_url: str, tmp_path: Path):
    (tmp_path / "outside").mkdir()
    outside = Host(tmp_path / "outside", switch=lab.switch)
    try:
        outside.trust(lab.registry.host, lab.authority.read_text())
        certificate = make_certificate(tmp_path, lab.switch.machine_address)
        with front(lab.switch.machine_address, certificate, (lab.hosts[0].address, PORT)) as url:
            _run_swarm(engine_url, tmp_path, lab, outside, url, certificate.certificate)
    finally:
        outside.close()


def _run_swarm(engine_url: str, folder: Path, lab: Lab, outside: Host, url: str, authority: Path) -> None:
    for host in lab.hosts:
        _wall(host, outside)
    (folder / "home").mkdir()
    variables = environment(folder / "home", engine_url) | lab.environment
    Astro(folder, variables)("airflow", "init", "shop")
    live = Clustered(Astro(folder / "shop", variables), lab.hosts[0], lab=lab, sink=Sink("127.0.0.1"))
    site = Site(live, outside)
    with (folder / "shop/.astro/config.yaml").open("a") as file:
        file.write(
            f"deployments:\n  {NAME}:\n    target: swarm\n"
            f"    hosts: [{', '.join(host.url for host in lab.hosts)}]\n"
            f"    registry: {lab.repository}\n    registry_authority: {lab.authority}\n"
            "    workers: {worker: {count: 3, concurrency: 2}}\n"
            f"    publish: {{port: {PORT}, url: '{url}'}}\n    edge: {{onsite: {{authority: {authority}}}}}\n"
        )
    for name in ("asset_report.py", "hello_astro.py"):
        (folder / "shop/dags" / name).unlink()
    site.write("v1")
    live.deploy("--wait", "600")
    live.password = live.astro.json("deployment", "inspect", NAME, "--show-password")["admin_password"]

    # two files are brought to the machine, and run there
    assert _bring_files(site, folder / "first") == "onsite-bench-1"
    live.request("POST", "/api/v2/variables", json={"key": "meter", "value": "42"})
    run = site.trigger()
    told = site.result(run)
    assert told["host"] == "onsite-bench-1"
    assert (told["version"], told["meter"], told["known"]) == ("v1", "42", [])
    assert told["inside"] != "onsite-bench-1"
    assert "reading the meter" in site.log(run)
    services = live.ps()
    assert services["api-server"]["nodes"] == services["postgres"]["nodes"], "beside the volume of logs"
    assert set(services["worker"]["nodes"]) == {host.name for host in lab.hosts}

    # DAGs alone reach it too, through the web address: it knows of no registry
    site.write("v2")
    live.deploy("--dags")
    assert site.result(site.trigger())["version"] == "v2"

    # a node is lost: whoever is outside notices nothing
    run = site.trigger(wait=True)
    site.wait_for(run, "running")
    kept = {lab.hosts[0].name, *services["postgres"]["nodes"]}
    lost = next(host for host in lab.hosts if host.name not in kept)
    lost.power_off()
    try:
        site.let_go(run)
        assert site.result(run)["host"] == "onsite-bench-1"
        assert site.task(run)["try_number"] == 1
    finally:
        lost.power_on()
    live.wait_whole()

    # new keys: what runs there goes on, and the release says who is left behind
    run = site.trigger(wait=True)
    site.wait_for(run, "running")
    done = live.astro("deployment", "rotate-keys", NAME)
    assert "of an older release: onsite-bench-1; `astro deployment edge file`" in done.stderr
    site.let_go(run)
    assert site.result(run)["host"] == "onsite-bench-1"
    assert site.task(run)["try_number"] == 1
    worker = _bring_files(site, folder / "second")
    assert site.result(site.trigger())["host"] == worker != "onsite-bench-1"

    # another release, and back
    site.write("v3")
    live.astro.write("requirements.txt", "# another image\n")
    live.deploy("--wait", "600")
    live.astro("deployment", "rollback", NAME, "--wait", "600")
    worker = _bring_files(site, folder / "third")
    told = site.result(site.trigger())
    assert (told["host"], told["version"], told["meter"]) == (worker, "v2", "42")
    live.astro("deployment", "destroy", NAME, "--yes")


def _bring_files(site: Site, folder: Path) -> str:
    """Replace what runs on the machine by a worker of the running release; returns its name."""
    told = site.live.astro.json("deployment", "edge", "file", "onsite", str(folder), "--machine", "bench")
    with site.outside.engine() as engine:
        for each in engine.containers.list(all=True):
            each.remove(force=True)
    _compose(site.outside, folder)
    name = str(told["worker"])
    wait_for(lambda: site.workers().get(name, {}).get("state") == "idle", site.logs, seconds=120)
    return name


def _compose(outside: Host, files: Path) -> None:
    """What Docker Compose makes of the file; the program need not be there."""
    service = yaml.safe_load((files / "compose.yaml").read_text())["services"]["worker"]
    there = outside.root / "home/edge"
    there.mkdir(exist_ok=True)
    shutil.copy(files / "secrets.json", there)
    os.chown(there / "secrets.json", 50_000, 0)
    (volume,) = service["volumes"]
    with outside.engine() as engine:
        repository, _, digest = service["image"].partition("@")
        engine.images.pull(repository, tag=digest, auth_config={"username": USER, "password": PASSWORD})
        engine.containers.run(
            service["image"],
            [word.replace("$$", "$") for word in service["command"]],
            detach=True,
            hostname=service["hostname"],
            user=service["user"],
            environment={key: value.replace("$$", "$") for key, value in service["environment"].items()},
            volumes=[volume.replace("./", "/home/edge/", 1)],
            cap_drop=service["cap_drop"],
            security_opt=service["security_opt"],
            restart_policy={"Name": service["restart"]},
        )


def _wall(host: Host, outside: Host) -> None:
    """The two cannot reach each other at all: there is only the web address in front of one."""
    for one, other in ((host, outside), (outside, host)):
        for chain in ("INPUT", "FORWARD"):
            one.run("iptables", "-I", chain, "-s", other.address, "-j", "DROP")
    for port in (2222, PORT):
        command = f"</dev/tcp/{host.address}/{port}"
        assert outside.run("timeout", "3", "bash", "-c", command, check=False).returncode


@contextlib.contextmanager
def front(address: str, certificate: Certificate, behind: tuple[str, int]) -> Iterator[str]:
    """A reverse proxy that speaks TLS on this machine; its URL."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            kept = {key: value for key, value in self.headers.items() if key.lower() not in HOP_BY_HOP}
            connection = http.client.HTTPConnection(*behind, timeout=120)
            with contextlib.closing(connection):
                connection.request(self.command, self.path, body, {**kept, "X-Forwarded-Proto": "https"})
                answer = connection.getresponse()
                content = answer.read()
            self.send_response(answer.status)
            for key, value in answer.getheaders():
                if key.lower() not in HOP_BY_HOP:
                    self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = forward  # noqa: N815 - the names of http.server

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:  # a client that is gone
            pass

    with Server((address, 0), Handler) as made:
        made.socket = context.wrap_socket(made.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"https://{address}:{made.server_port}"
        made.shutdown()


def _run(engine_url: str, folder: Path, host: Host, outside: Host, url: str, authority: Path) -> None:
    _wall(host, outside)
    (folder / "project").mkdir()
    config = folder / "ssh_config"
    config.write_text("".join(each.login().config.read_text() for each in (host, outside)))
    live = deployed.first(
        folder / "project",
        host,
        engine_url,
        EDGE.format(outside=outside.url, authority=authority),
        secrets={"ONSITE_TOKEN": TOKEN},
        ssh_config=config,
        url=url,
    )
    site = Site(live, outside)

    # the deploy has started it
    assert site.containers() == {site.name(1): "running"}
    assert site.workers()[site.name(1)]["state"] in ("idle", "running")
    assert site.workers()[site.name(1)]["queues"] == ["onsite"]
    _is_guarded(site)

    # DAGs alone: the worker fetches a version that its image does not have, through the web address
    site.write("v1")
    live.deploy("--dags")
    assert site.containers() == {site.name(1): "running"}
    live.request("POST", "/api/v2/variables", json={"key": "meter", "value": "42"})
    run = site.trigger(wait=True)
    site.wait_for(run, "running")
    wait_for(lambda: "reading the meter" in site.log(run), lambda: site.log(run), seconds=60)
    wait_for(lambda: site.workers()[site.name(1)]["running"] == 1, site.workers, seconds=60)
    site.let_go(run)
    told = site.result(run)
    assert told["host"] == site.name(1)
    assert told["mapped"] == [site.name(1)], "mapped tasks go there as well"
    assert told["inside"] != site.name(1)
    assert (told["version"], told["meter"]) == ("v1", "42")
    assert told["known"] == ["ONSITE_TOKEN"], "only the secrets that it is given"
    assert site.task(run)["hostname"] == site.name(1)
    assert "reading the meter" in site.log(run)

    # a release replaces the worker, and the old one finishes its task
    run = site.trigger(wait=True)
    site.wait_for(run, "running")
    site.write("v2")
    live.astro.write("requirements.txt", "# another image\n")
    release = live.deploy("--skip-checks")["release"]
    assert site.containers() == {site.name(1): "running", site.name(release): "running"}
    assert site.workers()[site.name(release)]["state"] in ("idle", "running")
    site.let_go(run)
    told = site.result(run)
    assert (told["host"], told["version"]) == (site.name(1), "v1")
    assert site.task(run)["try_number"] == 1
    wait_for(lambda: site.containers()[site.name(1)] == "exited", site.containers, seconds=60)
    (started,) = live.astro.json("deployment", "edge", "start", NAME)["workers"]
    assert not started["started"]
    assert site.containers() == {site.name(release): "running"}
    assert set(site.workers()) == {site.name(release)}

    # power is cut in the middle of a task: another try when the machine is back
    run = site.trigger(wait=True)
    site.wait_for(run, "running")
    outside.power_off()
    outside.power_on()
    wait_for(lambda: site.containers() == {site.name(release): "running"}, site.containers, seconds=60)
    wait_for(lambda: site.task(run)["try_number"] == 2, lambda: site.task(run), seconds=300)
    site.wait_for(run, "running")
    site.let_go(run)
    told = site.result(run)
    assert (told["host"], told["version"]) == (site.name(release), "v2")
    assert site.task(run)["try_number"] == 2

    # the end
    live.astro("deployment", "edge", "stop", NAME)
    assert site.containers() == {}
    assert site.workers() == {} or {each["state"] for each in site.workers().values()} == {"offline"}
    with outside.engine() as engine:
        assert {each.name for each in engine.networks.list()} == {"bridge", "host", "none"}


def _is_guarded(site: Site) -> None:
    """Secrets are in one file of the container, and the key is not the secret of the deployment."""
    worker = site.name(1)
    secrets = json.loads(site.inside(worker, "cat", "/run/secrets/astro/edge.json"))
    key = secrets["AIRFLOW__API_AUTH__JWT_SECRET"]
    assert sorted(secrets) == ["AIRFLOW__API_AUTH__JWT_SECRET", "ASTRO_EDGE_AUTHORITY", "ONSITE_TOKEN"]
    assert secrets["ONSITE_TOKEN"] == TOKEN
    keys = json.loads(site.live.inside("scheduler", ["cat", "/run/secrets/astro/keys.json"]))
    assert key not in keys.values()
    with site.outside.engine() as engine:
        (container,) = engine.containers.list()
        shown = json.dumps(container.attrs) + json.dumps(container.image.attrs) + container.logs().decode()
        assert container.attrs["HostConfig"]["CapDrop"] == ["ALL"]
        assert container.attrs["Config"]["User"] == "50000:0"
        assert container.attrs["HostConfig"]["PortBindings"] == {}
    shown += site.outside.command_lines() + json.dumps(site.workers())
    for each in (*keys.values(), key, TOKEN, SECRET):
        assert each not in shown
