"""Builds against a real engine: what succeeds, what is said when it does not, and what never reaches an image."""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker
import pytest

from astro_cli.domain import build_context, host_settings, image
from astro_cli.foundation import labels as marks
from astro_cli.foundation.errors import AstroError, ProjectError
from astro_cli.runtime.build import BuildEvent, BuildRequest, BuildResult, build

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.engine

REPO = Path(__file__).parents[2]
BASE = "debian:trixie-slim"
AIRFLOW = "3.3.2"
CANARY = "CANARY-c0ffee"


@pytest.fixture(scope="session")
def client(engine_url: str) -> Iterator[Any]:
    api = docker.APIClient(base_url=engine_url, version="auto", timeout=120)
    yield api
    api.close()


@pytest.fixture(scope="session")
def engine_image(client: Any) -> Iterator[str]:
    yield from built(client, "airflow")


@pytest.fixture(scope="session")
def database_image(client: Any) -> Iterator[str]:
    yield from built(client, "postgres")


def built(client: Any, target: str) -> Iterator[str]:
    """An image under a name of its own: the real name may be in use by a sandbox."""
    name = f"localhost/astro/test-{target}-{os.getpid()}:latest"
    build(client, engine_request(target, name), log=io.StringIO(), on_event=lambda event: None)
    yield name
    client.remove_image(name, force=True)


@pytest.fixture
def tag(client: Any) -> Iterator[str]:
    name = f"localhost/astro/test-build-{os.getpid()}:latest"
    yield name
    with suppress(docker.errors.ImageNotFound):
        client.remove_image(name, force=True)
    client.prune_images(filters={"dangling": True, "label": [f"astro.test={name}"]})


def engine_request(target: str, name: str) -> BuildRequest:
    images = REPO / "images"
    return BuildRequest(
        dockerfile=(images / "Dockerfile").read_text(),
        files=build_context.engine_context(images, REPO / "astro_cli"),
        tags=(name,),
        target=target,
        labels=image.engine_labels("0.1.0", AIRFLOW, (images / "migrations.json").read_text()),
        arguments={"AIRFLOW_VERSION": AIRFLOW},
        settings=host_settings.host_settings(os.environ),
    )


def request(
    dockerfile: str, tag: str, settings: host_settings.HostSettings | None = None, **files: str
) -> BuildRequest:
    context = tuple(
        build_context.ContextFile(name.replace("_txt", ".txt"), content=text.encode())
        for name, text in files.items()
    )
    settings = host_settings.host_settings(os.environ) if settings is None else settings
    return BuildRequest(dockerfile, context, (tag,), labels={"astro.test": tag}, settings=settings)


def run_build(client: Any, wanted: BuildRequest) -> tuple[BuildResult, str, list[BuildEvent]]:
    log, events = io.StringIO(), []
    return build(client, wanted, log=log, on_event=events.append), log.getvalue(), events


def failure(client: Any, wanted: BuildRequest) -> AstroError:
    with pytest.raises(AstroError) as caught:
        run_build(client, wanted)
    return caught.value


def test_a_build_reports_its_steps_and_its_output(client: Any, tag: str) -> None:
    result, log, events = run_build(
        client, request(f"FROM {BASE}\nRUN echo hello $((40 + {os.getpid()}))\n", tag)
    )

    line = f"hello {40 + os.getpid()}"
    assert client.inspect_image(tag)["Id"] == result.image_id
    assert line in [event.text for event in events if event.kind == "line"]
    assert f"  {line}\n" in log
    assert "--mount" not in "".join(event.step for event in events)
    assert not result.cached


def test_a_build_without_changes_takes_less_than_two_seconds(client: Any, tag: str) -> None:
    wanted = request(
        f"FROM {BASE}\nRUN echo once\nCOPY a_txt a.txt\n".replace("a_txt", "a.txt"), tag, a_txt="a"
    )
    first, _, _ = run_build(client, wanted)

    again = [run_build(client, wanted)[0] for _ in range(5)]

    assert all(each.cached for each in again)
    assert min(each.seconds for each in again) < 2  # a machine that has much else to do now and then may not
    assert {each.image_id for each in again} == {first.image_id}


def test_a_failing_step_is_named_with_its_last_lines(client: Any, tag: str) -> None:
    error = failure(client, request(f"FROM {BASE}\nRUN echo before && exit 7\n", tag))

    assert error.message == "a step of the Dockerfile failed with exit code 7: `RUN echo before && exit 7`"
    assert error.details == ("before",)


def test_a_dockerfile_error_names_the_users_line(client: Any, tag: str) -> None:
    error = failure(client, request(f"FROM {BASE}\n\nRUNN echo\n", tag))

    assert isinstance(error, ProjectError)
    assert error.message.startswith("Dockerfile:3: unknown instruction: RUNN")


