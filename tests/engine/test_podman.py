"""One sandbox on Podman, by its Docker-compatible socket: what a user of it does first, for real."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker
import pytest

from tests.engine.astro import Astro, environment, run_dag, wait_for, wait_for_dag

if TYPE_CHECKING:
    from collections.abc import Iterator

BASE = "debian:trixie-slim"
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


def have_podman() -> bool:
    if shutil.which("podman") is None and os.getuid() == 0 and shutil.which("apt-get"):
        install = ["apt-get", "install", "-qy", "podman"]
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(install, env=quiet, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    return shutil.which("podman") is not None


@pytest.fixture(scope="module")
def podman(engine_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Podman service of root's, with the base image and nothing else."""
    if os.getuid() != 0 or not have_podman():
        pytest.skip("there is no podman here, and only root on Debian can install it")
    folder = tmp_path_factory.mktemp("podman")
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
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        "CONTAINERS_CONF": str(folder / "containers.conf"),
        "TMPDIR": str(folder),
    }
    words = ["podman", "--cgroup-manager=cgroupfs", "--events-backend=file"]
    with (folder / "log").open("w") as log:
        service = subprocess.Popen(
            [*words, "system", "service", "--time=0", address], env=environ, stdout=log, stderr=log
        )
    try:
        wait_for(
            lambda: (folder / "podman.sock").exists() or service.poll() is not None,
            lambda: (folder / "log").read_text(),
        )
        copy_base_image(engine_url, address)
        yield address
    finally:
        subprocess.run([*words, "rmi", "--all", "--force"], env=environ, capture_output=True, check=False)
        service.terminate()
        service.wait(60)
        places = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for place in sorted((each for each in places if each.startswith(f"{folder}/")), reverse=True):
            subprocess.run(["umount", "--lazy", place], capture_output=True, check=False)
        shutil.rmtree(folder, ignore_errors=True)


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
def test_a_sandbox_lives_on_podman_and_leaves_nothing(podman: str, tmp_path: Path):
    environ = environment(tmp_path / "home", podman)
    Path(environ["HOME"]).mkdir()
    Astro(tmp_path, environ)("airflow", "init", "shop")
    shop = Astro(tmp_path / "shop", environ)
    shop.write("dags/writer.py", WRITER)
    for path in (shop.folder, *shop.folder.rglob("*")):
        os.chown(path, OWNER, OWNER)
    wait_for(lambda: "Podman " in shop("doctor", code=None).stdout)  # it gives an engine six seconds
    client = docker.DockerClient(base_url=podman, timeout=120)
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
        assert shop("airflow", "bash", input="id -u; exit 5\n", code=5).stdout.strip() == str(OWNER)
        shop("airflow", "restart", "scheduler")
        shop("airflow", "stop")
        assert shop.json("airflow", "ps")["state"] == "stopped"
        shop.start()
        shop.wait_until_healthy()
        for container in client.containers.list(filters={"label": f"astro.path={shop.folder}"}):
            assert not container.attrs["HostConfig"]["CapAdd"]
            assert not container.attrs["Config"]["User"].startswith("0")
    finally:
        shop("airflow", "kill", "--yes", code=None)
        left = made_on(client, shop)
        client.close()
    assert left == []
