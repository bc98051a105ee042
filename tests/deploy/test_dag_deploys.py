"""`astro deploy --dags` on the second host: new DAGs for new runs, and nothing restarts."""

from __future__ import annotations

import time

import httpx
import pytest

from tests.deploy.deployed import Deployed
from tests.deploy.host import poll

SEEN_SECONDS = 60.0  # from the command's end to the API, on a busy machine; bench/deploy.py has the figure


def bundle_version(live: Deployed) -> str:
    return str(live.request("GET", "/api/v2/dags/slow")["bundle_version"])


def test_a_run_keeps_its_dags_the_next_has_the_new_ones_and_a_rollback_brings_the_old_ones_back(
    live: Deployed,
):
    first = live.take_back()
    live.deploy()
    assert live.run() == f"{first} {first}"
    before, old = live.containers(), bundle_version(live)
    in_flight = live.trigger(600)
    live.wait_for_task(in_flight, "running")

    live.write_version("two")
    began = time.monotonic()
    told = live.deploy("--dags")
    took = time.monotonic() - began
    while bundle_version(live) == old:
        assert time.monotonic() - began - took < SEEN_SECONDS
        time.sleep(0.2)
    print(f"astro deploy --dags: {took:.1f} s, in the API {time.monotonic() - began - took:.1f} s later")
    assert told["changed"] is True
    assert live.task(in_flight)["state"] == "running"  # or the next lines prove nothing
    assert live.run() == "two two"
    live.let_go(in_flight)
    assert live.wait_for_run(in_flight) == "success"
    assert live.result(in_flight) == f"{first} {first}"

    live.astro("deployment", "rollback")
    poll(lambda: bundle_version(live) == old, "the DAGs of before", seconds=180)
    assert live.run() == f"{first} {first}"
    assert live.containers() == before
    newest = live.releases()[-2:]
    assert [release["id"] for release in newest] == [told["release"], told["release"] + 1]


def test_the_same_dags_again_change_nothing_and_say_so(live: Deployed):
    live.take_back()
    live.deploy()
    number = len(live.releases())
    told = live.deploy("--dags")
    assert told["changed"] is False
    assert len(live.releases()) == number


def test_dags_that_cannot_be_imported_are_refused_and_those_of_before_stay(live: Deployed):
    live.write_version("good")
    live.deploy("--dags")
    number = len(live.releases())
    live.astro.write("dags/broken.py", "import nothing_of_that_name\n")
    try:
        refused = live.deploy("--dags", code=6)
    finally:
        (live.astro.folder / "dags/broken.py").unlink()
    assert "broken.py" in " ".join(refused["details"])
    assert len(live.releases()) == number
    assert live.run() == "good good"


def test_dags_that_may_need_another_environment_are_refused_and_the_files_named(live: Deployed):
    live.write_version("good")
    live.deploy("--dags")
    before = bundle_version(live)
    live.astro.write("plugins/extra.py", "WORD = 1\n")
    live.write_version("better")
    try:
        refused = live.deploy("--dags", code=6)
    finally:
        (live.astro.folder / "plugins/extra.py").unlink()
    assert "plugins/extra.py" in refused["message"]
    assert bundle_version(live) == before


@pytest.mark.long
def test_a_restarted_service_has_the_dags_that_were_deployed_last(live: Deployed):
    live.write_version("last")
    live.deploy("--dags")
    with live.host.engine() as engine:
        for service in engine.services.list():
            if service.name.endswith(("-dag-processor", "-scheduler")):
                service.force_update()
    live.deploy()  # waits until all is well; a new image with the same DAGs
    assert live.run() == "last last"


def test_without_a_release_there_is_nothing_for_dags_to_join(live: Deployed):
    config = live.astro.folder / ".astro/config.yaml"
    text = config.read_text()
    config.write_text(text + f"  empty:\n    host: {live.host.url}\n    publish:\n      port: 8999\n")
    try:
        refused = live.astro.json("deploy", "empty", "--dags", code=2)
    finally:
        config.write_text(text)
    assert "no release there yet" in refused["message"]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://{live.host.address}:8999/", trust_env=False, timeout=3)
