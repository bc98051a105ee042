"""`astro deploy --dags`: new DAGs in seconds, nothing restarted, runs finish on the code they began with."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.deploy.deployed import NAME

if TYPE_CHECKING:
    from tests.deploy.deployed import Deployed


def test_a_run_keeps_its_code_and_the_next_has_the_new_one(live: Deployed) -> None:
    live.write_version("A")
    live.deploy()
    before = live.containers()
    run = live.trigger(seconds=40)
    live.wait_for_task(run, "running")
    live.write_version("B")
    told = live.deploy("--dags")
    assert told["changed"]
    assert live.task(run)["state"] == "running", (
        "the run was over before its DAG was replaced: this shows nothing"
    )
    deadline = time.monotonic() + 30
    while (latest := live.run()) != "B B":
        assert time.monotonic() < deadline, latest
    assert live.wait_for_run(run) == "success"
    assert live.result(run) == "A A"
    assert live.containers() == before
    assert live.deploy("--dags")["changed"] is False
    assert live.deploy()["changed"] is False, "the image is the old one, and the DAGs in use are not its"


def test_dags_that_do_not_parse_are_refused_and_a_rollback_brings_the_last_ones(live: Deployed) -> None:
    live.write_version("good")
    live.deploy("--dags")
    live.write_version("better")
    live.deploy("--dags")
    before, listed = live.containers(), live.releases()
    live.astro.write("dags/wrong.py", "import nothing_of_that_name\n")
    try:
        error = live.deploy("--dags", code=6)
    finally:
        (live.astro.folder / "dags/wrong.py").unlink()
    assert "nothing_of_that_name" in "\n".join(error["details"])
    assert live.releases() == listed
    live.astro("deployment", "rollback", "--of", NAME)
    deadline = time.monotonic() + 30
    while (latest := live.run()) != "good good":
        assert time.monotonic() < deadline, latest
    assert live.containers() == before


def test_a_removed_dag_vanishes_and_ignored_files_stay_here(live: Deployed) -> None:
    live.astro.write(
        "dags/extra.py", (live.astro.folder / "dags/slow.py").read_text().replace("slow", "extra")
    )
    live.astro.write("dags/draft.py", "raise SystemExit\n")
    live.astro.write(".deployignore", "dags/draft.py\n")
    try:
        live.deploy("--dags")
        live.wait_for_dags({"slow", "extra"})
        (live.astro.folder / "dags/extra.py").unlink()
        live.deploy("--dags")
        live.wait_for_dags({"slow"})
    finally:
        (live.astro.folder / "dags/draft.py").unlink()
        (live.astro.folder / ".deployignore").unlink()
        (live.astro.folder / "dags/extra.py").unlink(missing_ok=True)
