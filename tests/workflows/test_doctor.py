"""`doctor` tells what is wrong and what to do, whatever hangs or breaks; its bundle holds no secret."""

from __future__ import annotations

import base64
import json
import os
import shutil
import sys
import tarfile
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from astro_cli.cli import build_app
from astro_cli.domain.state import SandboxState
from astro_cli.foundation import paths
from astro_cli.foundation.errors import AstroError
from astro_cli.workflows.doctor import CHECKS, Finding, Place, examine, exit_code
from tests.fake_engine import EMPTY_ENGINE, FakeEngine, SilentEngine

GIB = 1024**3


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "shop"
    assert CliRunner().invoke(build_app(), ["airflow", "init", str(root)]).exit_code == 0
    monkeypatch.chdir(root)
    # nothing listens there: no test of ours asks the world
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://user:canary-index@127.0.0.1:9/simple")
    return root


def look(place: Place, *names: str) -> dict[str, Finding]:
    found = examine(place, [check for check in CHECKS if check[0] in names])
    return {finding.check: finding for finding in found}


def with_engine(tmp_path: Path, **info: object) -> FakeEngine:
    return FakeEngine(tmp_path / "docker.sock", {**EMPTY_ENGINE, "/info": {"SecurityOptions": [], **info}})


def test_an_engine_that_hangs_costs_seconds_and_not_the_other_checks(project: Path, tmp_path: Path):
    silent = SilentEngine(tmp_path / "docker.sock")
    began = time.monotonic()
    try:
        found = examine(Place({**os.environ, "DOCKER_HOST": silent.url}, project), seconds=3.0)
    finally:
        silent.close()
    assert time.monotonic() - began < 30
    told = {(each.check, each.level) for each in found}
    assert {("astro", "ok"), ("project", "ok"), ("permissions", "ok"), ("engine", "problem")} <= told


@pytest.mark.parametrize(("chosen", "level"), [({}, "warning"), ({"ASTRO_ENGINE": "docker"}, "problem")])
def test_no_engine_is_a_problem_only_where_docker_is_insisted_on(
    project: Path, tmp_path: Path, chosen: dict[str, str], level: str
):
    environ = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/none.sock", **chosen}
    assert look(Place(environ, project), "engine")["engine"].level == level


def test_a_check_that_breaks_is_a_finding(project: Path):
    def broken(place: Place):
        yield Finding("x", "ok", "so far")
        raise RuntimeError("boom")

    found = examine(Place({}, project), [("x", broken)])
    assert [(each.level, each.message) for each in found] == [
        ("ok", "so far"),
        ("problem", "the check broke: RuntimeError: boom"),
    ]


def test_whatever_is_not_well_has_a_fix(project: Path, tmp_path: Path):
    def refuses(place: Place):
        yield from ()
        raise AstroError("it does not work")

    (project / ".env").write_text("= broken\n")
    shutil.rmtree(project / "dags")
    engine = with_engine(tmp_path, MemTotal=1, SystemTime="2001-01-01T00:00:00Z")
    try:
        environ = {**os.environ, "DOCKER_HOST": engine.url, "SSL_CERT_FILE": "/none.pem"}
        found = examine(Place(environ, project), [*CHECKS, ("x", refuses)])
    finally:
        engine.close()
    wrong = {each.check: each.fix for each in found if each.level != "ok"}
    assert set(wrong) >= {"project", "memory", "clock", "certificates", "package index", "x"}
    assert [check for check, fix in wrong.items() if not fix] == []
    assert {each.fix for each in found if each.level == "ok"} == {""}


def test_no_engine_is_a_warning_where_local_processes_do_and_else_exit_code_4(project: Path, tmp_path: Path):
    environ = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/none.sock"}
    assert look(Place(environ, project), "engine")["engine"].level == "warning"
    found = look(Place({**environ, "ASTRO_ENGINE": "docker"}, project), "engine")
    assert exit_code(list(found.values())) == 4


