"""DAG-only deploys: the artifact, where it is published, and a real Airflow that takes it while it works."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from astro_cli.deploy import dag_bundle
from astro_cli.deploy.dag_bundle import Bundle, RegistryStore, VolumeStore, bundle_environment, pack
from astro_cli.deploy.registry import Registry
from astro_cli.domain.repository import Credentials
from astro_cli.foundation.errors import AstroError, ProjectError
from astro_cli.runtime.docker_api import DockerApi
from astro_cli.runtime.endpoint import Endpoint
from tests.deploy.registry_server import PASSWORD, USER, RegistryServer
from tests.engine.astro import Astro, environment, get, trigger, wait_for_run

INSIDE_FOLDER = Path(dag_bundle.__file__).parent / "inside"


def project(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def names(bundle: Bundle) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(bundle.layer)) as archive:
        return archive.getnames()


def test_a_repository_without_a_host_is_on_docker_hub():
    assert dag_bundle.registry_source("team/shop") == {
        "url": "https://registry-1.docker.io",
        "repository": "team/shop",
    }


# the artifact


def test_the_same_files_make_the_same_version_whenever_and_wherever_they_are_packed(tmp_path):
    files = {"dags/a.py": "A", "dags/team/b.py": "B", "include/sql/c.sql": "C", "plugins/p.py": "not sent"}
    first = pack(project(tmp_path / "one", files), revision="abc")
    time.sleep(1.1)  # gzip and tar count in seconds
    second = pack(project(tmp_path / "two", dict(reversed(files.items()))), revision="abc")
    assert first.digest == second.digest
    assert names(first) == [
        "dags", "dags/a.py", "dags/team", "dags/team/b.py", "include", "include/sql", "include/sql/c.sql"
    ]  # fmt: skip


def test_another_commit_of_the_same_files_is_another_version_with_the_same_layer(tmp_path):
    folder = project(tmp_path, {"dags/a.py": "A"})
    first, second = pack(folder, revision="abc"), pack(folder, revision="def")
    assert first.digest != second.digest
    assert first.content == second.content
    assert json.loads(second.manifest)["annotations"] == {"org.opencontainers.image.revision": "def"}


def test_what_deployignore_or_dockerignore_names_stays_here_and_so_does_what_python_leaves_behind(tmp_path):
    folder = project(
        tmp_path,
        {
            ".deployignore": "*.csv\n!keep.csv\n/dags/drafts/\n",
            ".dockerignore": "dags/local.py\n",
            "dags/local.py": "",
            "dags/a.py": "A",
            "dags/drafts/d.py": "D",
            "dags/x.csv": "",
            "dags/keep.csv": "",
            "include/drafts/e.py": "E",
            "dags/__pycache__/a.cpython-313.pyc": "",
        },
    )
    assert names(pack(folder)) == [
        "dags", "dags/a.py", "dags/keep.csv", "include", "include/drafts", "include/drafts/e.py"
    ]  # fmt: skip


def test_a_link_inside_stays_a_link_and_one_that_leads_out_is_refused(tmp_path):
    folder = project(tmp_path / "project", {"dags/a.py": "A", "dags/sub/x": ""})
    (folder / "dags/sub/b.py").symlink_to("../a.py")
    with tarfile.open(fileobj=io.BytesIO(pack(folder).layer)) as archive:
        assert archive.getmember("dags/sub/b.py").linkname == "../a.py"
    (folder / "dags/secret").symlink_to("../../elsewhere")
    with pytest.raises(ProjectError, match=r"`dags/secret` is a link to `../../elsewhere`"):
        pack(folder)


def test_a_linked_dags_folder_stands_for_what_it_holds(tmp_path):
    project(tmp_path / "elsewhere", {"a.py": "A"})
    (tmp_path / "project").mkdir()
    (tmp_path / "project/dags").symlink_to("../elsewhere")
    assert names(pack(tmp_path / "project")) == ["dags", "dags/a.py"]


# where it is published


def test_publish_points_the_tag_and_point_brings_an_older_version_back(tmp_path):
    old = pack(project(tmp_path / "a", {"dags/a.py": "A"}), revision="1")
    new = pack(project(tmp_path / "b", {"dags/a.py": "B"}), revision="2")
    with RegistryServer(tmp_path / "registry") as server, Registry(server.host, None, environ={}) as registry:
        store = RegistryStore(registry, "team/dags", "prod")
        assert store.current() is None
        store.publish(old)
        store.publish(new)
        current = store.current()
        assert current is not None
        assert (current.digest, current.revision) == (new.digest, "2")
        store.point(old.digest)
        pointed = store.current()
        assert pointed is not None
        assert pointed.digest == old.digest
        with pytest.raises(AstroError, match="not there any more"):
            store.point("sha256:" + "0" * 64)
        for each in (old, new):  # also under a tag of its own
            assert registry.manifest("team/dags", f"prod-{each.digest.removeprefix('sha256:')}") is not None


def test_a_second_publish_sends_only_the_manifest_when_the_files_are_the_same(tmp_path):
    folder = project(tmp_path / "a", {"dags/a.py": "A" * 5000})
    with RegistryServer(tmp_path / "registry") as server, Registry(server.host, None, environ={}) as registry:
        store = RegistryStore(registry, "team/dags", "prod")
        store.publish(pack(folder, revision="1"))
        uploads = len(server.requests("POST"))
        store.publish(pack(folder, revision="2"))
        assert len(server.requests("POST")) == uploads


@pytest.fixture
def api(engine_url: str) -> Iterator[DockerApi]:
    api = DockerApi(Endpoint(engine_url, "the test"))
    yield api
    api.client.close()


@pytest.fixture
def volume(api: DockerApi) -> Iterator[str]:
    name = "astro-test-dags"
    api.create_volume(name, {})
    yield name
    api.remove_volume(name)


@pytest.fixture
def image(api: DockerApi) -> Iterator[str]:
    empty = io.BytesIO()
    tarfile.open(fileobj=empty, mode="w").close()
    name = "astro-test-empty"
    api.client.import_image_from_data(empty.getvalue(), repository=name, tag="1")
    yield f"{name}:1"
    api.remove_image(f"{name}:1")


@pytest.mark.engine
def test_a_volume_holds_versions_without_a_registry_and_nothing_runs_for_it(tmp_path, api, volume, image):
    old = pack(project(tmp_path / "a", {"dags/a.py": "A"}), revision="1")
    new = pack(project(tmp_path / "b", {"dags/a.py": "B"}), revision="2")
    store = VolumeStore(api, volume, image, "prod", {})
    before = {each["Id"] for each in api.client.containers(all=True)}
    assert store.current() is None
    store.publish(old)
    store.publish(new)
    current = store.current()
    assert current is not None
    assert (current.digest, current.revision) == (new.digest, "2")
    store.point(old.digest)
    current = store.current()
    assert current is not None
    assert current.digest == old.digest
    with pytest.raises(AstroError, match="not there any more"):
        store.point("sha256:" + "0" * 64)
    with api.volume_door(volume, image, {}) as door:
        assert door.read(f"tags/{'prod'}") == old.digest.removeprefix("sha256:").encode() + b"\n"
    assert {each["Id"] for each in api.client.containers(all=True)} <= before


# how Airflow's half reads a registry; the rest of it runs in a real Airflow below

READ = """
import json, sys
from astro_bundle import RegistrySource

