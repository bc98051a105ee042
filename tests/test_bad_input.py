"""Wrong input, as users produce it: each one sentence, a way out, the right exit code, and nothing changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from typer.testing import CliRunner

from astro_cli.cli import build_app
from tests.fake_engine import FakeEngine

if TYPE_CHECKING:
    from collections.abc import Iterator

USAGE, PROJECT, NO_ENGINE, FAILED = 2, 3, 4, 1
Prepare = Callable[[Path], object]


class Bad(NamedTuple):
    """A command line in a fresh project; `prepare` spoils the project first."""

    args: str
    code: int
    words: str
    prepare: Prepare | None = None


def write(name: str, content: str | bytes) -> Prepare:
    data = content.encode() if isinstance(content, str) else content
    return lambda project: (project / name).write_bytes(data)


def objects(text: str) -> Prepare:
    return write(OBJECTS, "airflow:\n  " + text + "\n")


def append(name: str, content: str) -> Prepare:
    return lambda project: (project / name).write_text((project / name).read_text() + content)


def remove(name: str) -> Prepare:
    def spoil(project: Path) -> None:
        path = project / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

    return spoil


def folder_instead(name: str) -> Prepare:
    def spoil(project: Path) -> None:
        (project / name).unlink(missing_ok=True)
        (project / name).mkdir()

    return spoil


def nothing_there(project: Path) -> None:
    shutil.rmtree(project / ".astro")


CONFIG = ".astro/config.yaml"
GOOD_CONFIG = "project:\n  id: abcdef0123\n  name: shop\n"
OBJECTS = "airflow_settings.yaml"
ENGINE = "localhost/astro/airflow"

COMMAND_LINES = [
    Bad("nope", USAGE, "no command `nope`"),
    Bad("strat", USAGE, "did you mean `start`?"),
    Bad("ps", USAGE, "did you mean `astro airflow ps`?"),
    Bad("airflow strat", USAGE, "did you mean `start`?"),
    Bad("airflow 42", USAGE, "no command `42`"),
    Bad("dev strat", USAGE, "did you mean `start`?"),
    Bad("airflow ünïcödé", USAGE, "no command `ünïcödé`"),
    Bad("--versoin", USAGE, "no such option: --versoin"),
    Bad("-x", USAGE, "no such option: -x"),
    Bad("airflow --jsn ps", USAGE, "did you mean `--json`?"),
    Bad("airflow ps --jsn", USAGE, "did you mean `--json`?"),
    Bad("airflow ps extra", USAGE, "unexpected extra argument"),
    Bad("airflow list extra", USAGE, "unexpected extra argument"),
    Bad("airflow stop extra", USAGE, "unexpected extra argument"),
    Bad("airflow kill extra", USAGE, "unexpected extra argument"),
    Bad("airflow top extra", USAGE, "unexpected extra argument"),
    Bad("airflow top --every 0", USAGE, "--every"),
    Bad("airflow build extra", USAGE, "unexpected extra argument"),
    Bad("airflow start extra", USAGE, "unexpected extra argument"),
    Bad("airflow poweroff extra", USAGE, "unexpected extra argument"),
    Bad("version extra", USAGE, "unexpected extra argument"),
    Bad("doctor extra", USAGE, "unexpected extra argument"),
    Bad("doctor --bundle Dockerfile", USAGE, "exists already"),
    Bad("clean extra", USAGE, "unexpected extra argument"),
    Bad("config get", USAGE, "missing argument"),
    Bad("config get sandbox.prot", USAGE, "did you mean `sandbox.port`?"),
    Bad("config set sandbox.port", USAGE, "missing argument"),
    Bad("config set sandbox.port http", PROJECT, "between 1 and 65535"),
    Bad("config set --user --project sandbox.port 1", USAGE, "exclude each other"),
    Bad("airflow run", USAGE, "missing argument"),
    Bad("airflow start --prt 1", USAGE, "did you mean `--port`?"),
    Bad("airflow start --port", USAGE, "requires an argument"),
    Bad("airflow start --executor mesos", USAGE, "mesos"),
    Bad("airflow start --workers 2", USAGE, "add `--executor celery`"),
    Bad("airflow start --executor celery --workers 0", USAGE, "0 is not in the range"),
    Bad("airflow start --executor celery --workers -1", USAGE, "-1 is not in the range"),
    Bad("airflow start --executor celery --workers 1000000", USAGE, "not in the range"),
    Bad("airflow start --executor celery --workers x", USAGE, "not a valid"),
    Bad("airflow scale", USAGE, "missing argument"),
    Bad("airflow scale worker", USAGE, "GROUP=NUMBER"),
    Bad("airflow scale worker=0", USAGE, "between 1 and 32"),
    Bad("airflow scale worker=1000000", USAGE, "between 1 and 32"),
    Bad("airflow start --port 0", USAGE, "0 is not in the range"),
    Bad("airflow start --port -1", USAGE, "-1 is not in the range"),
    Bad("airflow start --port 65536", USAGE, "65536 is not in the range"),
    Bad("airflow start --port 99999999999999999999", USAGE, "not in the range"),
    Bad("airflow start --port 8080.5", USAGE, "not a valid"),
    Bad("airflow start --port http", USAGE, "not a valid"),
    Bad("airflow start --port=", USAGE, "not a valid"),
    Bad("airflow start --expose-db 0", USAGE, "not in the range"),
    Bad("airflow start --expose-db x", USAGE, "not a valid"),
    Bad("airflow start --port 18080 --expose-db 18080", USAGE, "cannot be both"),
    Bad("airflow start --wait 0", USAGE, "not in the range"),
    Bad("airflow start --wait -5", USAGE, "not in the range"),
    Bad("airflow start --wait nan", USAGE, "not a number"),
    Bad("airflow start --wait inf", USAGE, "not a number"),
    Bad("airflow start --wait 1e400", USAGE, "not a number"),
    Bad("airflow start --wait soon", USAGE, "not a valid"),
    Bad("airflow start --wait 30 --no-wait", USAGE, "--no-wait"),
    Bad("airflow start --build --image-name x", USAGE, "--image-name"),
    Bad("airflow restart --wait nan", USAGE, "not a number"),
    Bad("airflow restart schduler", USAGE, "no service `schduler`"),
    Bad("airflow restart nope", USAGE, "nope"),
    Bad("airflow restart scheduler triggerer", USAGE, "unexpected extra argument"),
    Bad("airflow logs schduler", USAGE, "no service `schduler`"),
    Bad("airflow logs scheduler nope", USAGE, "nope"),
    Bad("airflow logs --tail -1", USAGE, "not in the range"),
    Bad("airflow logs --tail x", USAGE, "not a valid"),
    Bad("airflow logs --tail 99999999999999999999", USAGE, "not in the range"),
    Bad("airflow logs --since yesterday", USAGE, "neither a length of time"),
    Bad("airflow logs --since 10", USAGE, "neither a length of time"),
    Bad("airflow logs --since -5m", USAGE, "neither a length of time"),
    Bad("airflow logs --since 10y", USAGE, "neither a length of time"),
    Bad("airflow logs --since 99999999999999999999d", USAGE, "neither a length of time"),
    Bad("airflow logs --since 0001-01-01T00:00:00", USAGE, "neither a length of time"),
    Bad("airflow logs --since 2026-13-45", USAGE, "neither a length of time"),
    Bad("airflow logs --grep [", USAGE, "not a regular expression"),
    Bad("airflow logs --grep (?P<", USAGE, "not a regular expression"),
    Bad("airflow test shop --conf {x}", USAGE, "--conf is not valid JSON"),
    Bad("airflow test shop --conf " + "[" * 100_000, USAGE, "--conf is not valid JSON"),
    Bad("airflow test shop --conf [1]", USAGE, "--conf must be a JSON object"),
    Bad("airflow test shop --date tomorrow", USAGE, "--date: 'tomorrow' is not an ISO 8601 date"),
    Bad("airflow test shop --date=", USAGE, "--date: '' is not an ISO 8601 date"),
    Bad("airflow test shop --date now --conf {}", FAILED, "the sandbox is not running"),
    Bad("airflow bash nope", USAGE, "nope"),
    Bad("deployment add prod --host ssh://a --memory 2g", USAGE, "for example `--memory scheduler=2g`"),
    Bad("deployment add prod --host ssh://a --cpus 1", USAGE, "for example `--cpus scheduler=1.5`"),
    Bad("deployment add prod --host ssh://a --replicas 2", USAGE, "for example `--replicas api-server=2`"),
    Bad("deployment add prod --host ssh://a --workers 3", USAGE, "for example `--workers worker=3`"),
    Bad("deployment add prod --host ssh://a -e A", USAGE, "for example `--env AIRFLOW__CORE__PARALLELISM=32`"),
    Bad("deployment variables set API_KEY", USAGE, "for a secret `--secret API_KEY`"),
    Bad("airflow bash postgers", USAGE, "no service `postgers`"),
    Bad("-C /does/not/exist airflow ps", USAGE, "/does/not/exist does not exist"),
    Bad("airflow ps -C /does/not/exist", USAGE, "/does/not/exist does not exist"),
    Bad("airflow ps -C Dockerfile", USAGE, "is not a folder"),
    Bad("airflow ps -C", USAGE, "requires an argument"),
    Bad("-C / airflow ps", PROJECT, "is not inside an astro project"),
    Bad("-C / airflow start", PROJECT, "is not inside an astro project"),
    Bad("-C / airflow logs", PROJECT, "is not inside an astro project"),
    Bad("-C / airflow kill --yes", PROJECT, "is not inside an astro project"),
    Bad("airflow stop", PROJECT, "is not inside an astro project", nothing_there),
    Bad("airflow build", PROJECT, "is not inside an astro project", nothing_there),
    Bad("airflow kill", USAGE, "--yes"),
    Bad("airflow kill --no-input", USAGE, "--yes"),
]  # fmt: skip

INIT = [
    Bad("airflow init --template nope", USAGE, "nope"),
    Bad("airflow init --template ../default", USAGE, "../default"),
    Bad("airflow init --airflow-version 2.10.0", USAGE, "no engine for Airflow 2.10.0"),
    Bad("airflow init --airflow-version latest", USAGE, "no engine for Airflow latest"),
    Bad("airflow init --airflow-version=", USAGE, "no engine for Airflow"),
    Bad("airflow init --name other", PROJECT, "init never renames one"),
    Bad("airflow init sub", PROJECT, "is inside the project"),
    Bad("airflow init sub/deeper", PROJECT, "is inside the project"),
    Bad("airflow init Dockerfile", PROJECT, "is not a folder"),
    Bad("airflow init Dockerfile/below", PROJECT, "Dockerfile"),
    Bad("airflow init --force --name -bad", PROJECT, "cannot name a project", nothing_there),
    Bad("airflow init --force --name=.hidden", PROJECT, "cannot name a project", nothing_there),
    Bad("airflow init --force --name=a/b", PROJECT, "cannot name a project", nothing_there),
    Bad("airflow init --force --name=" + "x" * 51, PROJECT, "cannot name a project", nothing_there),
    Bad("airflow init --force --name=Ünï", PROJECT, "for example `--name Uni`", nothing_there),
    Bad("airflow init --force --name=", PROJECT, "cannot name a project", nothing_there),
    Bad("airflow init", PROJECT, "add `--force`", nothing_there),
    Bad("airflow init " + "x" * 300, FAILED, "File name too long", nothing_there),
    Bad("airflow init a b", USAGE, "unexpected extra argument"),
]  # fmt: skip

CONFIGS = [
    Bad("airflow start", PROJECT, CONFIG, write(CONFIG, "")),
    Bad("airflow start", PROJECT, CONFIG, write(CONFIG, "project: [\n")),
    Bad("airflow start", PROJECT, CONFIG, write(CONFIG, "- a\n- b\n")),
    Bad("airflow start", PROJECT, CONFIG, write(CONFIG, "just words\n")),
    Bad("airflow start", PROJECT, CONFIG, write(CONFIG, b"\x00\x01\x02")),
    Bad("airflow start", PROJECT, CONFIG, write(CONFIG, b"\xff\xfe\x00project")),
    Bad("airflow start", PROJECT, CONFIG, write(CONFIG, "project:\n\tid: x\n")),
    Bad("airflow start", PROJECT, CONFIG, write(CONFIG, "project: !!python/object:os.system {}\n")),
    Bad("airflow start", PROJECT, CONFIG, write(CONFIG, "&a [*a]\n")),
    Bad("airflow start", PROJECT, "larger than", write(CONFIG, "#" * (1 << 20) + "\n" + GOOD_CONFIG)),
    Bad("airflow start", PROJECT, "project", write(CONFIG, "sandbox:\n  port: 8080\n")),
    Bad("airflow start", PROJECT, "config.yaml:1", write(CONFIG, "project: 5\n")),
    Bad("airflow start", PROJECT, "name", write(CONFIG, "project:\n  id: abcdef0123\n")),
    Bad("airflow start", PROJECT, "id", write(CONFIG, "project:\n  name: shop\n")),
    Bad("airflow start", PROJECT, "project.name", write(CONFIG, "project: {id: abcdef0123, name: 'a b'}\n")),
    Bad("airflow start", PROJECT, "project.id", write(CONFIG, "project: {id: ../../etc, name: shop}\n")),
    Bad("airflow start", PROJECT, "projct", append(CONFIG, "projct:\n  id: x\n")),
    Bad("airflow start", PROJECT, "port", append(CONFIG, "sandbox:\n  prot: 8080\n")),
    Bad("airflow start", PROJECT, "port", append(CONFIG, "sandbox:\n  port: 0\n")),
    Bad("airflow start", PROJECT, "port", append(CONFIG, "sandbox:\n  port: 70000\n")),
    Bad("airflow start", PROJECT, "port", append(CONFIG, "sandbox:\n  port: -1\n")),
    Bad("airflow start", PROJECT, "port", append(CONFIG, "sandbox:\n  port: '8080'\n")),
    Bad("airflow start", PROJECT, "port", append(CONFIG, "sandbox:\n  port: 8080.5\n")),
    Bad("airflow start", PROJECT, "port", append(CONFIG, "sandbox:\n  port: true\n")),
    Bad("airflow start", PROJECT, "parallelism", append(CONFIG, "sandbox:\n  parallelism: 10000000000\n")),
    Bad("airflow start", PROJECT, "already on line", append(CONFIG, "sandbox:\n  port: 1\n  port: 2\n")),
    Bad("airflow start", PROJECT, "already on line", append(CONFIG, GOOD_CONFIG)),
    Bad("airflow start", PROJECT, "is not inside an astro project", folder_instead(CONFIG)),
]  # fmt: skip

ENV_FILES = [
    Bad("airflow start --env nope.env", PROJECT, "nope.env"),
    Bad("airflow start --env .env --env nope.env", PROJECT, "nope.env"),
    Bad("airflow start --env dags", PROJECT, "dags"),
    Bad("airflow start --env=", PROJECT, "cannot read"),
    Bad("airflow start", PROJECT, ".env", folder_instead(".env")),
    Bad("airflow start", PROJECT, ".env:1", write(".env", "just words\n")),
    Bad("airflow start", PROJECT, ".env:2", write(".env", "A=1\n= 2\n")),
    Bad("airflow start", PROJECT, ".env:1", write(".env", "A='never closed\nB=2\n")),
    Bad("airflow start", PROJECT, ".env", write(".env", b"A=\x00\x01\n")),
    Bad("airflow start", PROJECT, ".env", write(".env", b"A=\xff\xfe\n")),
    Bad("airflow start", PROJECT, ".env", write(".env", b"\x7fELF\x02\x01\x01\x00")),
    Bad("airflow start", PROJECT, ".env:1", write(".env", "1A=x\n")),
    Bad("airflow start", PROJECT, ".env:1", write(".env", "A B=x\n")),
    Bad("airflow start", PROJECT, ".env:1", write(".env", "A=${NOT_SET_ANYWHERE}\n")),
    Bad("airflow start", PROJECT, ".env", write(".env", "A=" + "x" * (1 << 20) + "\n")),
]  # fmt: skip

OBJECT_FILES = [
    Bad("airflow start --settings-file nope.yaml", PROJECT, "nope.yaml does not exist"),
    Bad("airflow start --settings-file dags", PROJECT, "dags"),
    Bad("airflow start", PROJECT, OBJECTS, folder_instead(OBJECTS)),
    Bad("airflow start", PROJECT, OBJECTS, write(OBJECTS, "airflow: [\n")),
    Bad("airflow start", PROJECT, "did you mean `airflow`?", write(OBJECTS, "airflo:\n  pools: []\n")),
    Bad("airflow start", PROJECT, "unknown key \"pool\"", write(OBJECTS, "airflow:\n  pool: []\n")),
    Bad("airflow start", PROJECT, OBJECTS, write(OBJECTS, "- 1\n")),
    Bad("airflow start", PROJECT, OBJECTS, write(OBJECTS, b"\x00\x00")),
    Bad("airflow start", PROJECT, OBJECTS, write(OBJECTS, b"\x89PNG\r\n\x1a\n")),
    Bad("airflow start", PROJECT, OBJECTS, objects("variables: [{variable_name: a, variable_value: '${UNSET}'}]")),
    Bad("airflow start", PROJECT, OBJECTS, objects("pools: [{pool_name: a, pool_slot: many}]")),
    Bad("airflow start", PROJECT, OBJECTS, objects("pools: [{pool_name: a, pool_slot: -7}]")),
    Bad("airflow start", PROJECT, OBJECTS, objects("pools: [{pool_slot: 1}]")),
    Bad("airflow start", PROJECT, OBJECTS, objects("pools: [{pool_name: a, pool_name: b}]")),
    Bad("airflow start", PROJECT, OBJECTS, objects("connections: [{conn_id: a}]")),
    Bad("airflow start", PROJECT, OBJECTS, objects("connections: [{conn_id: a, conn_type: http, prot: 1}]")),
    Bad("airflow start", PROJECT, OBJECTS, objects("connections: 5")),
    Bad("airflow start", PROJECT, "larger than", write(OBJECTS, "#" * (1 << 20) + "\n")),
]  # fmt: skip

PROJECT_FILES = [
    Bad("airflow start", PROJECT, "no folder `dags`", remove("dags")),
    Bad("airflow start", PROJECT, "no Dockerfile", remove("Dockerfile")),
    Bad("airflow build", PROJECT, "no Dockerfile", remove("Dockerfile")),
    Bad("airflow build", PROJECT, "Dockerfile cannot be read", folder_instead("Dockerfile")),
    Bad("airflow build", PROJECT, "Dockerfile cannot be read", write("Dockerfile", b"FROM \xff\xfe\n")),
    Bad("airflow build", PROJECT, "no engine for Airflow 9.9.9", write("Dockerfile", f"FROM {ENGINE}:9.9.9\n")),
    Bad("airflow build", PROJECT, "no FROM", write("Dockerfile", "")),
    Bad("airflow build", PROJECT, "no FROM", write("Dockerfile", "RUN true\n")),
    Bad("airflow build --image-name nope", PROJECT, "no image `nope`"),
    Bad("airflow build --image-name a?b=c#d", PROJECT, "no image `a?b=c#d`"),
    Bad("airflow build --image-name bïld", PROJECT, "no image `bïld`"),
    Bad("airflow build --image-name=", PROJECT, "no image ``"),
    Bad("airflow build --image-name ../../version", PROJECT, "no image"),
]  # fmt: skip

EXPORTS = [
    Bad("export compoze", USAGE, "did you mean `compose`?"),
    Bad("export compose extra", USAGE, "unexpected extra argument"),
    Bad("export compose --of prod", USAGE, "declares no deployment"),
    Bad("export compose --output Dockerfile", USAGE, "exists already"),
    Bad("export compose --output dags --force", USAGE, "is a folder"),
    Bad("export compose --output nope/compose.yaml", USAGE, "in no folder that exists"),
    Bad("export compose --output Dockerfile/compose.yaml", USAGE, "in no folder that exists"),
    Bad("export compose --output /proc/compose.yaml", FAILED, "/proc/"),
    Bad("export compose", PROJECT, ".env:1", write(".env", "just words\n")),
    Bad("export compose", PROJECT, "is not inside an astro project", nothing_there),
    Bad("export helm-values", PROJECT, "is not inside an astro project", nothing_there),
    Bad("export helm-values --executor mesos", USAGE, "mesos"),
    Bad("export helm-values --output Dockerfile", USAGE, "exists already"),
    Bad("export helm-values", PROJECT, "hots", append(CONFIG, "deployments:\n  prod: {hots: 'ssh://vm'}\n")),
]  # fmt: skip


TABLE = [*COMMAND_LINES, *INIT, *CONFIGS, *ENV_FILES, *OBJECT_FILES, *PROJECT_FILES, *EXPORTS]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeEngine]:
    """One that answers and has nothing: whatever is wrong must be found before anything is made on it."""
    fake = FakeEngine(tmp_path_factory.mktemp("engine") / "docker.sock")
    yield fake
    fake.close()


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project as `init` writes it."""
    root = tmp_path_factory.mktemp("projects") / "shop"
    done = CliRunner().invoke(build_app(), ["airflow", "init", str(root)])
    assert done.exit_code == 0, done.output
    return root


