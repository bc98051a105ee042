"""The services that a project adds to its sandbox: one suite, run on every engine."""

from __future__ import annotations

import json
import os
import smtplib
import socket
import tarfile
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker
import pytest

from astro_cli.runtime.docker import IMAGE_UID
from tests.canaries import files_for_everybody, processes_with
from tests.engine.astro import Astro, run_dag, wait_for, wait_for_dag

if TYPE_CHECKING:
    from collections.abc import Iterator

SIGNED = {
    "Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=none",
    "Content-Type": "application/octet-stream",
}
CANARY = "canary-e2d41b"
CONFIG = """
services:
  s3:
    buckets: [raw]
    seed: services/s3
  warehouse:
    seed: services/warehouse.sql
  http-stub:
    fixtures: services/stub
    connections: {orgs_api: /orgs}
  mail:
  redis:
  clock:
    image: localhost/astro/services:latest
    command: [python, -m, http.server, "{port}", --bind, "{host}", --directory, "{data}"]
    ports: [9000]
    data: /data
    environment: {COLOUR: blue}
    health: {http: /}
    connections: {clock_api: "http://{host}:{port}/v1"}
"""
SEED = "CREATE TABLE IF NOT EXISTS orgs (id int PRIMARY KEY, name text);\n"
ROW = "INSERT INTO orgs VALUES ({}, '{}') ON CONFLICT DO NOTHING;\n"
USES_SERVICES = f"""
import json
import os
import socket
import urllib.request
from urllib.parse import urlsplit

from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.providers.smtp.hooks.smtp import SmtpHook
from airflow.sdk import Connection, dag, task

SIGNED = {SIGNED!r}

def use_all():
    assert PostgresHook("warehouse").get_records("SELECT name FROM orgs WHERE id = 1") == [("acme",)]
    assert json.load(urllib.request.urlopen(Connection.get("orgs_api").host + "/acme")) == {{"id": 1}}
    urllib.request.urlopen(Connection.get("clock_api").get_uri().replace("/v1", "/"))
    s3 = Connection.get("aws_default").extra_dejson["endpoint_url"]
    seeded = urllib.request.Request(s3 + "/raw/2026/one.txt", headers=SIGNED)
    assert urllib.request.urlopen(seeded).read() == b"first"
    redis = urlsplit(os.environ["ASTRO_SERVICE_REDIS_URL"])
    with socket.create_connection((redis.hostname, redis.port)) as connection:
        connection.sendall(b"INCR uses\\r\\n")
        assert connection.recv(64).startswith(b":")
    with SmtpHook("smtp_default") as hook:
        hook.send_email_smtp(to="you@example.com", subject="all good", html_content="<b>yes</b>")

@dag(schedule=None, is_paused_upon_creation=False)
def uses_services():
    task(use_all)()

uses_services()
"""
TEST = "from dags.uses_services import use_all\n\ndef test_it():\n    use_all()\n"


@pytest.fixture(scope="module")
def lab(on_engine: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Astro]:
    """A project with every kind of service, started; the tests of this file go on with it in their order."""
    parent = tmp_path_factory.mktemp("projects")
    Astro(parent, on_engine)("airflow", "init", "lab")
    astro = Astro(parent / "lab", on_engine)
    config = astro.folder / ".astro/config.yaml"
    config.write_text(config.read_text() + CONFIG)
    astro.write("services/s3/raw/2026/one.txt", "first")
    astro.write("services/warehouse.sql", SEED + ROW.format(1, "acme"))
    astro.write("services/stub/orgs/acme.json", '{"id": 1}')
    astro.write("dags/uses_services.py", USES_SERVICES)
    astro.write("tests/test_services.py", TEST)
    try:
        astro.start("--metrics")
        yield astro
    finally:
        astro("airflow", "kill", "--yes", "--no-snapshot", code=None)


def port(lab: Astro, service: str) -> int:
    return int(lab.services()[service]["ports"][0])


