"""The programs behind `http-stub` and `mail`, as real processes; `s3` is tested in real sandboxes."""

from __future__ import annotations

import http.client
import json
import smtplib
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from astro_cli.domain.project_services import Health
from astro_cli.runtime.inside import standins
from astro_cli.runtime.service_health import are_well, is_well
from tests.free_port import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS = Path(standins.__file__).parent
ROUTES = """
routes:
  - path: /orgs/{org}/issues
    query: {page: "2"}
    respond: {json: {of: "${org}"}, headers: {Link: "<${base}/next>"}}
  - path: /flaky
    method: post
    respond:
      - {status: 500, times: 2}
      - {status: 201, text: done}
  - {path: "/files/{rest...}", respond: {file: orgs/acme.json, status: 203}}
  - {path: /gone, respond: {drop: true}}
  - {path: /only, headers: {X-Key: a}, body: needle, respond: {text: found}}
"""


def started(program: str, folder: Path, config: dict[str, Any], health: Health) -> subprocess.Popen[str]:
    file = folder / "config.json"
    file.write_text(json.dumps(config))
    process = subprocess.Popen(
        [sys.executable, "-Es", str(PROGRAMS / program), str(file)], stdout=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 60
    while not is_well(health, health.port):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    return process


def stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    process.wait(60)
    assert process.stdout is not None
    process.stdout.close()


@dataclass(frozen=True)
class Stub:
    port: int
    fixtures: Path

    def ask(
        self, path: str, method: str = "GET", body: str | None = None, **headers: str
    ) -> tuple[int, str, http.client.HTTPMessage]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {n.replace("_", "-"): v for n, v in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.read().decode(), answer.headers
        finally:
            connection.close()

    def status(self, path: str, method: str = "GET", body: str | None = None, **headers: str) -> int:
        return self.ask(path, method, body, **headers)[0]


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stub]:
    folder = tmp_path_factory.mktemp("stub")
    fixtures = folder / "fixtures"
    (fixtures / "orgs").mkdir(parents=True)
    (fixtures / "orgs/acme.json").write_text('{"id": 1}')
    (fixtures / "orgs/index.json").write_text("[]")
    (folder / "secret.txt").write_text("outside")
    (fixtures / "routes.yaml").write_text(ROUTES)
    port = free_port()
    config = {"host": "127.0.0.1", "port": port, "fixtures": str(fixtures)}
    process = started("http_stub.py", folder, config, Health("http", port, "/__stub__/health"))
    try:
        yield Stub(port, fixtures)
    finally:
        stop(process)


def test_a_file_answers_for_its_path_and_knows_when_nothing_has_changed(stub: Stub):
    status, body, headers = stub.ask("/orgs/acme")
    assert (status, body, headers["Content-Type"]) == (200, '{"id": 1}', "application/json")
    assert stub.status("/orgs/acme.json") == 200
    assert stub.ask("/orgs/")[1] == "[]"
    assert stub.status("/orgs/acme", If_None_Match=headers["ETag"]) == 304
    assert stub.status("/orgs/nobody") == 404


def test_no_file_outside_of_the_fixtures_is_shown(stub: Stub):
    for path in ("/../secret.txt", "/%2e%2e/secret.txt", "/routes.yaml", "/../secret"):
        assert stub.status(path) == 404


def test_a_route_matches_by_path_query_headers_and_body(stub: Stub):
    status, body, headers = stub.ask("/orgs/acme/issues?page=2")
    assert (status, json.loads(body)) == (200, {"of": "acme"})
    assert headers["Link"] == f"<http://127.0.0.1:{stub.port}/next>"
    assert stub.status("/orgs/acme/issues?page=3") == 404
    assert stub.status("/files/a/b/c") == 203
    assert stub.status("/only", body="a needle", X_Key="a") == 200
    assert stub.status("/only", body="a needle") == 404
    assert stub.status("/only", X_Key="a") == 404


def test_answers_are_played_in_turn_and_the_last_one_stays_until_a_reset(stub: Stub):
    assert [stub.status("/flaky", "POST") for _ in range(4)] == [500, 500, 201, 201]
    assert stub.status("/__stub__/reset", "POST") == 204
    assert stub.status("/flaky", "POST") == 500


def test_a_connection_can_be_dropped(stub: Stub):
    with pytest.raises(http.client.RemoteDisconnected):
        stub.ask("/gone")


def test_an_outage_lasts_as_long_as_it_was_told_to(stub: Stub):
    assert stub.status("/__stub__/outage", "PUT", '{"path": "/orgs", "status": 502, "times": 2}') == 200
    assert [stub.status("/orgs/acme") for _ in range(3)] == [502, 502, 200]
    assert stub.status("/__stub__/outage", "PUT", '{"seconds": 600}') == 200
    assert stub.status("/orgs/acme") == 503
    assert stub.status("/__stub__/outage", "DELETE") == 204
    assert stub.status("/orgs/acme") == 200
    assert stub.status("/__stub__/outage", "PUT", '{"statsu": 500}') == 400
    assert stub.status("/__stub__/outage", "PUT", "[]") == 400


def test_what_was_asked_can_be_read(stub: Stub):
    stub.status("/__stub__/requests", "DELETE")
    stub.status("/slack/post?a=1", "POST", "hello")
    stub.status("/orgs/acme")
    (told,) = json.loads(stub.ask("/__stub__/requests?path=/slack")[1])
    assert (told["method"], told["path"], told["query"], told["body"]) == (
        "POST",
        "/slack/post",
        {"a": "1"},
        "hello",
    )


def test_a_page_of_another_site_is_refused(stub: Stub):
    assert stub.status("/orgs/acme", Host="rebound.example") == 403
    assert stub.status("/__stub__/reset", "POST", Origin="https://evil.example") == 403
    assert stub.status("/orgs/acme", Origin="http://localhost:3000") == 200


def test_an_edit_applies_to_the_next_request_and_a_mistake_is_the_answer(stub: Stub):
    routes = stub.fixtures / "routes.yaml"
    try:
        routes.write_text("routes:\n  - {path: /new, respond: {text: here}}\n")
        assert stub.ask("/new")[1] == "here"
        routes.write_text("routes:\n  - {path: /new, respond: {txet: here}}\n")
        status, body, _ = stub.ask("/new")
        assert status == 500
        assert 'routes.yaml: routes[0].respond[0]: unknown key "txet"' in json.loads(body)["error"]
        assert not is_well(Health("http", stub.port, "/__stub__/health"), stub.port)
    finally:
        routes.write_text(ROUTES)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("routes:\n  - {path: new, respond: {}}\n", "routes.yaml: routes[0].path must begin with /\n"),
        ("#" * 1024**2 + "\nroutes: []\n", "routes.yaml is larger than 1024 KiB\n"),
    ],
)
def test_a_mistake_at_the_start_ends_it_with_its_place(tmp_path: Path, text: str, words: str):
    (tmp_path / "routes.yaml").write_text(text)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"host": "127.0.0.1", "port": free_port(), "fixtures": str(tmp_path)}))
    done = subprocess.run(
        [sys.executable, "-Es", str(PROGRAMS / "http_stub.py"), str(config)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == words


def test_mails_are_kept_in_order_shown_and_forgotten(tmp_path: Path):
    smtp, page = free_port(), free_port()
    config = {"host": "127.0.0.1", "port": smtp, "page_port": page, "data": str(tmp_path / "data")}
    box = Stub(page, tmp_path)
    process = started("mail.py", tmp_path, config, Health("http", page, "/messages"))
    try:
        assert is_well(Health("smtp", smtp), smtp)
        with smtplib.SMTP("127.0.0.1", smtp, timeout=60) as client:
            client.sendmail("a@example.com", ["b@example.com", "c@example.com"], "Subject: one\n\nfirst\n")
            client.sendmail(
                "a@example.com",
                ["b@example.com"],
                "Subject: <two>\nContent-Type: text/html\n\n<script>alert(1)</script>\n",
            )
        stop(process)
        process = started("mail.py", tmp_path, config, Health("http", page, "/messages"))
        listed = json.loads(box.ask("/messages")[1])
        assert [(each["number"], each["subject"]) for each in listed] == [(2, "<two>"), (1, "one")]
        one = json.loads(box.ask("/messages/1")[1])
        assert (one["to"], one["text"]) == (["b@example.com", "c@example.com"], "first\n")
        shown = box.ask("/2")[1]
        assert "<script>" not in shown
        assert "&lt;two&gt;" in box.ask("/")[1]
        assert box.status("/messages/3") == 404
        assert box.status("/messages", Host="rebound.example") == 403
        assert box.status("/messages", "DELETE", Origin="https://evil.example") == 403
        assert box.status("/messages", "DELETE") == 204
        assert json.loads(box.ask("/messages")[1]) == []
    finally:
        stop(process)


def test_health_is_asked_of_all_at_once_and_silence_is_not_health():
    nobody = free_port()
    asked = {kind: (Health(kind, nobody), nobody) for kind in ("http", "tcp", "smtp", "redis")}
    assert are_well(asked) == dict.fromkeys(asked, False)
    assert is_well(Health("process"), 0)
