"""Which engine runs a sandbox: `--engine`, `ASTRO_ENGINE`, the setting, the last start, and what is there."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from astro_cli.app import App
from astro_cli.domain.state import SandboxState
from astro_cli.foundation.console import Console
from astro_cli.foundation.errors import UsageError
from tests.fake_engine import FakeEngine

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIG = "project:\n  id: abcdef123456\n  name: shop\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / ".astro").mkdir()
    (tmp_path / ".astro/config.yaml").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an engine that answers."""
    fake = FakeEngine(tmp_path_factory.mktemp("d") / "s")
    yield fake.url
    fake.close()


def make_app(project: Path, home: Path, **environ: str) -> App:
    environ = {"DOCKER_HOST": "unix:///nowhere/docker.sock", "HOME": str(home), **environ}
    app = App(Console(io.StringIO(), io.StringIO(), environ), environ)
    app.project_dir = project
    return app


def said(app: App) -> str:
    assert isinstance(app.console.err, io.StringIO)
    return app.console.err.getvalue()


def test_an_engine_that_answers_is_used_without_a_word(project: Path, home: Path, docker: str):
    app = make_app(project, home, DOCKER_HOST=docker)
    assert app.engine.name == "docker"
    assert said(app) == ""


def test_without_one_the_sandbox_is_standalone_and_one_line_says_what_differs(project: Path, home: Path):
    app = make_app(project, home)
    assert app.engine.name == "standalone"
    assert said(app).count("\n") == 1
    assert "/opt/airflow" in said(app)


def test_what_the_project_was_started_with_is_kept(project: Path, home: Path, docker: str):
    SandboxState(project).remember(engine="standalone")
    assert make_app(project, home, DOCKER_HOST=docker).engine.name == "standalone"
    SandboxState(project).remember(engine="docker")
    assert make_app(project, home).engine.name == "docker"


def test_a_setting_wins_over_the_last_start_the_environment_over_it_and_the_flag_over_all(
    project: Path, home: Path
):
    SandboxState(project).remember(engine="standalone")
    (project / ".astro/config.yaml").write_text(f"{CONFIG}sandbox:\n  engine: docker\n")
    assert make_app(project, home).engine.name == "docker"
    app = make_app(project, home, ASTRO_ENGINE="standalone")
    assert app.engine.name == "standalone"
    app = make_app(project, home, ASTRO_ENGINE="standalone")
    app.override("sandbox.engine", "docker", "--engine")
    assert app.engine.name == "docker"


def test_a_database_of_ones_own_means_standalone_and_contradicts_docker(
    project: Path, home: Path, docker: str
):
    own = {"ASTRO_SANDBOX_DATABASE_URL": "sqlite:////tmp/x.db", "DOCKER_HOST": docker}
    assert make_app(project, home, **own).engine.name == "standalone"
    with pytest.raises(UsageError, match="needs the standalone engine"):
        _ = make_app(project, home, ASTRO_ENGINE="docker", **own).engine


def test_looking_for_the_engine_leaves_no_trace_in_the_project(project: Path, home: Path):
    _ = make_app(project, home).engine
    assert [path.name for path in (project / ".astro").iterdir()] == ["config.yaml"]
