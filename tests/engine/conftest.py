"""Tests in this folder talk to a real Docker engine, and leave nothing behind on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder, so that `-m "not engine"` leaves them out."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.engine)


@pytest.fixture(autouse=True)
def docker_host(home: Path, engine_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """DOCKER_HOST is what a user would have set; `home` has cleared it for every other test."""
    monkeypatch.setenv("DOCKER_HOST", engine_url)
    return engine_url


@pytest.fixture
def client(engine_url: str) -> Iterator[Any]:
    """The SDK's, to see what astro has made and to break it."""
    found = docker.DockerClient(base_url=engine_url, timeout=60)
    yield found
    found.close()


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_behind(engine_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whatever this run's sandboxes made on the engine must be gone after the last test."""
    before = _sandbox_objects(engine_url)
    yield
    # A neighbour's sandbox may have come up meanwhile: where a path is recorded, only ours count.
    ours = str(tmp_path_factory.getbasetemp())
    left = {
        what: path
        for what, path in _sandbox_objects(engine_url).items()
        if what not in before and (not path or path.startswith(ours))
    }
    assert not left, f"left behind on the engine: {', '.join(sorted(left))}"


def _sandbox_objects(url: str) -> dict[str, str]:
    """Everything that carries the label `astro.sandbox`, with the project folder from `astro.path`."""
    client = docker.DockerClient(base_url=url, timeout=60)
    labelled = {"label": "astro.sandbox"}
    found: dict[str, str] = {}
    try:
        for container in client.containers.list(all=True, filters=labelled, ignore_removed=True):
            found[f"container {container.name}"] = container.labels.get("astro.path", "")
        for volume in client.volumes.list(filters=labelled):
            found[f"volume {volume.name}"] = (volume.attrs["Labels"] or {}).get("astro.path", "")
        for network in client.networks.list(filters=labelled):
            found[f"network {network.name}"] = (network.attrs["Labels"] or {}).get("astro.path", "")
        # As listed: to inspect each of them fails when a neighbour's goes meanwhile.
        for image in client.api.images(filters=labelled):
            name = ", ".join(image["RepoTags"] or [image["Id"]])
            found[f"image {name}"] = (image["Labels"] or {}).get("astro.path", "")
    finally:
        client.close()
    return found
