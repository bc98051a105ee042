"""Any bytes in any file that people or programs hand us: it is read, or refused in a sentence. Never a traceback.

`.env`, YAML and the objects file have properties of their own: `test_envfile`, `test_yamlfile`, `test_objects`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from astro_cli.deploy.dag_bundle import ignored
from astro_cli.deploy.registry import find_credentials
from astro_cli.domain import image
from astro_cli.domain.build_context import IgnoreRules, project_context
from astro_cli.domain.deployments import parse_deployments
from astro_cli.domain.deployments_file import with_deployment, with_fields, without_deployment
from astro_cli.domain.diagnosis import suggest_fix
from astro_cli.domain.host_settings import host_settings, with_host_settings
from astro_cli.domain.hot_objects import read_hot_files
from astro_cli.domain.ide import merge_launch
from astro_cli.domain.old_idioms import in_python, in_settings
from astro_cli.domain.project import name_from, read_project
from astro_cli.domain.project_services import read_services
from astro_cli.domain.releases import read_release
from astro_cli.domain.repository import parse_repository
from astro_cli.domain.scaffold import Entry, make_template
from astro_cli.domain.services import ServiceStatus
from astro_cli.domain.settings import SETTINGS, load_settings, value_from
from astro_cli.domain.settings_file import with_setting, without_setting
from astro_cli.domain.snapshots import read_about
from astro_cli.domain.state import SandboxState
from astro_cli.domain.workers import MAX_COUNT, WorkerGroup, read_workers, wanted_counts
from astro_cli.foundation import yamlfile
from astro_cli.foundation.errors import AstroError
from astro_cli.foundation.paths import read_json
from astro_cli.foundation.redact import MASK, Redactor
from astro_cli.runtime import snapshot_file
from astro_cli.runtime.buildkit import decode_trace
from astro_cli.runtime.docker_logs import unframe
from astro_cli.runtime.endpoint import find_endpoint
from astro_cli.runtime.inside import standins
from astro_cli.runtime.venv import missing_packages, requirement_lines

if TYPE_CHECKING:
    from collections.abc import Callable

few = settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
SIGNS = [
    *"[]{}-:,&*|>'\"#!%@`/~",
    "..",
    "\n",
    "\n  ",
    "\t",
    "\0",
    "\ufeff",
    "é",
    "\ud800",
    "-1",
    "1e999",
    "0x1",
]
KNOWN = (
    "project id name sandbox port engine deployments prod host ssh://a unix:///x target env secrets publish bind "
    "0.0.0.0 resources memory 2g services kind s3 image http-stub postgres ports connection folder 8080 true null"
)
WORDS = st.sampled_from([*SIGNS, *KNOWN.split()])
TEXT = st.lists(WORDS, max_size=30).map(" ".join) | st.text(max_size=200)
BYTES = st.binary(max_size=300) | TEXT.map(lambda text: text.encode("utf-8", "surrogatepass"))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
DATA = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
)


def refused_or(call: Callable[[], Any]) -> Any:
    """What a call gives, or None where it refuses."""
    with contextlib.suppress(AstroError):
        return call()


def workers_of(root: Path) -> tuple[WorkerGroup, ...]:
    return read_workers(root, count=None, known={})


# files of the project

SECTIONS = ("services", "sandbox", "workers")
KEYS = st.sampled_from(
    ["host", "target", "env", "secrets", "publish", "resources", "replicas", "drain", "database", "retention"]
)


@few
@given(
    st.dictionaries(st.text(max_size=10) | st.just("prod"), st.dictionaries(KEYS, DATA, max_size=5) | DATA)
)
def test_deployments_of_any_shape(data):
    text = json.dumps({"deployments": data}, ensure_ascii=True)
    refused_or(lambda: parse_deployments(yamlfile.parse(text, name="f")))


@few
@given(content=BYTES | DATA.map(lambda data: json.dumps(dict.fromkeys(SECTIONS, data)).encode()))
def test_configuration_files_of_any_content(content, tmp_path: Path, home: Path):
    (tmp_path / ".astro").mkdir(exist_ok=True)
    (tmp_path / ".astro/config.yaml").write_bytes(content)
    for read in (read_project, read_services, workers_of):
        refused_or(lambda read=read: read(tmp_path))
    refused_or(lambda: load_settings({}, project_root=tmp_path))


@few
@given(st.sampled_from(SETTINGS), TEXT)
def test_settings_from_any_variable(spec, text):
    value = refused_or(lambda: value_from(spec, text))
    assert value is None or isinstance(value, int) == spec.is_number


@few
@given(content=BYTES)
def test_hot_objects_requirements_and_checkouts_of_any_content(content, tmp_path: Path, home: Path):
    (tmp_path / "secrets").mkdir(exist_ok=True)
    (tmp_path / ".astro").mkdir(exist_ok=True)
    for name in ("secrets/connections.yaml", "secrets/variables.yaml", "requirements.txt", ".astro/checkout"):
        (tmp_path / name).write_bytes(content)
    refused_or(lambda: read_hot_files(tmp_path))
    refused_or(lambda: requirement_lines(tmp_path / "requirements.txt"))
    known = SandboxState(tmp_path).known_id
    assert known is None or re.fullmatch("[0-9a-f]{10}", known)


@few
@given(TEXT, st.lists(st.text(max_size=30), max_size=3))
def test_a_dockerfile_and_a_dockerignore_of_any_text(text, names):
    image.dockerfile_version(text)
    changed = with_host_settings(text, ("type=cache",), {"A": "b"})
    assert changed.count("\n") >= text.count("\n")
    rules = refused_or(lambda: IgnoreRules(text))
    for name in names if rules is not None else ():
        assert rules.ignores(name) in (True, False)


@few
@given(content=BYTES)
def test_lists_of_packages_and_ignored_files_of_any_bytes(content, tmp_path: Path):
    for name in ("packages.txt", ".dockerignore", "Dockerfile"):
        (tmp_path / name).write_bytes(content)
    refused_or(lambda: missing_packages(tmp_path / "packages.txt"))
    refused_or(lambda: project_context(tmp_path))


def test_a_pattern_made_to_take_for_ever_does_not():
    began = time.monotonic()
    rules = IgnoreRules("*a" * 12 + "b\n" + "**/" * 12 + "x\n" + "**/*a" * 3 + "*a" * 12 + "c")
    assert not rules.ignores("a" * 250)
    assert not rules.ignores("a/" * 100 + "b")
    assert time.monotonic() - began < 10


def test_requirements_that_include_each_other_end(tmp_path: Path):
    (tmp_path / "a.txt").write_text("-r b.txt\nx\n")
    (tmp_path / "b.txt").write_text("-r a.txt\n-r b.txt\ny\n")
    assert "y" in requirement_lines(tmp_path / "a.txt")


@few
@given(
    st.dictionaries(
        st.text(max_size=10) | st.just("default"),
        st.dictionaries(st.sampled_from(["count", "concurrency", "queues"]), DATA, max_size=3) | DATA,
    ),
    st.lists(TEXT | st.from_regex(r"[a-z]*=[0-9]*"), max_size=3),
)
def test_groups_of_workers_of_any_shape(data, words):
    with _folder() as folder:
        Path(folder, ".astro").mkdir()
        Path(folder, ".astro/config.yaml").write_text(json.dumps({"workers": data}))
        for group in refused_or(lambda: workers_of(Path(folder))) or ():
            assert 1 <= group.count <= MAX_COUNT
    refused_or(lambda: wanted_counts(words))


@few
@given(TEXT, TEXT, st.text(max_size=20))
def test_a_file_of_any_text_is_changed_as_asked_or_left_alone(text, name, value):
    refused_or(lambda: with_deployment(text, "prod", {"host": "ssh://a"}))
    refused_or(lambda: with_fields(text, "prod", {"env": {"A": value}}))
    refused_or(lambda: without_deployment(text, name))
    refused_or(lambda: with_setting(text, "sandbox.engine", value, name="f"))
    refused_or(lambda: without_setting(text, "sandbox.engine", name="f"))
    refused_or(lambda: merge_launch(text, 5678, "/opt/airflow"))


@few
@given(st.text(max_size=200) | TEXT)
def test_code_of_any_text_is_looked_at_for_old_idioms(text):
    for place in (*in_python(text), *in_settings(text)):
        assert place.line >= 0


@few
@given(content=BYTES)
def test_an_ignore_file_of_deploys_of_any_bytes(content, tmp_path: Path):
    (tmp_path / ".deployignore").write_bytes(content)
    rules = refused_or(lambda: ignored(tmp_path))
    assert rules is None or rules("dags/a.py") in (True, False)


ROUTE = st.fixed_dictionaries(
    {"path": st.just("/{a}") | TEXT, "respond": st.just({"text": "x"}) | DATA},
    optional=dict.fromkeys(("method", "query", "headers", "body"), DATA),
)


@few
@example(content=b"routes: [{path: /a, respond: {}, query: [1]}]")
@example(content=b"[" * 5000)
@given(content=BYTES | st.lists(ROUTE | DATA).map(lambda routes: json.dumps({"routes": routes}).encode()))
def test_routes_of_the_stub_of_any_content(content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(Path(standins.__file__).parent)  # its programs find each other there
    from astro_cli.runtime.inside.standins.http_stub import FixtureError, read_routes

    (tmp_path / "routes.yaml").write_bytes(content)
    with contextlib.suppress(FixtureError):
        read_routes(tmp_path / "routes.yaml")


# templates, snapshots and other archives of strangers


@few
@given(st.lists(st.tuples(TEXT, st.binary(max_size=50)), max_size=4), BYTES)
def test_a_template_of_any_files_stays_in_its_folder(files, about):
    entries = [Entry(name, content, executable=False) for name, content in files]
    entries.append(Entry("template.yaml", about, executable=False))
    made = refused_or(lambda: make_template("theirs", entries))
    assert made is None or made.name


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "a/../../x", ".git/hooks/pre-commit", "a\\..\\x", "a\0b", ".."]
)
def test_a_template_that_leads_out_of_its_folder_is_refused(name: str):
    with pytest.raises(AstroError):
        make_template("theirs", [Entry(name, b"x", executable=False)])


@few
@given(BYTES, BYTES)
def test_a_snapshot_of_any_bytes(content, header):
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(_folder()))
        file = folder / "x.astro"
        file.write_bytes(content)
        refused_or(lambda: snapshot_file.read(file))
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("snapshot.json", header)
            archive.writestr("database.dump", content)
        refused_or(lambda: snapshot_file.read(file))


def _folder():
    import tempfile

    return tempfile.TemporaryDirectory()


@few
@given(BYTES, st.integers(0, 400), st.binary(max_size=4))
def test_a_snapshot_damaged_anywhere(content, at, junk):
    with _folder() as folder:
        file = Path(folder, "x.astro")
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            about = {"format": "astro snapshot", "version": 1, "name": "x", "reason": "r"}
            archive.writestr("snapshot.json", json.dumps(about))
            archive.writestr("database.dump", content)
        data = bytearray(stream.getvalue())
        data[at : at + len(junk)] = junk
        file.write_bytes(data)

        def whole() -> bytes:
            with snapshot_file.opened(file) as dump:
                return dump.read()

        assert refused_or(whole) in (None, content)


# what other programs on this machine and on the network say


@few
@given(content=BYTES | DATA.map(lambda data: json.dumps(data).encode()))
def test_files_of_the_docker_client_and_states_of_any_content(content, tmp_path: Path):
    folder = tmp_path / "docker"
    meta = folder / "contexts/meta" / hashlib.sha256(b"x").hexdigest()
    meta.mkdir(parents=True, exist_ok=True)
    for file in (folder / "config.json", meta / "meta.json"):
        file.write_bytes(content)
    environ = {"DOCKER_CONFIG": str(folder), "DOCKER_CONTEXT": "x"}
    refused_or(lambda: find_endpoint(environ, home=tmp_path, uid=0))
    refused_or(lambda: find_endpoint({"DOCKER_CONFIG": str(folder)}, home=tmp_path, uid=0))
    refused_or(lambda: find_credentials("r.example", {"DOCKER_CONFIG": str(folder), "PATH": ""}))
    assert isinstance(read_json(folder / "config.json"), dict)


@few
@given(content=BYTES)
def test_pips_configuration_of_any_content(content, tmp_path: Path):
    (tmp_path / "pip.conf").write_bytes(content)
    none = tmp_path / "none"
    found = host_settings({}, pip_configs=[tmp_path / "pip.conf"], certificates=none, system_bundle=none)
    assert isinstance(found.digest(), str)


@few
@given(BYTES, TEXT)
def test_answers_of_engines_and_hosts_of_any_content(content, text):
    refused_or(lambda: read_release(text))
    refused_or(lambda: parse_repository(text))
    with contextlib.suppress(ValueError):  # its caller expects that
        decode_trace(content)
    read_about("x", text)
    assert "".join(unframe([content])).count("\0") >= 0
    assert suggest_fix(ServiceStatus("scheduler", "stopped", exit_code=1), text.splitlines())
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,49}", name_from(text))


# what leaves this machine

SECRET = st.text(st.characters(exclude_categories=["Cs"]), min_size=4, max_size=30).filter(
    lambda text: len(text.strip()) >= 4 and text.strip() == text and not set(text) <= {"*"}
)


@few
@given(SECRET, TEXT, TEXT)
def test_a_known_secret_is_in_no_text_whatever_stands_around_it(secret, before, after):
    cleaned = Redactor([secret]).clean(f"{before}{secret}{after}")
    assert secret.replace(MASK, "") == "" or secret not in cleaned or secret in f"{before}{MASK}{after}"


def test_redacting_takes_no_time_on_text_made_to_take_it():
    redactor = Redactor(["x" * 40])
    began = time.monotonic()
    for text in (
        "a" * 50_000,
        "token" * 10_000,
        "a.-" * 20_000,
        "://" * 20_000,
        "password=" * 5_000,
        '"' * 50_000,
    ):
        redactor.clean(text)
    assert time.monotonic() - began < 20


# a sandbox has no login: it answers on the loopback interface, and nothing opens it


def test_no_option_setting_or_variable_opens_a_sandbox_to_the_network(tmp_path: Path):
    from typer.testing import CliRunner

    from astro_cli.cli import build_app

    words = ("host", "bind", "listen", "address", "public")
    assert not [spec.key for spec in SETTINGS if spec.key.rpartition(".")[2] in words]
    for option in words:
        done = CliRunner().invoke(
            build_app(), ["airflow", "start", f"--{option}", "0.0.0.0", "-C", str(tmp_path)]
        )
        assert done.exit_code == 2, done.output
        assert "no such option" in done.stderr
    for name, value in (("AIRFLOW__API__HOST", "0.0.0.0"), ("AIRFLOW__API__PORT", "80")):
        from astro_cli.domain.airflow import RESERVED

        assert name in RESERVED, value
