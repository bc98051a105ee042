"""Tests in this folder deploy to a real Kubernetes that is made on this machine; see `lab.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.kubernetes import live as lives
from tests.kubernetes.lab import Lab, missing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.kubernetes.live import Live


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A cluster of two nodes, and a registry; Kubernetes is built if it was not yet."""
    if reason := missing():
        pytest.skip(reason)
    made = Lab(tmp_path_factory.mktemp("lab"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def live(lab: Lab, engine_url: str, tmp_path_factory: pytest.TempPathFactory) -> Live:
    """A project whose first version is deployed with KubernetesExecutor. Tests leave it healthy, in any version."""
    return lives.first(tmp_path_factory.mktemp("live"), lab, engine_url)


@pytest.fixture
def bare(lab: Lab, engine_url: str, tmp_path: Path) -> Live:
    """A project that is not deployed, and has a namespace of its own to be deployed to."""
    made = lives.prepare(tmp_path, lab, engine_url, "namespace: bare")
    made.namespace = "bare"
    return made
