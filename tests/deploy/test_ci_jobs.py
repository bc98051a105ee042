"""The workflows of `astro ci init`, run for real: a runner without astro, a clone, an engine, the second host."""

from __future__ import annotations

import os
import subprocess
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import pytest

from tests.deploy.ci_jobs import PULL_REQUEST, PUSH, Job, runner_environment
from tests.deploy.deployed import DAG, NAME, SECRET, SECRET_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.deploy.deployed import Deployed

ROOT = Path(__file__).parents[2]
# Read before any test changes the environment: what uv has downloaded once need not be downloaded again.
_UV_CACHE = os.environ.get("UV_CACHE_DIR") or str(Path.home() / ".cache/uv")
SYSTEMS = ("github", "gitlab", "circleci", "jenkins")
ONE_OR_ALL = [
    pytest.param(system, marks=[] if system == "github" else pytest.mark.long) for system in SYSTEMS
]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a folder with this astro as a release."""
    folder = tmp_path_factory.mktemp("release")
    handler = partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        environ = {**os.environ, "UV_CACHE_DIR": _UV_CACHE}
        subprocess.run(
            [ROOT / "scripts/build-release", folder, url], check=True, capture_output=True, env=environ
        )
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        yield url
        server.shutdown()


@pytest.fixture(scope="module")
def runner(
    live: Deployed, engine_url: str, releases: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Job]:
    """A runner with a clone of the deployed project; the systems take turns on it."""
    folder = tmp_path_factory.mktemp("runner")
    home = folder / "home"
    home.mkdir()
    for system in SYSTEMS:
        live.astro("ci", "init", system)
    live.write_version("ci")
    live.commit("deployed by CI jobs")
    clone = folder / "clone"
    subprocess.run(["git", "clone", "-q", live.astro.folder, clone], check=True)
    login = live.host.login()
    secrets = {
        "ASTRO_INSTALL_URL": releases,
        "ASTRO_SSH_KEY": login.key.read_text(),
        "ASTRO_SSH_KNOWN_HOSTS": login.known_hosts.read_text(),
        SECRET_NAME: SECRET,
    }
    job = Job("", clone, folder, runner_environment(home, engine_url, _UV_CACHE), secrets)
    yield job
    subprocess.run(
        [home / ".local/bin/astro", "airflow", "kill", "--yes"],
        cwd=clone,
        env=job.environ,
        capture_output=True,
    )


FAKE_GH = """#!/bin/sh
[ "$GH_TOKEN" = github-token ] && [ "$1 $2 $3 $4" = "pr comment 7 --body-file" ] && cp "$5" "$COMMENT"
"""


class GitLab:
    """The one call of GitLab's API that the job makes; `comment` is what it said."""

    def __init__(self) -> None:
        self.comment = ""
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                expected = ("/projects/3/merge_requests/7/notes", "gitlab-token")
                if (self.path, self.headers.get("PRIVATE-TOKEN")) == expected:
                    owner.comment = parse_qs(body)["body"][0]
                self.send_response(201 if owner.comment else 404)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def gitlab() -> Iterator[GitLab]:
    server = GitLab()
    yield server
    server.close()


def on(runner: Job, system: str, folder: Path, gitlab: GitLab) -> Job:
    """A job of this system on the runner."""
    programs = folder / "bin"
    programs.mkdir()
    (programs / "gh").write_text(FAKE_GH)
    (programs / "gh").chmod(0o755)
    environ = {
        **runner.environ,
        "PATH": f"{programs}:{runner.environ['PATH']}",
        "COMMENT": str(folder / "comment"),
        "CI_API_V4_URL": gitlab.url,
        "GITLAB_TOKEN": "gitlab-token",
    }
    for command in (("reset", "-q", "--hard"), ("clean", "-fdxq", "-e", ".astro")):
        subprocess.run(["git", "-C", runner.folder, *command], check=True)
    return Job(system, runner.folder, folder, environ, runner.secrets)


@pytest.mark.parametrize("system", ONE_OR_ALL)
def test_a_pull_request_is_checked_and_its_plan_becomes_a_comment(
    runner: Job, live: Deployed, gitlab: GitLab, system: str, tmp_path: Path
) -> None:
    before = live.containers()
    job = on(runner, system, tmp_path, gitlab)
    (job.folder / "dags/slow.py").write_text(DAG.format(version=f"asked for on {system}"))
    assert job.run(PULL_REQUEST, "new-dag") == 0, "".join(job.said)
    places = {
        "github": lambda: (tmp_path / "comment").read_text(),
        "gitlab": lambda: gitlab.comment,
        "circleci": lambda: Path("/tmp/reports/plan.md").read_text(),
        "jenkins": lambda: (job.folder / "plan.md").read_text(),
    }
    plan = places[system]()
    assert f"What `astro deploy {NAME}` would do" in plan
    assert "~ dags/slow.py" in plan
    assert live.containers() == before
    assert "passed" in "".join(job.said), "pytest ran"
    assert SECRET not in "".join((*job.said, plan))
    assert "PRIVATE KEY" not in "".join((*job.said, plan))


@pytest.mark.parametrize("system", ONE_OR_ALL)
def test_a_push_to_the_branch_is_deployed(
    runner: Job, live: Deployed, gitlab: GitLab, system: str, tmp_path: Path
) -> None:
    job = on(runner, system, tmp_path, gitlab)
    assert job.run(PUSH, "main") == 0, "".join(job.said)
    assert live.run() == "ci ci"
    revision = subprocess.run(
        ["git", "-C", job.folder, "rev-parse", "HEAD"], check=True, text=True, capture_output=True
    ).stdout
    latest = live.astro.json("deployment", "releases", NAME)["releases"][-1]
    assert latest["revision"] == revision.strip()
    assert not latest["dirty"], "a job's own files must not count as changes"
    if system == "github":
        assert f"release {latest['id']}" in (job.runner / "GITHUB_STEP_SUMMARY").read_text()


def test_a_job_without_the_host_key_deploys_nothing(
    runner: Job, live: Deployed, gitlab: GitLab, tmp_path: Path
) -> None:
    before = live.containers()
    job = on(runner, "github", tmp_path, gitlab)
    job.secrets = {**job.secrets, "ASTRO_SSH_KNOWN_HOSTS": ""}
    assert job.run(PUSH, "main") == 2
    assert "ASTRO_SSH_KNOWN_HOSTS" in job.said[-1]
    assert live.containers() == before
