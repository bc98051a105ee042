"""`astro config`: what is set, where it comes from, and what a change leaves alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from astro_cli.cli import build_app
from astro_cli.domain.settings import SETTINGS
from astro_cli.foundation.paths import user_config_file


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / ".astro").mkdir()
    (tmp_path / ".astro/config.yaml").write_text("project: {id: abcdef0123, name: shop}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config(*args: str, code: int = 0) -> str:
    done = CliRunner().invoke(build_app(), ["config", *args])
    assert done.exit_code == code, done.output
    return done.output


def listed() -> dict[str, tuple[object, str]]:
    told = json.loads(config("list", "--json"))["data"]["settings"]
    return {each["key"]: (each["value"], each["origin"]) for each in told}


def test_each_place_wins_over_the_next(project: Path, monkeypatch: pytest.MonkeyPatch):
    assert listed()["sandbox.parallelism"] == (None, "default")
    config("set", "--user", "sandbox.parallelism", "3")
    assert listed()["sandbox.parallelism"] == (3, f"{user_config_file()}:2")
    config("set", "sandbox.parallelism", "4")
    assert listed()["sandbox.parallelism"] == (4, ".astro/config.yaml:3")
    monkeypatch.setenv("ASTRO_SANDBOX_PARALLELISM", "5")
    assert listed()["sandbox.parallelism"] == (5, "ASTRO_SANDBOX_PARALLELISM")
    assert "ASTRO_SANDBOX_PARALLELISM in the environment wins" in config("set", "sandbox.parallelism", "6")


def test_what_wins_over_a_new_value_is_said(project: Path):
    config("set", "sandbox.port", "8081")
    assert ".astro/config.yaml:3 wins over it" in config("set", "--user", "sandbox.port", "8082")
    assert config("get", "sandbox.port") == "8081\n"
    assert config("get", "--user", "sandbox.port") == "8082\n"


def test_the_list_has_every_setting_and_its_origin(project: Path):
    assert set(listed()) == {spec.key for spec in SETTINGS}
    assert "ORIGIN" not in config("list")
    assert "default" in config("list", "--show-origin")


def test_a_password_shows_only_when_asked_for_and_is_warned_of_in_a_project(project: Path):
    address = "postgresql://me:canary@db/x"
    config("set", "--user", "sandbox.database_url", address)
    assert user_config_file().stat().st_mode & 0o777 == 0o600
    assert "canary" not in config("list") + config("list", "--json")
    assert "canary" in config("list", "--show-secrets")
    assert config("get", "sandbox.database_url") == f"{address}\n"
    assert "is in git" in config("set", "sandbox.database_url", address)


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        ("get sandbox.prot", 2, "did you mean `sandbox.port`?"),
        ("get sandbox.port", 1, "sandbox.port is not set"),
        ("set sandbox.port 0", 3, "between 1 and 65535"),
        ("set sandbox.port 99999999999999999999999999", 3, "between 1 and 65535"),
        ("set sandbox.engine podman", 3, "one of docker, standalone"),
        ("set sandbox.port 1 --user --project", 2, "exclude each other"),
        ("set updates.url https://x", 2, "add `--user`"),
        ("set image.base a\nb", 2, "one line of text"),
        ("unset nope", 2, "no setting `nope`"),
    ],
)
def test_wrong_ones_are_refused_and_change_nothing(project: Path, args: str, code: int, words: str):
    before = (project / ".astro/config.yaml").read_text()
    assert words in config(*args.split(" "), code=code)
    assert (project / ".astro/config.yaml").read_text() == before
    assert not user_config_file().exists()


def test_a_project_cannot_have_the_user_asked_elsewhere(project: Path):
    file = project / ".astro/config.yaml"
    file.write_text(f"{file.read_text()}updates: {{url: 'https://tracker.example'}}\n")
    assert "not for a project to say" in config("list", code=3)
    config("unset", "updates.url")
    assert listed()["updates.url"] == (None, "default")


def test_outside_a_project_the_users_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert "add `--user`" in config("set", "sandbox.port", "1", code=2)
    assert "nothing is set there" in config("list", "--user")
