"""Deploys that go wrong: what ran before must run on, the exit code must say so, and the next command must work."""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.deploy.deployed import NAME, Deployed, Poller
from tests.deploy.registry_server import PASSWORD, USER, RegistryServer
from tests.deploy.test_connection import ssh_processes
from tests.engine.astro import Astro

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.deploy.host import Host

DYING = """\
import os
import sys

if "{service}" in sys.argv:
    print("the {service} tripped over its own feet", file=sys.stderr, flush=True)
    os._exit(3)
"""


@pytest.fixture
def settled(live: Deployed) -> Deployed:
    """The deployment, with the project as it is now running on it."""
    live.take_back()
    live.deploy()
    return live


def is_whole(live: Deployed, images: set[str]) -> bool:
    """Whether every service runs what it ran, and a DAG can run."""
    return live.images() == images and live.step() == "" and bool(live.run())


# One whose health the engine asks for, and one that has to be seen through the API.
@pytest.mark.parametrize("service", ["scheduler", pytest.param("dag-processor", marks=pytest.mark.long)])
def test_a_release_with_a_service_that_dies_is_taken_back_whole(settled: Deployed, service: str) -> None:
    images, release = settled.images(), settled.release()
    version = f"broken by the {service}"
    settled.write_version(version)
    broken = settled.astro.folder / "airflow_local_settings.py"
    broken.write_text(DYING.format(service=service))
    try:
        with Poller(settled.url) as poller:
            error = settled.deploy("--wait", "120", code=5)
    finally:
        broken.unlink()
    said = "\n".join((error["message"], *error["details"]))
    assert service in error["message"]
    assert "tripped over its own feet" in said, "the dead service's last lines are missing"
    assert f"release {release} runs again" in error["message"]
    assert settled.images() == images
    assert poller.failures == []
    assert settled.run() != f"{version} {version}"
    latest = settled.releases()[-1]
    assert (latest["result"], latest["id"]) == ("failed", settled.releases()[-2]["id"] + 1)


def test_a_gate_that_refuses_changes_nothing_on_the_host(settled: Deployed) -> None:
    before, objects, listed = settled.containers(), settled.objects(), settled.releases()
    settled.astro.write("dags/wrong.py", "import nothing_of_that_name\n")
    try:
        error = settled.deploy(code=6)
    finally:
        (settled.astro.folder / "dags/wrong.py").unlink()
    assert "nothing_of_that_name" in "\n".join(error["details"])
    settled.astro.write("tests/test_wrong.py", "def test_wrong():\n    assert 1 == 2\n")
    try:
        error = settled.deploy("--pytest", code=6)
    finally:
        (settled.astro.folder / "tests/test_wrong.py").unlink()
    assert "assert 1 == 2" in "\n".join(error["details"])
    settled.write_version("dirty")
    assert "dags/slow.py" in "\n".join(settled.deploy("--require-clean", code=6)["details"])
    assert (settled.containers(), settled.objects(), settled.releases()) == (before, objects, listed)


class Running:
    """A deploy that goes on while the test looks at what it says."""

    def __init__(self, live: Deployed, *args: str) -> None:
        self.process = live.astro.spawn("deploy", NAME, *args)
        self.said: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.put(line)
        self._lines.put(None)

    def until(self, text: str, seconds: float = 400) -> None:
        """Wait until a line with `text` appears."""
        end = time.monotonic() + seconds
        while not self.said or text not in self.said[-1]:
            line = self._lines.get(timeout=end - time.monotonic())
            assert line is not None, f"it ended before `{text}`:\n{''.join(self.said)}"
            self.said.append(line)

    def end(self, seconds: float = 400) -> int:
        """Wait for its end; returns the exit code."""
        code = self.process.wait(seconds)
        while (line := self._lines.get(timeout=60)) is not None:
            self.said.append(line)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return code

    def kill(self) -> None:
        """As the kernel does when memory is short."""
        self.process.send_signal(signal.SIGKILL)
        self.end()


STEPS = ("copy the image", "roll: api-server", "verify")


@pytest.mark.long
def test_a_deploy_that_is_killed_at_any_step_is_finished_by_the_next(settled: Deployed) -> None:
    settled.write_version("finished")
    taken_over = False
    for step in STEPS:
        running = Running(settled)
        running.until(step)
        running.kill()
        assert taken_over == ("takes over" in "".join(running.said)), "".join(running.said)
        assert not wait_for_no_ssh(settled.host)
        told = settled.astro.json("deployment", "ps", NAME)
        taken_over = bool(told["locked_by"])
    told_last = settled.astro("deploy", NAME)
    assert "takes over" in told_last.stderr
    assert settled.run() == "finished finished"
    assert settled.step() == ""
    assert len(settled.images()) == 1


def test_a_deploy_that_is_killed_can_be_undone_by_a_rollback(settled: Deployed) -> None:
    images, before = settled.images(), settled.run()
    settled.write_version("undone")
    running = Running(settled)
    running.until("roll: scheduler")
    running.kill()
    settled.astro("deployment", "rollback")
    assert settled.images() == images
    assert settled.run() == before
    assert settled.step() == ""


def test_ctrl_c_brings_the_running_release_back(settled: Deployed) -> None:
    images = settled.images()
    settled.write_version("interrupted")
    running = Running(settled)
    running.until("roll: scheduler")
    os.killpg(running.process.pid, signal.SIGINT)
    assert running.end() == 130, "".join(running.said)
    assert "runs again" in "".join(running.said)
    assert is_whole(settled, images)


