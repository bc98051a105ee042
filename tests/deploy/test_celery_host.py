"""Celery's workers on a single host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.deploy import deployed
from tests.deploy.deployed import NAME

if TYPE_CHECKING:
    from pathlib import Path

    from tests.deploy.host import Host

WORKERS = "    executor: celery\n    workers: {worker: {count: 2, concurrency: 2}}\n"


@pytest.mark.long
def test_workers_finish_their_tasks_and_come_and_go_with_releases(
    host: Host, engine_url: str, tmp_path: Path
):
    live = deployed.first(tmp_path, host, engine_url, WORKERS)
    assert live.run() == "v1 v1"
    run = live.trigger(seconds=90)
    live.wait_for_task(run, "running")
    live.write_version("v2")
    live.deploy("--wait", "600")
    assert live.wait_for_run(run) == "success", live.story(run)
    assert (live.task(run)["try_number"], live.result(run)) == (1, "v1 v1")
    assert "sleeping 90" in live.story(run), "its log is gone with its worker"

    configuration = live.astro.folder / ".astro/config.yaml"
    with_workers = configuration.read_text()
    configuration.write_text(with_workers.replace(WORKERS, ""))
    live.deploy("--wait", "600")
    assert not {"worker", "broker"} & set(live.services())
    assert live.run() == "v2 v2"

    live.astro("deployment", "rollback", NAME, "--wait", "600")
    assert {"worker", "broker"} <= set(live.services())
    assert live.run() == "v2 v2"
    live.astro("deployment", "destroy", NAME, "--yes")
    with host.engine() as engine:
        assert engine.volumes.list() == []