options = json.loads(sys.argv[1])
source = RegistrySource(options["url"], "team/dags", "prod", credentials=options["login"], ca=options["ca"])
version = source.current()
layer = json.loads(source.manifest(version))["layers"][0]["digest"].removeprefix("sha256:")
with source.layer(layer) as content:
    print(version, len(content.read()))
"""


@pytest.mark.parametrize("kind", ["open", "password", "tokens", "tls"])
def test_airflow_reads_what_was_published_through_every_kind_of_login(tmp_path, kind):
    bundle = pack(project(tmp_path / "a", {"dags/a.py": "A"}))
    options = {} if kind == "open" else {kind: True}
    with RegistryServer(tmp_path / "registry", **options) as server:
        environ = {"SSL_CERT_FILE": str(server.certificate)} if server.certificate else {}
        with Registry(server.host, Credentials(USER, PASSWORD), environ=environ) as registry:
            RegistryStore(registry, "team/dags", "prod").publish(bundle)
        version = bundle.digest.removeprefix("sha256:")
        assert read(tmp_path, server, PASSWORD) == f"{version} {len(bundle.layer)}"
        if kind in ("password", "tokens"):
            assert "HTTP Error 401" in read(tmp_path, server, "guessed")


def test_airflow_does_not_believe_an_authority_that_it_was_not_given(tmp_path):
    with RegistryServer(tmp_path / "registry", tls=True) as server:
        assert "CERTIFICATE_VERIFY_FAILED" in read(tmp_path, server, PASSWORD, ca="")


def read(folder: Path, server: RegistryServer, password: str, *, ca: str | None = None) -> str:
    """What the script READ says last, run without an Airflow: only the names that it imports are there."""
    login = folder / "login.json"
    login.write_text(json.dumps({"username": USER, "password": password}))
    authority = str(server.certificate or "") if ca is None else ca
    url = f"{'https' if server.certificate else 'http'}://{server.host}"
    options = {"url": url, "login": str(login), "ca": authority}
    return without_airflow(folder, READ, json.dumps(options)).splitlines()[-1]


STUB = """
from pathlib import Path

