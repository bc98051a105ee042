"""What goes wrong around a sandbox, done to a real one: it says so in a sentence, and the next start works."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.engine.astro import START_SECONDS, Astro, environment, get

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def shop(engine_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Astro]:
    """One project; every test leaves its sandbox so that `start` can bring it up again."""
    parent = tmp_path_factory.mktemp("projects")
    environ = environment(tmp_path_factory.mktemp("home"), engine_url)
    Astro(parent, environ)("airflow", "init", "shop")
    astro = Astro(parent / "shop", environ)
    yield astro
    astro("airflow", "kill", "--yes", "--no-snapshot")


@pytest.fixture(autouse=True)
def no_bad_setting_is_left(shop: Astro) -> Iterator[None]:
    """One failed test must not fail the next ones."""
    yield
    shop.write(".env", "")


def containers(client: Any, astro: Astro) -> dict[str, Any]:
    found = client.containers.list(all=True, filters={"label": f"astro.path={astro.folder}"})
    return {container.labels["astro.service"]: container for container in found}


def kill_container(container: Any) -> None:
    """And wait until the engine has noticed."""
    container.kill()
    container.wait()


def left_on(client: Any, astro: Astro) -> list[str]:
    """Everything of the project that is still on the engine."""
    mine = {"label": f"astro.path={astro.folder}"}
    return [
        *(found.name for found in client.containers.list(all=True, filters=mine)),
        *(found.name for found in client.volumes.list(filters=mine)),
        *(found.name for found in client.networks.list(filters=mine)),
        *(found.short_id for found in client.images.list(filters=mine)),
    ]


def interrupt(astro: Astro, *args: str, at: str, how: signal.Signals) -> tuple[int, str]:
    """Run until a line of its progress holds `at`, send it a signal; its exit code and what it said."""
    process = astro.spawn(*args)
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if at in line:
            process.send_signal(how)
            break
    rest = process.communicate(timeout=300)[1]
    return process.returncode, said + rest


def is_healthy(astro: Astro) -> bool:
    """Whether `ps` says so before long: a service that lost its database may die once more before it finds it."""
    end = time.monotonic() + 180
    while time.monotonic() < end:
        if astro.json("airflow", "ps")["healthy"]:
            return True
        time.sleep(0.5)
    return False


# two at once, and interruptions


def test_of_two_starts_at_once_one_does_it_and_the_other_names_it(shop: Astro):
    processes = [shop.spawn("start", "--no-browser") for _ in range(2)]
    said = {process.pid: process.communicate(timeout=240) for process in processes}
    refused = next(process for process in processes if process.returncode == 8)
    worked = next(process for process in processes if process is not refused)
    assert worked.returncode == 0, said[worked.pid]
    assert f"`astro airflow start` (process {worked.pid}) is working on this sandbox" in said[refused.pid][1]
    assert is_healthy(shop)


@pytest.mark.parametrize(
    ("at", "state"),
    [
        ("create postgres", "`astro airflow start` completes it"),
        ("wait for Airflow", "the sandbox goes on starting"),
    ],
)
def test_ctrl_c_during_start_says_the_state_and_the_next_start_works(shop: Astro, at: str, state: str):
    shop("airflow", "kill", "--yes", "--no-snapshot")
    code, said = interrupt(shop, "start", "--no-browser", at=at, how=signal.SIGINT)
    assert code == 130
    assert "error: interrupted" in said
    assert state in said
    assert "Traceback" not in said
    shop.start()
    assert is_healthy(shop)


def test_a_start_that_was_killed_is_completed_by_the_next(shop: Astro):
    shop("airflow", "kill", "--yes", "--no-snapshot")
    code, _ = interrupt(shop, "start", "--no-browser", at="create postgres", how=signal.SIGKILL)
    assert code == -signal.SIGKILL
    shop("airflow", "ps", code=None)
    shop.start()
    assert is_healthy(shop)


@pytest.mark.parametrize("at", ["remove container airflow", "remove network", "remove volume"])
def test_a_kill_that_was_killed_is_completed_by_the_next(shop: Astro, client: Any, at: str):
    shop("start", "--no-browser", "--no-wait")
    interrupt(shop, "airflow", "kill", "--yes", at=at, how=signal.SIGKILL)
    shop("airflow", "kill", "--yes")
    assert left_on(client, shop) == []
    assert "nothing to remove" in shop("airflow", "kill", "--yes").stdout


# services that die


def test_a_setting_that_kills_airflow_is_shown_with_its_last_lines_and_a_fix(shop: Astro):
    shop.write(".env", "AIRFLOW__CORE__EXECUTOR=NoSuchExecutor\n")
    began = time.monotonic()
    error = shop.json("start", "--no-browser", "--wait", START_SECONDS, code=5)
    assert time.monotonic() - began < float(START_SECONDS) / 2  # noticed, not waited for
    assert "exit code" in error["message"]
    assert "NoSuchExecutor" in "\n".join(error["details"])
    assert "AIRFLOW__" in error["hint"]
    shop.write(".env", "")
    shop.start()
    assert is_healthy(shop)


def test_one_service_that_keeps_dying_is_named_and_the_others_run(shop: Astro):
    shop.start()  # the heartbeats it leaves in the database must not count for the next one
    shop.write(".env", "AIRFLOW__TRIGGERER__CAPACITY=many\n")
    error = shop.json("start", "--no-browser", code=5)
    assert error["message"].startswith("`triggerer` ended with exit code 1")
    services = shop.services()
    assert services["triggerer"]["state"] in ("backoff", "starting", "running")
    assert services["api-server"]["state"] == "running"
    shop.write(".env", "")
    shop.start()


def test_a_service_killed_for_lack_of_memory_says_so(shop: Astro, client: Any):
    shop.start()
    airflow = containers(client, shop)["airflow"]
    airflow.stop(timeout=1)
    airflow.update(mem_limit="120m", memswap_limit="120m")
    error = shop.json("start", "--no-browser", code=5)
    assert "out of memory" in error["message"]
    assert "memory" in error["hint"]
    airflow.remove(force=True)
    shop.start()


# things removed behind our back


def test_a_killed_database_is_seen_and_started_again(shop: Astro, client: Any):
    shop.start()
    kill_container(containers(client, shop)["postgres"])
    status = shop.json("airflow", "ps")
    assert status["state"] == "partial"
    assert shop.services()["postgres"]["state"] == "stopped"
    told = shop.start()
    assert {"start container postgres", "replace container airflow"} <= set(told["changes"])
    assert is_healthy(shop)


def test_removed_containers_are_made_again_with_the_history(shop: Astro, client: Any):
    url = shop.start()["url"]
    marked = {"key": "mark", "value": "kept"}
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as http:
        http.post("/api/v2/variables", json=marked).raise_for_status()
    time.sleep(1)  # Postgres may lose what was committed in the last 0.6 s before it is killed
    for container in containers(client, shop).values():
        container.remove(force=True)
    assert "no sandbox yet" in shop("airflow", "ps", code=1).stderr
    url = shop.start()["url"]
    assert get(url, "/api/v2/variables/mark")["value"] == "kept"


def test_a_removed_network_is_made_again(shop: Astro, client: Any):
    shop("airflow", "stop")
    for network in client.networks.list(filters={"label": f"astro.path={shop.folder}"}):
        network.remove()
    shop.start()
    assert is_healthy(shop)


def test_removed_volumes_are_an_empty_history_not_a_failure(shop: Astro, client: Any):
    for container in containers(client, shop).values():
        container.remove(force=True)
    for volume in client.volumes.list(filters={"label": f"astro.path={shop.folder}"}):
        volume.remove()
    started = shop.start()
    assert "create volume database" in started["changes"]
    assert is_healthy(shop)


# the engine


class Gate:
    """A unix socket that leads to the real engine until it is shut, like an engine that goes away."""

    def __init__(self, path: Path, target: str) -> None:
        self.url = f"unix://{path}"
        self._target = target.removeprefix("unix://")
        self._open: list[socket.socket] = []
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind(str(path))
        self._door.listen(32)
        self._path = path
        self._is_shut = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                inside, _ = self._door.accept()
                outside = socket.socket(socket.AF_UNIX)
                self._open += [inside, outside]
                if self._is_shut:  # this one came while it was being shut
                    inside.close()
                    outside.close()
                    return
                outside.connect(self._target)
                for source, sink in ((inside, outside), (outside, inside)):
                    threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def shut(self) -> None:
        """Refuse new connections, and cut those that are open."""
        self._is_shut = True
        self._path.unlink()
        for end in (self._door, *self._open):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.mark.parametrize("at", ["build the project's image", "replace airflow", "wait for Airflow"])
def test_an_engine_that_goes_away_during_start_is_one_error_and_no_harm(
    shop: Astro, engine_url: str, tmp_path: Path, at: str
):
    if not engine_url.startswith("unix://"):
        pytest.skip("the engine is not on a unix socket")
    shop("airflow", "stop", code=None)
    shop.write("requirements.txt", f"# {at}\n")  # an image to build, and containers to replace
    gate = Gate(tmp_path / "docker.sock", engine_url)
    process = Astro(shop.folder, {**shop.environ, "DOCKER_HOST": gate.url}).spawn("start", "--no-browser")
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if at in line:
            gate.shut()
            break
    said += process.communicate(timeout=300)[1]
    assert process.returncode == 4, said
    assert said.count("error: ") == 1
    assert "hint: " in said
    assert "bug in astro" not in said
    shop.start()


# ports, images, volumes


def test_a_database_that_could_not_be_made_whole_is_not_left_for_the_next_start(shop: Astro, client: Any):
    shop("airflow", "kill", "--yes", "--no-snapshot")
    sandbox_id = (shop.folder / ".astro/checkout").read_text().strip()
    name = f"astro-shop-postgres-{sandbox_id}"
    stranger = client.containers.create("debian:trixie-slim", "true", name=name)
    try:
        done = shop("start", "--no-browser", code=1)
    finally:
        stranger.remove(force=True)
    assert "is already in use by container" in done.stderr
    assert f"astro-{sandbox_id}-database" not in left_on(client, shop)
    shop.start()
    assert is_healthy(shop)


def test_a_port_that_a_process_holds_is_an_error_that_names_it(shop: Astro):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = shop("start", "--no-browser", "--port", str(port), code=1)
        assert f"port {port} is already in use by `" in done.stderr
        assert f"(process {os.getpid()})" in done.stderr
        done = shop("start", "--no-browser", "--expose-db", str(port), code=1)
        assert f"(process {os.getpid()})" in done.stderr
        assert "--expose-db" in done.stderr
    assert shop.json("airflow", "ps")["state"] == "running"


@pytest.mark.parametrize(
    ("dockerfile", "code", "words"),
    [
        ("FROM debian:trixie-slim\n", 3, "not built on astro's engine image"),
        ("FROM localhost/astro/airflow:3.3.2\nRUN false\n", 1, "failed with exit code 1: `RUN false`"),
        ("FROM localhost/astro/airflow:3.3.2\nRNU true\n", 3, "Dockerfile:2"),
        ("FROM localhost/astro/airflow:3.3.2\nCOPY nowhere /\n", 1, "nowhere"),
    ],
)
def test_a_dockerfile_that_cannot_be_built_is_refused_and_the_sandbox_goes_on(
    shop: Astro, dockerfile: str, code: int, words: str
):
    good = (shop.folder / "Dockerfile").read_text()
    shop.write("Dockerfile", dockerfile)
    done = shop("start", "--no-browser", code=code)
    assert words in done.stderr
    assert "hint: " in done.stderr
    shop.write("Dockerfile", good)
    assert shop.json("airflow", "ps")["state"] == "running"


def test_a_ready_image_that_is_not_ours_is_refused(shop: Astro):
    done = shop("start", "--no-browser", "--image-name", "debian:trixie-slim", code=3)
    assert "not built on astro's engine image" in done.stderr


def test_a_base_image_that_cannot_be_pulled_is_named_with_its_setting(shop: Astro):
    environ = {**shop.environ, "ASTRO_IMAGE_BASE": "127.0.0.1:9/no/such:image"}
    done = Astro(shop.folder, environ)("start", "--no-browser", code=3)
    assert "127.0.0.1:9/no/such:image" in done.stderr
    assert "image.base" in done.stderr


@pytest.mark.parametrize(
    ("label", "value", "words"),
    [
        ("astro.postgres-major", "16", "was made by Postgres 16"),
        ("astro.airflow-version", "99.0.0", "was made by Airflow 99.0.0"),
    ],
)
def test_a_database_from_elsewhere_is_refused_before_anything_is_started(
    shop: Astro, client: Any, label: str, value: str, words: str
):
    shop("airflow", "kill", "--yes", "--no-snapshot")
    sandbox_id = (shop.folder / ".astro/checkout").read_text().strip()
    marks = {
        "astro.sandbox": sandbox_id,
        "astro.path": str(shop.folder),
        "astro.postgres-major": "17",
        "astro.airflow-version": "3.3.2",
    }
    client.volumes.create(f"astro-{sandbox_id}-database", labels={**marks, label: value})
    done = shop("start", "--no-browser", code=3)
    assert words in done.stderr
    assert containers(client, shop) == {}
    shop("airflow", "kill", "--yes")
    assert left_on(client, shop) == []