@pytest.mark.parametrize("name", ["localhost/astro/not-there:1", "registry.invalid/team/image:2"])
def test_a_base_image_that_cannot_be_pulled_is_named(client: Any, tag: str, name: str) -> None:
    error = failure(client, request(f"FROM {name}\nRUN true\n", tag))

    assert isinstance(error, ProjectError)
    assert error.message == f"the base image `{name}` cannot be pulled"
    assert error.hint is not None
    assert f"docker pull {name}" in error.hint


def test_a_full_disk_is_called_a_full_disk(client: Any, tag: str) -> None:
    step = "RUN echo 'cp: error writing: No space left on device' >&2; exit 1"
    error = failure(client, request(f"FROM {BASE}\n{step}\n", tag))

    assert error.message == "the disk of the Docker engine is full"


@pytest.mark.parametrize(
    ("lines", "named", "why"),
    [
        ("# comment\n\nastro-has-no-such-name==9\n", '"astro-has-no-such-name==9" (line 3', "not found"),
        ("six\npendulum==2.0\n", '"pendulum==2.0" (line 2', "pendulum==3"),
        ("six\nsix six\n", '"six six" (line 2', "Expected one of"),
    ],
)
def test_a_requirement_that_cannot_be_installed_is_named(
    client: Any, tag: str, engine_image: str, lines: str, named: str, why: str
) -> None:
    steps = "USER root\nCOPY requirements.txt .\nRUN install-requirements requirements.txt\n"
    error = failure(client, request(f"FROM {engine_image}\n{steps}", tag, requirements_txt=lines))

    assert isinstance(error, ProjectError)
    assert error.message.startswith(f"requirement {named} of requirements.txt) cannot be installed: ")
    assert why in error.message


def test_a_package_that_cannot_be_installed_is_named(client: Any, tag: str, engine_image: str) -> None:
    steps = "USER root\nCOPY packages.txt .\nRUN install-packages packages.txt\n"
    packages = "# one\nastro-no-such-package # two\n"
    error = failure(client, request(f"FROM {engine_image}\n{steps}", tag, packages_txt=packages))

    assert error.message == (
        'package "astro-no-such-package" (line 2 of packages.txt) cannot be installed: '
        "Unable to locate package astro-no-such-package"
    )


def test_empty_requirements_and_packages_cost_nothing(client: Any, tag: str, engine_image: str) -> None:
    steps = (
        "USER root\nCOPY requirements.txt packages.txt ./\n"
        "RUN install-packages packages.txt && install-requirements requirements.txt\n"
    )
    files = {"requirements_txt": "# nothing\n", "packages_txt": "\n"}
    run_build(client, request(f"FROM {engine_image}\n{steps}", tag, **files))

    top = client.history(tag)[0]
    assert top["Size"] < 10_000, top


def test_a_changed_requirement_reuses_the_steps_above_it(client: Any, tag: str, engine_image: str) -> None:
    steps = (
        "USER root\nCOPY packages.txt .\nRUN install-packages packages.txt\n"
        "COPY requirements.txt .\nRUN install-requirements requirements.txt\n"
    )
    files = {"packages_txt": "less\n"}
    run_build(client, request(f"FROM {engine_image}\n{steps}", tag, **files, requirements_txt="colorama\n"))

    changed = request(f"FROM {engine_image}\n{steps}", tag, **files, requirements_txt="colorama<99\n")
    _, _, events = run_build(client, changed)

    cached = [event.step for event in events if event.kind == "cached"]
    assert any("install-packages" in step for step in cached)
    assert any("install-requirements" in event.step for event in events if event.kind in ("done", "cached"))


def test_the_hosts_settings_reach_a_step_and_never_the_image(client: Any, tag: str, tmp_path: Path) -> None:
    bundle = tmp_path / "ca.crt"
    bundle.write_text(f"{CANARY}-ca\n")
    settings = host_settings.host_settings(
        {
            "SSL_CERT_FILE": str(bundle),
            "PIP_INDEX_URL": f"https://user:{CANARY}-index@index.invalid/simple",
            "https_proxy": f"http://user:{CANARY}-proxy@proxy.invalid:3128",
        },
        apt_mirror=f"https://{CANARY}-mirror@mirror.invalid",
        pip_configs=(),
    )
    steps = (
        'RUN cat "$SSL_CERT_FILE" "$PIP_CONFIG_FILE" "$UV_CONFIG_FILE" /run/build/apt-mirror '
        f'| grep -c C[A]NARY && echo "$https_proxy" | grep -q C[A]NARY && : {os.urandom(8).hex()}\nCOPY . /copied\n'
    )

    known = {image["Id"] for image in client.images(name=host_settings.BUILD_SETTINGS_IMAGE)}
    _, log, _ = run_build(client, request(f"FROM {BASE}\n{steps}", tag, settings, a_txt="a"))

    assert "  4\n" in log
    assert CANARY not in json.dumps([client.history(tag), client.inspect_image(tag)])
    archive = io.BytesIO(b"".join(client.get_image(tag)))
    assert CANARY.encode() not in archive.getvalue()
    assert "copied/a.txt" in layer_names(archive)
    left = {image["Id"] for image in client.images(name=host_settings.BUILD_SETTINGS_IMAGE)}
    assert left <= known


