"""`clean` on a real engine: what is left of a project that is gone goes, and nothing beside it."""

from __future__ import annotations

import io
import os
import secrets
import tarfile
from contextlib import suppress
from typing import TYPE_CHECKING

import docker
import docker.errors

from astro_cli.domain.settings import load_settings
from astro_cli.foundation import labels
from astro_cli.runtime.docker import DockerEngine
from astro_cli.workflows.doctor import CHECKS, Place, examine
from astro_cli.workflows.leftovers import Leftovers
from tests.fakes import SilentReport

if TYPE_CHECKING:
    from pathlib import Path


def test_volume_and_image_of_a_project_that_is_gone_are_removed_and_others_stay(
    docker_host: str, tmp_path: Path
):
    mine, gone = secrets.token_hex(5), str(tmp_path / "gone")
    marks = {labels.SANDBOX: mine, labels.PATH: gone, labels.NAME: "shop", labels.INPUTS_HASH: "x"}
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("nothing"))
    client = docker.DockerClient(base_url=docker_host)
    engine = DockerEngine({"DOCKER_HOST": docker_host}, lambda: load_settings({}, project_root=None))
    volume, theirs = f"astro-{mine}-database", f"theirs-{mine}"
    told = client.api.import_image_from_data(
        content.getvalue(), changes=[f"LABEL {name}={value}" for name, value in marks.items()]
    )
    image = told.split('"status":"')[1].split('"')[0]
    try:
        client.volumes.create(volume, labels=marks)
        client.volumes.create(theirs)

        def left() -> list[str]:
            looking = Leftovers(engine.reader, lambda: engine.api, (engine,), SilentReport())
            found[:] = [each for each in looking.find() if gone in each.why or image[7:19] in each.name]
            return sorted(each.kind for each in found)

        found: list = []
        assert left() == ["image", "sandbox"]
        for each in found:
            each.remove()
        assert left() == []
        names = {each.name for each in client.volumes.list()}
        assert volume not in names
        assert theirs in names
    finally:
        for name in (volume, theirs):
            with suppress(docker.errors.NotFound):
                client.volumes.get(name).remove()
        with suppress(docker.errors.ImageNotFound):
            client.images.remove(image)
        client.close()


def test_the_checks_of_the_engine_find_it_well(docker_host: str, tmp_path: Path):
    place = Place({**os.environ, "DOCKER_HOST": docker_host}, tmp_path)
    found = examine(
        place, [check for check in CHECKS if check[0] in ("engine", "clock", "resources")], seconds=30
    )
    assert {each.check for each in found} >= {"engine", "clock", "memory", "disk"}
    assert {each.level for each in found if each.check in ("engine", "clock")} == {"ok"}
