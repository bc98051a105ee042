"""One sandbox on Podman, by its Docker-compatible socket: what a user of it does first, for real.

Once on root's Podman, and once on that of a user without privileges, who has in namespaces of its own what such a
user finds on a machine: an entry in `/etc/passwd`, identifiers for its containers, `/dev/net/tun` open to all.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker
import pytest

from tests.engine.astro import COMMAND, Astro, environment, run_dag, wait_for, wait_for_dag

if TYPE_CHECKING:
    from collections.abc import Iterator

BASE = "debian:trixie-slim"
PACKAGES = ("podman", "netavark", "aardvark-dns", "slirp4netns", "uidmap")
OWNER = 12345
WRITER = """
from airflow.sdk import dag, task

@dag(schedule=None, is_paused_upon_creation=False)
def writer():
    @task
    def write():
        with open("/opt/airflow/include/written.txt", "w") as file:
            file.write("by a task")
    write()

writer()
"""
# The user, and a way for it to our Python; nothing of this is seen, or left, outside.
NAMESPACE = f"""
set -e
mkdir $FOLDER/system
mount -t tmpfs tmpfs $FOLDER/system
cd $FOLDER/system
mkdir etc etc.work net home
mount -t overlay -o lowerdir=/etc,upperdir=etc,workdir=etc.work overlay /etc
echo "owner:x:{OWNER}:{OWNER}::$FOLDER:/bin/sh" >>/etc/passwd
echo "owner:x:{OWNER}:" >>/etc/group
echo "owner:700000:65536" | tee -a /etc/subuid >>/etc/subgid
mknod -m 0666 net/tun c 10 200
mount --bind net /dev/net
mount --bind /root home
mount -t tmpfs -o mode=0755 tmpfs /root
for place in $PLACES; do
  case $place in /root/*) mkdir -p $place && mount --bind home/${{place#/root/}} $place;; esac
done
mount --make-rshared /
echo ready
while :; do sleep 3600 & wait; done
"""


@dataclass(frozen=True)
class Podman:
    """A service of Podman's.

    Attributes:
        folder: where its user's home and project may be.
        within: begins a command that its user runs.
        uid: what tasks are in its containers.
    """

    address: str
    folder: Path
    within: tuple[str, ...] = ()
    uid: int = OWNER

    def astro(self, folder: Path) -> Astro:
        """`astro` of its user, in `folder`."""
        environ = environment(self.folder / "home", self.address)
        begin = (*self.within, "env", f"--chdir={folder}") if self.within else ()
        return Astro(folder, environ, (*begin, *COMMAND))


def have_podman() -> bool:
    needed = ("podman", "slirp4netns", "newuidmap")
    if os.getuid() == 0 and shutil.which("apt-get") and not all(map(shutil.which, needed)):
        install = ["apt-get", "install", "-qy", "--no-install-recommends", *PACKAGES]
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(install, env=quiet, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    return os.getuid() == 0 and all(map(shutil.which, needed))


@pytest.fixture(params=["rootful", "rootless"])
def podman(request: pytest.FixtureRequest, engine_url: str) -> Iterator[Podman]:
    """A service of root's, and one of a user's, with the base image and nothing else."""
    if not have_podman():
        pytest.skip("there is no podman here, and only root on Debian can install it")
    folder = Path(tempfile.mkdtemp(prefix="astro-podman-"))  # others cannot look into pytest's
    try:
        if request.param == "rootful":
            with served(folder) as address:
                copy_base_image(engine_url, address)
                yield Podman(address, folder)
        else:
            os.chown(folder, OWNER, OWNER)
            with user_of_its_own(folder) as within, served(folder, within) as address:
                copy_base_image(engine_url, address)
                yield Podman(address, folder, within, uid=0)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def user_of_its_own(folder: Path) -> Iterator[tuple[str, ...]]:
    """What begins a command of a user without privileges; when this ends, all that it has begun ends too."""
    places = (str(Path(__file__).parents[2]), sys.prefix, sys.base_prefix)
    first = subprocess.Popen(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", NAMESPACE],
        env={**os.environ, "FOLDER": str(folder), "PLACES": " ".join(places)},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "ready\n"
        (inner,) = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
        enter = ("nsenter", "--target", inner, "--mount", "--pid")
        user = ("setpriv", f"--reuid={OWNER}", f"--regid={OWNER}", "--init-groups", "--inh-caps=-all")
        yield (*enter, *user)
    finally:
        first.kill()
        first.communicate()


@contextmanager
def served(folder: Path, within: tuple[str, ...] = ()) -> Iterator[str]:
    """The address of a service whose images are in `folder`."""
    address = f"unix://{folder}/podman.sock"
    (folder / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/root"\nrunroot = "{folder}/run"\n'
    )
    # Podman asks for more files and processes than a container or a virtual machine may be allowed to give.
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    (folder / "containers.conf").write_text(
        f'[containers]\ndefault_ulimits = ["nofile={files}:{files}", "nproc=32768:32768"]\n'
    )
    environ = {
        **os.environ,
        "HOME": str(folder),
        "XDG_RUNTIME_DIR": str(folder),
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        "CONTAINERS_CONF": str(folder / "containers.conf"),
        "TMPDIR": str(folder),
    }
    words = [*within, "podman", "--cgroup-manager=cgroupfs", "--events-backend=file"]
    with (folder / "log").open("w") as log:
        service = subprocess.Popen(
            [*words, "system", "service", "--time=0", address], cwd="/", env=environ, stdout=log, stderr=log
        )
    try:
        wait_for(
            lambda: (folder / "podman.sock").exists() or service.poll() is not None,
            lambda: (folder / "log").read_text(),
        )
        yield address
    finally:
        subprocess.run([*words, "rmi", "--all", "--force"], env=environ, capture_output=True, check=False)
        service.terminate()
        service.wait(60)
        places = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for place in sorted((each for each in places if each.startswith(f"{folder}/")), reverse=True):
            subprocess.run(["umount", "--lazy", place], capture_output=True, check=False)


def copy_base_image(source: str, target: str) -> None:
    giver, taker = (docker.DockerClient(base_url=url, timeout=600) for url in (source, target))
    try:
        taker.images.load(giver.images.get(BASE).save(named=BASE))
    finally:
        giver.close()
        taker.close()


def made_on(client: Any, astro: Astro) -> list[str]:
    mine = {"label": f"astro.path={astro.folder}"}
    return [
        *(found.name for found in client.containers.list(all=True, filters=mine)),
        *(found.name for found in client.volumes.list(filters=mine)),
        *(found.name for found in client.networks.list(filters=mine)),
        *(found.short_id for found in client.images.list(filters=mine)),
    ]


@pytest.mark.long
def test_a_sandbox_lives_on_podman_and_leaves_nothing(podman: Podman):
    home, folder = podman.folder / "home", podman.folder / "projects"
    for made in (home, folder):
        made.mkdir()
        os.chown(made, OWNER, OWNER)
    podman.astro(folder)("airflow", "init", "shop")
    shop = podman.astro(folder / "shop")
    shop.write("dags/writer.py", WRITER)
    for path in (shop.folder, *shop.folder.rglob("*")):
        os.chown(path, OWNER, OWNER)
    wait_for(lambda: "Podman " in shop("doctor", code=None).stdout)  # it gives an engine six seconds
    client = docker.DockerClient(base_url=podman.address, timeout=120)
    try:
        url = shop.start()["url"]
        wait_for_dag(url, "writer")
        assert run_dag(url, "writer") == "success"
        written = shop.folder / "include/written.txt"
        assert written.read_text() == "by a task"
        assert written.stat().st_uid == OWNER, "a task's file belongs to the owner of the project"
        shop.wait_until_healthy()
        assert {line["service"] for line in shop.json("airflow", "logs")["lines"]} >= {
            "postgres",
            "scheduler",
        }
        assert shop("airflow", "bash", input="id -u; exit 5\n", code=5).stdout.strip() == str(podman.uid)
        shop("airflow", "restart", "scheduler")
        shop("airflow", "stop")
        assert shop.json("airflow", "ps")["state"] == "stopped"
        shop.start()
        shop.wait_until_healthy()
        for container in client.containers.list(filters={"label": f"astro.path={shop.folder}"}):
            assert not container.attrs["HostConfig"]["CapAdd"]
            assert podman.within or not container.attrs["Config"]["User"].startswith("0")
    finally:
        shop("airflow", "kill", "--yes", code=None)
        left = made_on(client, shop)
        client.close()
    assert left == []