class BundleVersion:
    def __init__(self, version):
        self.version = version

class BaseDagBundle:
    def __init__(self, *, name, version=None, storage):
        self.name, self.version, self.base_dir = name, version, Path(storage)
        self.versions_dir = self.base_dir / "versions"

    def initialize(self):
        pass
"""


def without_airflow(folder: Path, script: str, *arguments: str) -> str:
    """What a script says that imports `astro_bundle`, with no more of Airflow than its names."""
    stub = folder / "stub/airflow/dag_processing/bundles/base.py"
    stub.parent.mkdir(parents=True, exist_ok=True)
    stub.write_text(STUB)
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={"PYTHONPATH": f"{INSIDE_FOLDER}:{folder / 'stub'}"},
        capture_output=True,
        text=True,
    )
    return (done.stdout + done.stderr).strip()


FULL = """
import sys
from astro_bundle import AstroDagBundle

store, storage, new = sys.argv[1:]
bundle = AstroDagBundle(name="dags", tag="t", folder=store, storage=storage)
bundle.initialize()
old = bundle.get_current_version().version
open(f"{store}/tags/t", "w").write(new)
bundle.refresh()
print(bundle.get_current_version().version == old, [path.name == old for path in bundle.versions_dir.iterdir()])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a small disk")
def test_a_full_disk_leaves_the_last_version_in_service_and_nothing_half_unpacked(tmp_path):
    for folder in ("disk", "store/blobs", "store/tags"):
        (tmp_path / folder).mkdir(parents=True)
    store, disk, versions = tmp_path / "store", tmp_path / "disk", []
    for letter, size in (("A", 100), ("B", 600_000)):
        bundle = pack(project(tmp_path / letter, {"dags/a.py": os.urandom(size).hex()}))
        for content in (bundle.manifest, bundle.layer):
            (store / "blobs" / hashlib.sha256(content).hexdigest()).write_bytes(content)
        versions.append(bundle.digest.removeprefix("sha256:"))
    (store / "tags/t").write_text(versions[0])
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=500k", "tmpfs", disk], check=True)
    try:
        told = without_airflow(tmp_path, FULL, str(store), str(disk), versions[1])
    finally:
        subprocess.run(["umount", disk], check=True)
    assert "No space left on device" in told
    assert "True [True]" in told.splitlines()


# a real Airflow

DAG = """
import os
import time

from airflow.sdk import dag, task
from include.words import WORD

@dag(schedule=None)
def letters():
    @task
    def first(params=None):
        end = time.monotonic() + SECONDS
        while time.monotonic() < end and not os.path.exists("/opt/airflow/include/go-on"):
            time.sleep(0.2)
        return "LETTER" + WORD

    @task
    def second(before):
        import dags.spelling
        return before + "LETTER" + WORD + dags.spelling.END

    second(first())

letters()
"""
LOOK = 120.0  # seconds from the command to the API, at most, on a busy machine


def letters(letter: str, *, seconds: float = 0) -> dict[str, str]:
    text = DAG.replace("LETTER", letter).replace("SECONDS", str(seconds))
    return {
        "dags/letters.py": text,
        "dags/spelling.py": f"END = '{letter.lower()}'",
        "include/words.py": f"WORD = '{letter.lower()}'",
    }


@dataclass
class Site:
    """An Airflow whose DAGs come from a registry, and what publishes there."""

    astro: Astro
    url: str
    server: RegistryServer
    folder: Path

    def bundle(self, letter: str, *, seconds: float = 0) -> Bundle:
        return pack(project(self.folder / f"{letter}{seconds}", letters(letter, seconds=seconds)))

    def publish(self, bundle: Bundle) -> str:
        with Registry(self.server.host, Credentials(USER, PASSWORD), environ={}) as registry:
            RegistryStore(registry, "team/dags", "prod").publish(bundle)
        return bundle.digest.removeprefix("sha256:")

    def point(self, version: str) -> None:
        with Registry(self.server.host, Credentials(USER, PASSWORD), environ={}) as registry:
            RegistryStore(registry, "team/dags", "prod").point(f"sha256:{version}")

    def version(self) -> str:
        answer = httpx.get(f"{self.url}/api/v2/dags/letters", trust_env=False, timeout=60)
        return str(answer.json().get("bundle_version"))

    def seconds_until(self, done: Callable[[], bool], most: float) -> float:
        began = time.monotonic()
        while not self._is(done):
            assert time.monotonic() - began < most, f"not within {most} seconds"
            time.sleep(0.2)
        return time.monotonic() - began

    def _is(self, done: Callable[[], bool]) -> bool:
        try:
            return done()
        except httpx.TimeoutException:  # a machine with too much to do
            return False

    def result(self, run_id: str) -> str:
        path = f"/api/v2/dags/letters/dagRuns/{run_id}/taskInstances/second/xcomEntries/return_value"
        return str(get(self.url, path)["value"])

    def processes(self) -> dict[str, object]:
        return {name: (each["started_at"], each["restarts"]) for name, each in self.astro.services().items()}


