"""What happens to the engine itself under a running sandbox: on one of our own, which other tests do not share."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import docker
import pytest

from astro_cli.domain.airflow import DEFAULT_VERSION
from astro_cli.domain.image import engine_image, postgres_image
from tests.deploy.host import Host, missing
from tests.engine.astro import COMMAND, Astro, environment, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A Docker engine that tests may stop."""
    if reason := missing():
        pytest.skip(reason)
    host = Host(tmp_path_factory.mktemp("host"))
    yield host
    host.close()


@pytest.fixture(scope="module")
def shop(host: Host, engine_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Astro]:
    """A sandbox on it; astro runs in its network, where the ports are."""
    parent = Path(tempfile.mkdtemp(prefix="astro-test-", dir="/var/lib"))  # what both file systems have
    parent.chmod(0o755)
    home = tmp_path_factory.mktemp("home")
    here = Astro(parent, environment(home, engine_url))
    here("airflow", "init", "shop")
    Astro(parent / "shop", here.environ)("airflow", "build")
    giver = docker.DockerClient(base_url=engine_url, timeout=600)
    with host.engine() as taker:
        taker.api.timeout = 600
        for name in (engine_image(DEFAULT_VERSION), postgres_image(DEFAULT_VERSION)):
            taker.images.load(giver.images.get(name).save(named=name))
    giver.close()
    inside = ("nsenter", f"--net={host.root.parent / 'ns/net'}")
    shop = Astro(parent / "shop", environment(home, host.docker_host), (*inside, *COMMAND))
    try:
        shop.start()
        yield shop
    finally:
        Astro(parent / "shop", here.environ)("airflow", "kill", "--yes", code=None)
        shutil.rmtree(parent)


def runs(shop: Astro) -> list[str]:
    """How the runs in the history ended, the newest first, once there is one more."""

    def states() -> list[str]:
        told = shop("airflow", "runs", "hello_astro", "--json", code=None).stdout
        data = json.loads(told).get("data") or {"runs": [{"state": "unknown"}]}
        return [run["state"] for run in data["runs"]]

    shop("airflow", "trigger", "hello_astro")
    wait_for(lambda: set(states()) <= {"success", "failed"}, states, seconds=600)
    return states()


@pytest.mark.long
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["in order", "killed"])
def test_an_engine_that_comes_back_has_the_sandbox_and_its_history(
    shop: Astro, host: Host, how: signal.Signals
):
    before = runs(shop)
    if how is signal.SIGTERM:
        host.stop_engine()
    else:
        for pid in host.processes("dockerd"):
            os.kill(pid, how)
    assert "error: " in shop("airflow", "ps", code=4).stderr
    assert "error: " in shop("airflow", "start", "--no-browser", code=4).stderr
    host.start_engine()
    shop("airflow", "ps")
    shop.start()
    shop.wait_until_healthy()
    assert runs(shop) == ["success", *before]


@pytest.mark.long
def test_a_full_disk_of_the_engine_is_a_sentence_and_nothing_is_lost(shop: Astro, host: Host):
    before = runs(shop)
    shop("airflow", "stop")
    host.fill_disk(left=0)
    try:
        shop("airflow", "ps")
        refused = shop("airflow", "start", "--no-browser", "--wait", "90", code=None)
    finally:
        host.free_disk()
    assert refused.returncode in (1, 4, 5), refused.stderr
    assert "disk is full" in refused.stderr
    assert "hint: " in refused.stderr
    shop.start()
    shop.wait_until_healthy()
    assert runs(shop) == ["success", *before]


@pytest.mark.long
def test_a_disk_that_becomes_full_under_a_sandbox_loses_nothing(shop: Astro, host: Host):
    before = runs(shop)
    host.fill_disk(left=0)
    try:
        for command in ("ps", "logs", "top"):
            shop("airflow", command, code=None)
        shop("airflow", "trigger", "hello_astro", "--wait", "--timeout", "30", code=None)
    finally:
        host.free_disk()
    shop.start()
    shop.wait_until_healthy()
    assert runs(shop)[0] == "success"
    assert runs(shop)[-len(before) :] == before
