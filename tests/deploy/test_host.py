"""The second host is what deploy tests rely on: it must work, break as asked, and vanish."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import docker

from tests.deploy.host import SSH_PORT, USER, poll, remove_leftovers

if TYPE_CHECKING:
    from tests.deploy.host import Host


def ssh(
    host: Host, command: str = "true", login: str = "login", seconds: int = 30
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ssh", "-F", host.folder / login / "config", "-o", f"ConnectTimeout={seconds}", "-o", "BatchMode=yes",
         "-p", str(SSH_PORT), f"{USER}@{host.address}", command],
        text=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=120,
    )  # fmt: skip


def _addresses() -> str:
    return subprocess.run(["ip", "address"], check=True, text=True, capture_output=True).stdout


def test_it_is_another_machine_with_a_user_who_may_use_its_engine(host: Host) -> None:
    told = ssh(
        host, "hostname; id -un; id -Gn; ls /tmp /home; test -w /var/run/docker.sock && echo may use docker"
    )
    assert told.stdout.split("\n")[:3] == [host.name, USER, f"{USER} docker"], told.stderr
    assert "may use docker" in told.stdout
    assert host.folder.parts[2] not in told.stdout, "it sees this machine's /tmp"


def test_it_has_an_engine_of_its_own(host: Host, engine_url: str) -> None:
    here = docker.DockerClient(base_url=engine_url, timeout=60)
    with contextlib.closing(here), host.engine() as there:
        assert here.info()["ID"] != there.info()["ID"]
        volume = here.volumes.create(labels={"astro.test": "host"})
        try:
            assert volume.name not in {each.name for each in there.volumes.list()}
        finally:
            volume.remove()


def test_only_the_right_key_and_a_known_host_get_in(host: Host, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    host.login("stranger", key=tmp_path / "key")
    host.login("never-seen", known_hosts="")
    assert ssh(host).returncode == 0
    assert "Permission denied" in ssh(host, login="stranger").stderr
    assert "Host key verification failed" in ssh(host, login="never-seen").stderr


def test_it_can_be_cut_off_and_come_back(host: Host) -> None:
    host.cut()
    assert "timed out" in ssh(host, seconds=2).stderr
    host.join()
    host.stop_sshd()
    assert "Connection refused" in ssh(host).stderr
    host.start_sshd()
    assert ssh(host).returncode == 0


def test_its_connections_can_be_dropped(host: Host) -> None:
    session = subprocess.Popen(
        ["ssh", "-F", host.folder / "login/config", "-p", str(SSH_PORT), f"{USER}@{host.address}",
         "echo here; sleep 60"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert session.stdout is not None
    assert session.stdout.readline() == "here\n"
    host.drop_sessions()
    assert session.wait(timeout=60) == 255
    session.stdout.close()
    assert ssh(host).returncode == 0


def test_its_disk_can_fill_up_and_be_freed(host: Host) -> None:
    write = ("dd", "if=/dev/zero", "of=/mnt/ballast", "bs=1M", "count=4")
    host.fill_disk(left=1 << 20)
    assert "No space left" in host.run(*write, check=False).stderr
    host.free_disk()
    assert host.run(*write, check=False).returncode == 0
    host.run("rm", "/mnt/ballast")


def test_its_engine_can_restart(host: Host) -> None:
    before = host.processes("dockerd")
    host.stop_engine()
    assert not host.engine_answers()
    host.start_engine()
    assert host.processes("dockerd") != before


def test_a_host_whose_maker_was_killed_leaves_nothing(host: Host) -> None:
    maker = subprocess.Popen(
        [sys.executable, "-m", "tests.deploy.host"], stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert maker.stdout is not None
    try:
        told = dict(maker.stdout.readline().removeprefix("export ").strip().split("=", 1) for _ in range(5))
        fresh = docker.DockerClient(base_url=told["HOST_DOCKER"], timeout=60)
        with contextlib.closing(fresh):
            assert not fresh.images.list(), "its engine is blank at first"
    finally:
        maker.kill()
        maker.wait()
        maker.stdout.close()
    assert told["HOST_ADDRESS"] != host.address
    remove_leftovers()
    assert not list(Path("/sys/fs/cgroup").glob(f"**/astro-host-{maker.pid}"))
    poll(lambda: told["MACHINE_ADDRESS"] not in _addresses(), "the end of its network link")