@pytest.fixture(scope="module")
def site(engine_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    client = DockerApi(Endpoint(engine_url, "the test")).client
    gateway = client.inspect_network("bridge")["IPAM"]["Config"][0]["Gateway"]
    client.close()
    astro = Astro(folder / "project", environment(folder / "home", engine_url))
    astro.folder.mkdir()
    (folder / "home").mkdir()
    astro("init", "--template", "default", ".")
    with RegistryServer(folder / "registry", everywhere=True, password=True) as server:
        settings = bundle_environment(
            "prod",
            url=f"http://{gateway}:{server.port}",
            repository="team/dags",
            credentials="/opt/airflow/include/login.json",
        )
        line = "RUN echo /opt/astro/deploy > /opt/venv/lib/python3.13/site-packages/deployed.pth"
        with (astro.folder / "Dockerfile").open(
            "a"
        ) as dockerfile:  # deployed containers have it on PYTHONPATH
            dockerfile.write(f"USER root\n{line}\nUSER astro\n")
        with (astro.folder / ".env").open("a") as env:
            env.writelines(f"{name}='{value}'\n" for name, value in settings.items())
        astro.write("include/login.json", json.dumps({"username": USER, "password": PASSWORD}))
        astro.write("include/words.py", "WORD = 'of the image'")
        site = Site(astro, "", server, folder)
        try:
            site.url = astro.start()["url"]
            yield site
        finally:
            astro("airflow", "kill", "--yes", "--no-snapshot", code=None)


@pytest.mark.engine
def test_a_run_keeps_the_code_it_began_with_and_the_next_one_has_the_new_code(site):
    a, b = site.bundle("A", seconds=600), site.bundle("B")
    version_a = site.publish(a)
    site.seconds_until(lambda: site.version() == version_a, LOOK)
    before = site.processes()
    in_flight = trigger(site.url, "letters")
    path = f"/api/v2/dags/letters/dagRuns/{in_flight}/taskInstances/first"
    site.seconds_until(lambda: get(site.url, path)["state"] == "running", LOOK)

    began = time.monotonic()
    version_b = site.publish(b)
    sent = time.monotonic() - began
    seen = site.seconds_until(lambda: site.version() == version_b, LOOK)
    print(f"published in {sent:.2f} s, in the API {seen:.1f} s later")
    assert get(site.url, path)["state"] == "running"  # or the next lines prove nothing

    assert wait_for_run(site.url, "letters", trigger(site.url, "letters")) == "success"
    site.astro.write("include/go-on", "")
    assert wait_for_run(site.url, "letters", in_flight) == "success"
    runs = get(site.url, "/api/v2/dags/letters/dagRuns?order_by=id")["dag_runs"]
    assert [run["bundle_version"] for run in runs] == [version_a, version_b]
    assert site.result(runs[0]["dag_run_id"]) == "AaAaa"
    assert site.result(runs[1]["dag_run_id"]) == "BbBbb"
    assert site.processes() == before


@pytest.mark.engine
def test_while_the_registry_is_down_the_last_version_serves_even_after_a_restart(site):
    version = site.publish(site.bundle("C"))
    site.seconds_until(lambda: site.version() == version, LOOK)
    site.server.stop()
    try:
        site.astro("airflow", "restart", "dag-processor")
        site.seconds_until(lambda: site.astro.services()["dag-processor"]["health"] == "healthy", LOOK)
        run = trigger(site.url, "letters")
        assert wait_for_run(site.url, "letters", run) == "success"
        assert site.result(run) == "CcCcc"
        assert not get(site.url, "/api/v2/importErrors")["import_errors"]
    finally:
        site.server.start()
    version = site.publish(site.bundle("D"))
    assert site.seconds_until(lambda: site.version() == version, LOOK) < LOOK


@pytest.mark.engine
def test_pointing_back_brings_the_old_code_back(site):
    old, new = site.publish(site.bundle("E")), ""
    site.seconds_until(lambda: site.version() == old, LOOK)
    new = site.publish(site.bundle("F"))
    site.seconds_until(lambda: site.version() == new, LOOK)
    site.point(old)
    site.seconds_until(lambda: site.version() == old, LOOK)
    run = trigger(site.url, "letters")
    assert wait_for_run(site.url, "letters", run) == "success"
    assert site.result(run) == "EeEee"


@pytest.mark.engine
def test_a_dag_that_is_gone_from_the_bundle_is_gone_from_airflow(site):
    both = pack(
        project(
            site.folder / "both",
            {**letters("G"), "dags/more.py": letters("G")["dags/letters.py"].replace("letters", "more")},
        )
    )
    site.publish(both)
    path = f"{site.url}/api/v2/dags/more"
    seen = lambda: httpx.get(path, trust_env=False, timeout=30).json()  # noqa: E731
    site.seconds_until(lambda: seen().get("is_stale") is False, LOOK)
    site.publish(site.bundle("G"))
    site.seconds_until(lambda: seen().get("is_stale") is not False, LOOK)


INSIDE = """
import gzip, hashlib, io, json, pathlib, shutil, sys, tarfile

sys.path.insert(0, "/opt/astro/deploy")
import astro_bundle

store = pathlib.Path("/tmp/store")
shutil.rmtree(store, ignore_errors=True)
for folder in ("blobs", "tags"):
    (store / folder).mkdir(parents=True)

def publish(members, *, layer=None, named=None, manifest_as=None):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    data = buffer.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    (store / "blobs" / digest).write_bytes(data if layer is None else layer)
    manifest = json.dumps({"layers": [{"digest": f"sha256:{digest}"}]}).encode()
    version = hashlib.sha256(manifest).hexdigest()
    (store / "blobs" / version).write_bytes(manifest if manifest_as is None else manifest_as)
    (store / "tags/t").write_text(version if named is None else named)
    return version

def member(name, kind=tarfile.REGTYPE, link=""):
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made, b"" if link else b"x = 1"

def bundle(version=None):
    return astro_bundle.AstroDagBundle(name="probe", tag="t", folder=str(store), version=version)

shutil.rmtree(bundle().base_dir, ignore_errors=True)
astro_bundle.PAUSE = 0
good = publish([member("dags/a.py"), member("/tmp/escaped.py")])  # a leading / is left out, as tar does
first = bundle()
first.initialize()
assert first.get_current_version().version == good
assert (first.path / "a.py").read_text() == "x = 1"

bad = {
    "leaves the folder": dict(members=[member("../escaped.py")]),
    "links out": dict(members=[member("dags/out", tarfile.SYMTYPE, "../../../etc/passwd")]),
    "is a device": dict(members=[member("dags/null", tarfile.CHRTYPE, "x")]),
    "layer is damaged": dict(members=[member("dags/b.py")], layer=b"something else"),
    "layer is cut": dict(members=[member("dags/c.py")], layer=b""),
    "manifest is damaged": dict(members=[member("dags/d.py")], manifest_as=b"{}"),
    "tag is no version": dict(members=[member("dags/e.py")], named="../../../tmp"),
    "tag is empty": dict(members=[member("dags/f.py")], named=""),
}
for name, options in bad.items():
    published = publish(**options)
    before = sorted(path.name for path in first.versions_dir.iterdir())
    first.refresh()
    assert first.get_current_version().version == good, name
    assert sorted(path.name for path in first.versions_dir.iterdir()) == before, name
    if "tag" not in name:
        try:
            bundle(published).initialize()
        except (OSError, ValueError, tarfile.TarError) as exc:
            print(f"{name}: {exc!r}")
        else:
            raise AssertionError(name)
assert not pathlib.Path("/tmp/escaped.py").exists()
assert not (first.versions_dir / "escaped.py").exists()

pinned = bundle(good)
pinned.initialize()
assert pinned.path == first.path
pinned.refresh()
assert pinned.get_current_version().version == good
shutil.rmtree(store)
again = bundle()
again.initialize()
assert again.get_current_version().version == good
print("all good")
"""


@pytest.mark.engine
def test_what_is_damaged_or_unsafe_is_never_unpacked_and_the_last_version_serves(site, engine_url):
    api = DockerApi(Endpoint(engine_url, "the test"))
    label = f"astro.path={site.astro.folder}"
    found = api.client.containers(filters={"label": [label, "astro.service=airflow"]})
    code, output = api.output_of(found[0]["Id"], ["/opt/venv/bin/python", "-c", INSIDE])
    api.client.close()
    assert code == 0, output
    assert output.rstrip().endswith("all good")
