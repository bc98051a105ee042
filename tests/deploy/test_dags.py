"""What of the project's files `astro deploy --dags` takes along."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.deploy.deployed import Deployed


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