@pytest.mark.parametrize(
    ("memory", "seconds", "levels"),
    [
        (8 * GIB, 0, ("ok", "ok")),
        (3 * GIB // 2, 20, ("warning", "warning")),
        (GIB // 2, -90, ("problem", "problem")),
    ],
)
def test_little_memory_and_a_wrong_clock_are_told(
    project: Path, tmp_path: Path, memory: int, seconds: int, levels: tuple[str, str]
):
    told = time.strftime("%Y-%m-%dT%H:%M:%S.5Z", time.gmtime(1_800_000_000 + seconds))
    engine = with_engine(tmp_path, MemTotal=memory, NCPU=2, SystemTime=told)
    try:
        place = Place({**os.environ, "DOCKER_HOST": engine.url}, project, clock=lambda: 1_800_000_000.0)
        found = examine(place, [check for check in CHECKS if check[0] in ("resources", "clock")])
    finally:
        engine.close()
    assert [each.level for each in found if each.message.startswith("the engine has")] == [levels[0]]
    assert [each.level for each in found if each.check == "clock"] == [levels[1]]


def test_a_broken_file_of_the_project_is_exit_code_3_with_its_line(project: Path):
    (project / ".env").write_text("A=1\n= broken\n")
    found = look(Place(os.environ, project), "project")["project"]
    assert (found.level, found.exit_code) == ("problem", 3)
    assert ".env:2" in found.message


def test_a_port_that_is_taken_names_its_holder(project: Path, monkeypatch: pytest.MonkeyPatch):
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        monkeypatch.setenv("ASTRO_SANDBOX_PORT", str(server.getsockname()[1]))
        found = look(Place(dict(os.environ), project), "ports")["ports"]
    assert found.level == "problem"
    assert f"(process {os.getpid()})" in found.message
    assert "astro config set sandbox.port" in found.fix


def test_a_missing_certificate_and_proxies_that_differ_are_told(project: Path):
    environ = {
        **os.environ,
        "SSL_CERT_FILE": "/none.pem",
        "HTTPS_PROXY": "http://a",
        "https_proxy": "http://b",
    }
    found = examine(Place(environ, project), [check for check in CHECKS if check[0] == "network"])
    levels = {each.check: each.level for each in found}
    assert levels == {"certificates": "problem", "proxy": "warning", "package index": "warning"}
    assert "canary-index" not in str(found)


def test_without_a_uv_of_our_own_the_users_is_asked_for_the_package_index(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    users = tmp_path / "bin/uv"
    users.parent.mkdir()
    users.write_text("#!/bin/sh\n")
    users.chmod(0o755)
    monkeypatch.setitem(sys.modules, "uv", None)

    found = examine(
        Place({"PATH": str(users.parent)}, project), [check for check in CHECKS if check[0] == "network"]
    )

    assert ("package index", "ok") in {(each.check, each.level) for each in found}


def test_fix_makes_secret_files_private_and_nothing_else(project: Path, monkeypatch: pytest.MonkeyPatch):
    state = SandboxState(project)
    state.secrets()
    file = paths.sandbox_dir(state.sandbox_id) / "secrets.json"
    file.chmod(0o644)
    monkeypatch.setenv("DOCKER_HOST", "unix:///none.sock")
    done = CliRunner().invoke(build_app(), ["doctor", "--json"])
    assert file.stat().st_mode & 0o777 == 0o644
    done = CliRunner().invoke(build_app(), ["doctor", "--json", "--fix"])
    assert done.exit_code == 0, done.output
    fixed = [each for each in json.loads(done.stdout)["data"]["findings"] if each["fixed"]]
    assert [each["check"] for each in fixed] == ["permissions"]
    assert file.stat().st_mode & 0o777 == 0o600


def canaries(project: Path, home: Path) -> dict[str, str]:
    """Secrets in every place that a sandbox has to do with."""
    planted = {
        name: f"cAnArY-{name}-9f8e"
        for name in (
            "env",
            "short",
            "url",
            "conn",
            "extra",
            "variable",
            "hot",
            "login",
            "netrc",
            "shell",
        )
    }
    planted["short"] = "q7!x"
    planted["quoted"] = 'cA"nA\\rY é-9f8e'
    (project / ".env").write_text(
        f"DB_PASSWORD={planted['short']}\nPLAIN={planted['env']}\nQUOTED='{planted['quoted']}'\n"
        f'DSN=postgres://me:{planted["url"]}@db/x\nKEY="-----BEGIN\n{planted["env"]}-line\n-----END"\n'
    )
    (project / "airflow_settings.yaml").write_text(
        "airflow:\n  connections:\n  - conn_id: w\n    conn_type: http\n"
        f"    conn_password: {planted['conn']}\n    conn_extra: {{token: {planted['extra']}}}\n"
        f"  variables:\n  - variable_name: v\n    variable_value: {planted['variable']}\n"
    )
    (project / "secrets").mkdir(exist_ok=True)
    (project / "secrets/connections.yaml").write_text(f"api: https://user:{planted['hot']}@api.example\n")
    (home / ".docker").mkdir()
    login = base64.b64encode(f"me:{planted['login']}".encode()).decode()
    (home / ".docker/config.json").write_text(json.dumps({"auths": {"r.example": {"auth": login}}}))
    (home / ".netrc").write_text(f"machine r.example login me password {planted['netrc']}\n")
    planted["encoded"] = login
    planted["sandbox"] = SandboxState(project).secrets()["fernet"]
    return planted


def test_a_bundle_holds_what_helps_and_none_of_the_secrets(
    project: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    planted = canaries(project, home)
    monkeypatch.setenv("ASTRO_API_TOKEN", planted["shell"])
    monkeypatch.setenv("DOCKER_HOST", "unix:///none.sock")
    log = paths.make_private_dir(paths.log_dir()) / "build-project-x.log"
    said = "\n".join(f"step: {value} and {json.dumps(value)}" for value in planted.values())
    log.write_text(
        f"{said}\nclone https://ghp_{'a' * 36}@git.example\n"
        "Authorization: Bearer abcdefgh1234\npassword=inlog99\nhelpful line\n"
    )

    done = CliRunner().invoke(build_app(), ["doctor", "--bundle", str(tmp_path / "b.tgz")])

    assert done.exit_code == 0, done.output
    assert (tmp_path / "b.tgz").stat().st_mode & 0o777 == 0o600
    with tarfile.open(tmp_path / "b.tgz") as archive:
        texts = {
            member.name.removeprefix("astro-bundle/"): archive.extractfile(member).read().decode()
            for member in archive
        }
    whole = "\n".join(texts.values()) + done.output
    for name, secret in planted.items():
        assert secret not in whole, name
        assert json.dumps(secret)[1:-1] not in whole, name
        assert base64.b64encode(secret.encode()).decode() not in whole, name
    for looks in ("ghp_aaa", "abcdefgh1234", "inlog99", "canary-index"):
        assert looks not in whole
    assert "helpful line" in texts["logs/astro/build-project-x.log"]
    assert texts["project/.env"].splitlines()[:2] == ["DB_PASSWORD=***", "PLAIN=***"]
    assert '"conn_id": "w"' in texts["project/airflow_settings.yaml"]
    assert "FROM localhost/astro/airflow" in texts["project/Dockerfile"]
    assert {"findings.json", "environment.json", "settings.json", "project/dags.txt"} <= set(texts)


def test_a_bundle_replaces_nothing_and_leaves_nothing_half_written(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DOCKER_HOST", "unix:///none.sock")
    (tmp_path / "mine").write_text("keep")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for name in ("mine", "link", "no/folder"):
        done = CliRunner().invoke(build_app(), ["doctor", "--bundle", str(tmp_path / name)])
        assert done.exit_code == 2, done.output
    assert (tmp_path / "mine").read_text() == "keep"
    assert not (tmp_path / "target").exists()