def layer_names(archive: io.BytesIO) -> set[str]:
    names: set[str] = set()
    with tarfile.open(fileobj=archive) as saved:
        [manifest] = json.load(saved.extractfile("manifest.json"))  # type: ignore[arg-type]
        for layer in manifest["Layers"]:
            with tarfile.open(fileobj=saved.extractfile(layer)) as content:
                names.update(content.getnames())
    return names


def test_the_engine_image_works_under_any_user_id_of_group_0(client: Any, engine_image: str) -> None:
    script = (
        "import getpass, pathlib, airflow; pathlib.Path('logs/x').touch(); pathlib.Path('/run/astro/x').touch();"
        "print(getpass.getuser(), pathlib.Path.home(), airflow.__version__)"
    )
    made = client.create_container(engine_image, ["python", "-c", script], user="23456:0")
    try:
        client.start(made["Id"])
        code = client.wait(made["Id"])["StatusCode"]
        said = client.logs(made["Id"]).decode()
    finally:
        client.remove_container(made["Id"], force=True, v=True)

    assert (code, said.strip()) == (0, f"astro /home/astro {AIRFLOW}")


def test_the_engine_image_says_what_it_is(client: Any, engine_image: str) -> None:
    labels = client.inspect_image(engine_image)["Config"]["Labels"]

    heads = json.loads((REPO / "images/migrations.json").read_text())["heads"]
    assert labels[marks.AIRFLOW_VERSION] == AIRFLOW
    assert labels[marks.MIGRATION_HEADS] == ",".join(heads)


def psql(client: Any, database: str, password: str, statement: str) -> tuple[int, str]:
    """Runs a statement over TCP from a container of its own."""
    address = f"postgresql://airflow:{password}@localhost/airflow"
    made = client.create_container(
        client.inspect_container(database)["Image"],
        ["psql", address, "-Atc", statement],
        host_config=client.create_host_config(network_mode=f"container:{database}"),
    )
    try:
        client.start(made["Id"])
        code = client.wait(made["Id"])["StatusCode"]
        return code, client.logs(made["Id"], stderr=False).decode().strip()
    finally:
        client.remove_container(made["Id"], force=True, v=True)


def until_ready(client: Any, database: str) -> float:
    started = time.monotonic()
    while time.monotonic() - started < 120 and client.inspect_container(database)["State"]["Running"]:
        asked = client.exec_create(database, ["pg_isready", "-q"])
        client.exec_start(asked["Id"])
        if client.exec_inspect(asked["Id"])["ExitCode"] == 0:
            return time.monotonic() - started
        time.sleep(0.05)
    pytest.fail(client.logs(database).decode())


def test_the_database_starts_migrated_on_a_new_volume_and_survives_a_kill(
    client: Any, database_image: str
) -> None:
    volume = client.create_volume()["Name"]
    options = client.create_host_config(binds=[f"{volume}:/var/lib/postgresql/data"])
    database = client.create_container(database_image, host_config=options)["Id"]
    try:
        secret = io.BytesIO()
        with tarfile.open(fileobj=secret, mode="w") as archive:
            entry = tarfile.TarInfo("password")
            entry.uid, entry.mode, entry.size = 999, 0o400, 6
            archive.addfile(entry, io.BytesIO(b"it's-a"))
        client.put_archive(database, "/run/astro", secret.getvalue())
        client.start(database)
        until_ready(client, database)

        heads = json.loads((REPO / "images/migrations.json").read_text())["heads"]
        found = psql(client, database, "it%27s-a", "SELECT version_num FROM alembic_version")
        assert found == (0, ",".join(heads))
        assert psql(client, database, "wrong", "SELECT 1")[0] != 0

        assert psql(client, database, "it%27s-a", "CREATE TABLE kept AS SELECT 42 AS a")[0] == 0
        time.sleep(1)  # commits may lag by three times wal_writer_delay
        client.kill(database, "SIGKILL")
        client.wait(database)
        client.start(database)
        until_ready(client, database)
        assert psql(client, database, "it%27s-a", "SELECT a FROM kept") == (0, "42")
    finally:
        client.remove_container(database, force=True, v=True)
        client.remove_volume(volume, force=True)