@pytest.fixture
def project(fresh: Path, tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "shop"
    shutil.copytree(fresh, root)
    monkeypatch.chdir(root)
    monkeypatch.setenv("DOCKER_HOST", engine.url)
    return root


def tree(root: Path) -> dict[str, bytes | None]:
    """Every file with its content, without the mark that any command of a sandbox may leave."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in sorted(root.rglob("*"))
        if path.name != "checkout"
    }


@pytest.mark.parametrize("bad", TABLE, ids=[f"{i}: {bad.args[:40]}" for i, bad in enumerate(TABLE)])
def test_wrong_input_is_one_sentence_with_a_way_out_and_changes_nothing(bad: Bad, project: Path):
    if bad.prepare is not None:
        bad.prepare(project)
    before = tree(project)

    done = CliRunner().invoke(build_app(), bad.args.split(" "))

    assert done.exit_code == bad.code, done.output
    said = done.stderr.splitlines()
    errors = [line for line in said if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert any(line.startswith("hint: ") for line in said), done.stderr
    assert bad.words in done.stderr, done.stderr
    assert "Traceback" not in done.output
    assert "bug in astro" not in done.output
    assert done.stdout == ""
    assert tree(project) == before


@pytest.mark.parametrize("bad", TABLE, ids=[f"{i}: {bad.args[:40]}" for i, bad in enumerate(TABLE)])
def test_with_json_the_same_is_one_document(bad: Bad, project: Path):
    if bad.prepare is not None:
        bad.prepare(project)

    done = CliRunner().invoke(build_app(), ["--json", *bad.args.split(" ")])

    answer = json.loads(done.stdout)
    assert done.exit_code == answer["error"]["exit_code"] == bad.code
    assert answer["ok"] is False
    assert answer["error"]["hint"]
    assert "error:" not in done.stderr


def test_the_json_flag_counts_wherever_it_stands():
    words = ["airflow", "start", "--prt", "1"]
    for place in range(len(words)):
        done = CliRunner().invoke(build_app(), [*words[:place], "--json", *words[place:]])
        assert json.loads(done.stdout)["error"]["code"] == "usage", done.output