@pytest.mark.long
def test_a_connection_that_is_lost_at_any_step_ends_in_a_sentence_and_the_next_deploy_goes_on(
    settled: Deployed,
) -> None:
    host = settled.host
    settled.write_version("connected")
    losses: list[tuple[str, Callable[[], None], Callable[[], None]]] = [
        ("copy the image", host.drop_sessions, lambda: None),
        ("roll: api-server", host.drop_sessions, lambda: None),
        ("roll: scheduler", host.cut, host.join),
    ]
    for step, lose, regain in losses:
        running = Running(settled)
        running.until(step)
        lose()
        try:
            code = running.end(150)
        finally:
            regain()
        said = "".join(running.said)
        assert code == 7, f"at `{step}`: {code}\n{said}"
        assert "error: " in said
        assert not wait_for_no_ssh(host)
    settled.deploy()
    assert settled.run() == "connected connected"
    assert settled.step() == ""


def wait_for_no_ssh(host: Host, seconds: float = 60) -> list[int]:
    """Connections that are left after a while."""
    end = time.monotonic() + seconds
    while (left := ssh_processes(host)) and time.monotonic() < end:
        time.sleep(0.2)
    return left


def test_of_two_deploys_at_once_one_wins_and_the_other_waits_or_says_so(settled: Deployed) -> None:
    releases = len(settled.releases())
    settled.write_version("winner")
    first = Running(settled)
    first.until("roll: api-server")
    first.process.send_signal(signal.SIGSTOP)  # or it might be done before the other has begun
    try:
        error = settled.deploy(code=8)
    finally:
        first.process.send_signal(signal.SIGCONT)
    assert "locked" in error["message"]
    assert "--lock-wait" in error["hint"]
    second = Running(settled, "--lock-wait", "600")
    assert first.end() == 0, "".join(first.said)
    assert second.end() == 0, "".join(second.said)
    assert len(settled.releases()) == releases + 1, "the second deployed the same once more"
    assert settled.run() == "winner winner"


@pytest.mark.long
def test_a_full_disk_on_the_host_is_named_and_the_running_release_stays(settled: Deployed) -> None:
    images, before = settled.images(), settled.containers()
    big = settled.astro.folder / "include/big.bin"
    big.write_bytes(os.urandom(80 << 20))
    settled.host.fill_disk(left=40 << 20)
    try:
        error = settled.deploy(code=1)
        assert "disk is full" in error["message"]
        assert settled.containers() == before
        assert is_whole(settled, images)
        settled.host.free_disk()
        settled.deploy()
        assert settled.images() != images
    finally:
        settled.host.free_disk()
        big.unlink()


@pytest.fixture(scope="module")
def registry(deployed_host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    """A registry on this machine with a password and a company's certificate, which both engines trust."""
    server = RegistryServer(
        tmp_path_factory.mktemp("registry"), address=deployed_host.machine_address, password=True, tls=True
    )
    assert server.certificate is not None
    here = Path("/etc/docker/certs.d", server.host)
    here.mkdir(parents=True)
    (here / "ca.crt").write_bytes(server.certificate.read_bytes())
    deployed_host.trust(server.host, server.certificate.read_text())
    with server:
        yield server
    (here / "ca.crt").unlink()
    here.rmdir()


@pytest.fixture
def pushed(settled: Deployed, registry: RegistryServer) -> Iterator[Deployed]:
    """The deployment with its images in a registry."""
    configuration = settled.astro.folder / ".astro/config.yaml"
    text = configuration.read_text()
    secrets = "    secrets:"
    configuration.write_text(text.replace(secrets, f"    registry: {registry.host}/team/shop\n{secrets}"))
    assert registry.certificate is not None
    environ = {
        **settled.astro.environ, "ASTRO_REGISTRY_USERNAME": USER, "ASTRO_REGISTRY_PASSWORD": PASSWORD,
    }  # fmt: skip
    yield Deployed(
        Astro(settled.astro.folder, environ), settled.host, password=settled.password, first=settled.first
    )
    configuration.write_text(text)


@pytest.mark.long
def test_a_registry_that_refuses_or_vanishes_changes_nothing_on_the_host(
    pushed: Deployed, registry: RegistryServer
) -> None:
    before, objects, listed = pushed.containers(), pushed.objects(), pushed.releases()
    pushed.write_version("refused")
    wrong = Astro(pushed.astro.folder, {**pushed.astro.environ, "ASTRO_REGISTRY_PASSWORD": "wrong"})
    error = wrong.json("deploy", NAME, code=7)
    assert registry.host in error["message"]
    assert "login" in error["hint"] or "ASTRO_REGISTRY_PASSWORD" in error["hint"]
    running = Running(pushed)
    running.until("push to")
    registry.stop()
    try:
        assert running.end() == 7, "".join(running.said)
    finally:
        registry.start()
    assert (pushed.containers(), pushed.objects(), pushed.releases()) == (before, objects, listed)


@pytest.mark.long
def test_a_second_push_sends_no_more_than_the_changed_layer(
    pushed: Deployed, registry: RegistryServer
) -> None:
    began = time.time()
    pushed.write_version(f"first push {began}")
    pushed.deploy()
    stored = _size(registry.data)
    pushed.write_version("second push")
    pushed.deploy()
    for image in pushed.images():
        assert image.startswith(f"{registry.host}/team/shop:")
        assert "@sha256:" in image
    assert 0 < _size(registry.data) - stored < 100_000
    assert pushed.run() == "second push second push"


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
