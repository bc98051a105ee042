"""The command line as a whole: help, completion, global options, streams, and what happens to bugs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner

from astro_cli.app import App
from astro_cli.cli import build_app
from astro_cli.commands import AIRFLOW_COMMANDS, ROOT_COMMANDS
from astro_cli.foundation.console import standard_console

ASTRO = (sys.executable, "-m", "astro_cli")
WATCHED = """
import socket, sys

def watch(event, arguments):
    if event.startswith("socket."):
        raise SystemExit(f"{event} {arguments}")

sys.addaudithook(watch)
from astro_cli.cli import build_app
try:
    build_app()(sys.argv[1:], prog_name="astro")
except SystemExit as exc:
    if exc.code:
        raise
heavy = {"docker", "httpx", "requests", "rich", "jinja2", "airflow"} & set(sys.modules)
if heavy:
    raise SystemExit(f"imported: {heavy}")
"""


def astro(*args: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ASTRO, *args], text=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=300, **options
    )  # type: ignore[call-overload]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "shop"
    assert CliRunner().invoke(build_app(), ["airflow", "init", str(root)]).exit_code == 0
    return root


@pytest.mark.parametrize("args", [("--help",), ("airflow", "--help"), ("airflow", "start", "--help")])
def test_help_opens_no_socket_and_imports_nothing_heavy(args: tuple[str, ...]):
    done = subprocess.run([sys.executable, "-c", WATCHED, *args], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert "Usage: astro" in done.stdout


@pytest.mark.parametrize("group", ["airflow", "dev"])
def test_every_command_has_help_under_both_names(group: str):
    for spec in AIRFLOW_COMMANDS:
        done = CliRunner().invoke(build_app(), [group, spec.name, "--help"])
        assert done.exit_code == 0, done.output
        assert f"Usage: astro {group} {spec.name}" in done.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("astro ", {"airflow", "init", "start", "version"}),
        ("astro airflow st", {"start", "stop"}),
        ("astro dev re", {"restart"}),
        ("astro airflow start --no-", {"--no-browser", "--no-cache", "--no-input", "--no-wait"}),
    ],
)
def test_the_shell_completes_commands_and_options(words: str, expected: set[str]):
    parts = words.split(" ")
    done = subprocess.run(
        ASTRO,
        env={
            **os.environ,
            "_ASTRO_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(parts) - 1),
        },
        text=True,
        capture_output=True,
    )
    assert expected <= set(done.stdout.split()), done


def test_every_command_answers_a_wrong_option_with_one_json_document():
    paths = [
        ("airflow", spec.name) for spec in AIRFLOW_COMMANDS if "ignore_unknown_options" not in spec.settings
    ]
    paths += [(spec.name,) for spec in ROOT_COMMANDS]
    for path in paths:
        done = CliRunner().invoke(build_app(), [*path, "--no-such-option", "--json"])
        assert done.exit_code == 2, done.output
        answer = json.loads(done.stdout)
        assert answer["error"]["code"] == "usage", path
        assert answer["command"] == " ".join(path)


def test_follow_cannot_be_one_json_document(project: Path):
    done = CliRunner().invoke(build_app(), ["logs", "-f", "--json", "-C", str(project)])
    assert done.exit_code == 2
    assert "--follow" in json.loads(done.stdout)["error"]["message"]


@pytest.mark.parametrize("place", ["before", "after"])
def test_project_dir_names_a_project_elsewhere(project: Path, place: str):
    option = ["-C", str(project / "dags")]
    args = [*option, "start", "--env", "nope"] if place == "before" else ["start", "--env", "nope", *option]
    done = CliRunner().invoke(build_app(), args)
    assert done.exit_code == 3
    assert "nope" in done.stderr


def test_a_sub_folder_belongs_to_its_project(project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(project / "dags")
    done = CliRunner().invoke(build_app(), ["start", "--env", "nope"])
    assert "not inside an astro project" not in done.stderr


def test_a_folder_that_was_removed_under_us_is_said(tmp_path: Path):
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f"rmdir {gone}; exec {sys.executable} -P -m astro_cli airflow ps"
    done = subprocess.run(
        ["sh", "-c", script],
        cwd=gone,
        text=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    assert done.returncode == 2, done.stderr
    assert "no longer exists" in done.stderr


def test_version_is_one_json_document():
    done = CliRunner().invoke(build_app(), ["version", "--json"])
    assert done.exit_code == 0
    assert {"astro", "airflow_default", "engine", "platform"} <= set(json.loads(done.stdout)["data"])


def test_a_reader_that_goes_away_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run([*ASTRO, "version"], stdout=writing, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writing)
    assert done.returncode == 0
    assert done.stderr == ""


def test_a_terminal_that_knows_only_ascii_ends_nothing(tmp_path: Path):
    done = astro(
        "airflow",
        "init",
        "Ünï",
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    assert done.returncode == 0, done.stderr
    assert "is ready" in done.stderr


def test_a_read_only_home_is_one_sentence(project: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    environ = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "file/below")}
    environ["PYTHONPATH"] = str(Path(__file__).parent.parent)
    done = astro("start", "--no-browser", cwd=project, env=environ)
    assert done.returncode == 1
    assert done.stderr.count("error: ") == 1
    assert str(tmp_path / "file") in done.stderr
    assert "bug in astro" not in done.stderr


class Failing(Mapping[str, str]):
    """An environment that raises when it is read."""

    def __init__(self, failure: BaseException) -> None:
        self._failure = failure

    def __getitem__(self, name: str) -> str:
        raise self._failure

    def __iter__(self) -> Iterator[str]:
        raise self._failure

    def __len__(self) -> int:
        return 0


def run_failing(failure: BaseException, home: Path, *args: str) -> tuple[int, str]:
    app = App(standard_console({}), Failing(failure))
    done = CliRunner().invoke(build_app(), [*args, "-C", str(home)], obj=app)
    return done.exit_code, done.output


def test_a_bug_says_so_and_leaves_a_log(project: Path):
    code, _ = run_failing(RuntimeError("boom"), project, "airflow", "ps")
    logs = list(Path(os.environ["HOME"]).rglob("bug-*.log"))
    assert code == 1
    assert len(logs) == 1
    assert "RuntimeError: boom" in logs[0].read_text()
    assert logs[0].stat().st_mode & 0o077 == 0


def test_ctrl_c_anywhere_is_130(project: Path):
    assert run_failing(KeyboardInterrupt(), project, "airflow", "ps")[0] == 130


def test_ctrl_c_that_strikes_where_python_cannot_raise_is_not_lost():
    code = (
        "import os, signal, time, astro_cli.cli, astro_cli.__main__\n"
        "class Dying:\n"
        "    def __del__(self): os.kill(os.getpid(), signal.SIGINT); time.sleep(0.001)\n"
        "def main():\n"
        "    Dying()\n"
        "    time.sleep(20)\n"
        "    print('went on')\n"
        "astro_cli.cli.main = main\n"
        "astro_cli.__main__.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, timeout=300)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "error: interrupted\nhint: nothing was done yet\n"