def ask(url: str, *, method: str = "GET", body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(url, data=body, method=method, headers={**SIGNED, **headers})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def listeners(wanted: int) -> set[str]:
    """The addresses, as the kernel writes them, on which somebody of this machine listens at a port."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for row in Path(table).read_text().splitlines()[1:]:
            address, _, number = row.split()[1].rpartition(":")
            if row.split()[3] == "0A" and int(number, 16) == wanted:
                found.add(address)
    return found


def test_every_service_is_healthy_and_listens_on_the_loopback_interface_only(lab: Astro):
    services = lab.services()
    added = ("s3", "warehouse", "http-stub", "mail", "redis", "clock", "metrics")
    assert {name: services[name]["health"] for name in added} == dict.fromkeys(added, "healthy")
    for name in added:
        for number in services[name]["ports"]:
            assert listeners(number) == {"0100007F"}, name


def test_a_dag_reaches_all_of_them_as_a_run_as_a_test_and_under_pytest(lab: Astro):
    url = str(lab.json("airflow", "ps")["url"])
    wait_for_dag(url, "uses_services")
    assert run_dag(url, "uses_services") == "success"
    lab("airflow", "test", "uses_services")
    lab("airflow", "pytest", "-q", "tests/test_services.py")
    mails = lab.json("airflow", "mail")["mails"]
    assert [(mail["to"], mail["subject"]) for mail in mails] == [(["you@example.com"], "all good")] * 3
    assert "<b>yes</b>" in lab("airflow", "mail", "3").stdout


def test_top_shows_what_airflow_knows_and_what_its_metrics_tell(lab: Astro):
    def ended() -> list[dict[str, Any]]:
        metrics = lab.json("airflow", "top")["metrics"]
        return [each for each in metrics["counters"] if each["name"] == "airflow.ti.finish"]

    wait_for(ended, lambda: lab("airflow", "logs", "metrics").stdout)
    assert {"dag_id": "uses_services", "task_id": "use_all", "state": "success"} in [
        each["tags"] for each in ended()
    ]
    told = lab.json("airflow", "top")
    assert told["parsing"]["uses_services.py"] > 0
    assert None not in told["heartbeats"].values()
    page = ask(told["metrics_url"])[1].decode()
    assert 'airflow_ti_finish_total{dag_id="uses_services",task_id="use_all",state="success"} ' in page
    assert "metrics are taken" in lab("airflow", "logs", "metrics").stdout
    lab("airflow", "restart", "metrics")
    wait_for(lambda: lab.services()["metrics"]["health"] == "healthy", lab.services)


def test_no_credential_of_a_service_is_shown_to_others(
    lab: Astro, engine: str, request: pytest.FixtureRequest, tmp_path: Path
):
    with smtplib.SMTP("127.0.0.1", port(lab, "mail"), timeout=60) as client, suppress(smtplib.SMTPException):
        client.login("me", CANARY)
    for service in ("s3", "http-stub"):
        ask(f"http://127.0.0.1:{port(lab, service)}/raw", Authorization=f"AWS {CANARY}:{CANARY}")
    kept = lab.secrets_file()
    made = json.loads(kept.read_text())
    assert "warehouse" in made
    secrets = {CANARY, *made.values()}
    told = {
        " ".join(words): str(lab(*words, code=None))
        for words in (
            *(("airflow", "start", "--no-browser", each) for each in ("--json", "--verbose")),
            *(("airflow", command, "--json") for command in ("ps", "list", "logs", "mail")),
            ("config", "list", "--json"),
            ("doctor", "--bundle", str(tmp_path / "bundle.tgz"), "--json"),
        )
    }
    with tarfile.open(tmp_path / "bundle.tgz") as bundle:
        told |= {each.name: bundle.extractfile(each).read().decode() for each in bundle}
    if engine == "docker":
        docker_client = docker.DockerClient(base_url=request.getfixturevalue("engine_url"), timeout=60)
        for each in docker_client.containers.list(all=True, filters={"label": f"astro.path={lab.folder}"}):
            told[each.name] = str([each.attrs, each.image.attrs, each.image.history()])
        docker_client.close()
    assert {where for where, text in told.items() for each in secrets if each in text} == set()
    known = {each.encode() for each in secrets}
    assert processes_with(known, "cmdline") == {}
    assert set(processes_with(known, "environ")) <= {IMAGE_UID if engine == "docker" else os.getuid()}
    files = files_for_everybody(Path(lab.environ["HOME"]), lab.folder)
    assert [path for path, content in files.items() if any(each in content for each in known)] == []


def test_an_outage_of_the_stub_begins_and_ends(lab: Astro):
    stub = f"http://127.0.0.1:{port(lab, 'http-stub')}"
    order = json.dumps({"path": "/orgs", "status": 503, "times": 1}).encode()
    assert ask(f"{stub}/__stub__/outage", method="PUT", body=order)[0] == 200
    assert [ask(f"{stub}/orgs/acme")[0] for _ in range(2)] == [503, 200]
    assert "GET /orgs/acme 503" in lab("airflow", "logs", "http-stub").stdout


def test_what_they_hold_outlives_a_stop_and_changed_seeds_are_put(lab: Astro):
    s3 = f"http://127.0.0.1:{port(lab, 's3')}"
    assert ask(f"{s3}/raw/mine", method="PUT", body=b"kept")[0] == 200
    before = {name: service["ports"] for name, service in lab.services().items()}
    lab("airflow", "stop")
    lab.write("services/s3/raw/2026/one.txt", "second")
    lab.write("services/warehouse.sql", SEED + ROW.format(1, "acme") + ROW.format(2, "bolt"))
    lab.start()
    assert {name: service["ports"] for name, service in lab.services().items()} == before
    assert ask(f"{s3}/raw/mine") == (200, b"kept")
    assert ask(f"{s3}/raw/2026/one.txt") == (200, b"second")
    assert len(lab.json("airflow", "mail")["mails"]) == 3
    assert redis(lab, "GET uses") == ["$1", "3"]
    assert warehouse(lab, "SELECT name FROM orgs ORDER BY id") == ["acme", "bolt"]


def redis(lab: Astro, command: str) -> list[str]:
    with socket.create_connection(("127.0.0.1", port(lab, "redis")), timeout=60) as connection:
        connection.sendall(f"{command}\r\n".encode())
        return connection.recv(1024).decode().split()


def warehouse(lab: Astro, sql: str) -> list[str]:
    """Rows of one column, asked for in the shell beside it."""
    return lab("airflow", "bash", "warehouse", input=f"psql -XqAt -c '{sql}'\n").stdout.split()


def test_restart_gives_a_service_that_is_well_and_mails_are_read_and_forgotten(lab: Astro):
    lab("airflow", "restart", "http-stub")
    number = port(lab, "mail")
    wait_for(lambda: lab.services()["http-stub"]["health"] == "healthy", lab.services)
    with smtplib.SMTP("127.0.0.1", number, timeout=60) as client:
        client.sendmail("a@example.com", ["b@example.com"], "Subject: plain\n\nline\n")
    told: dict[str, Any] = lab.json("airflow", "mail", "4")
    assert (told["from"], told["text"].strip()) == ("a@example.com", "line")
    lab("airflow", "mail", "--clear")
    assert lab.json("airflow", "mail")["mails"] == []


def test_wrong_sql_in_a_seed_names_its_file_and_line(lab: Astro):
    lab.write("services/warehouse.sql", f"{SEED}INSERT INTO nowhere VALUES (1);\n")
    failed = lab.json("airflow", "start", "--no-browser", code=3)
    assert failed["message"].startswith("services/warehouse.sql:2: the warehouse refused: relation")


def test_kill_leaves_nothing_of_them(lab: Astro):
    ports = [number for service in lab.services().values() for number in service["ports"]]
    lab("airflow", "kill", "--yes", "--no-snapshot")
    assert all(not listeners(number) for number in ports)
