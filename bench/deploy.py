"""Measures deploys to a second host on this machine: bytes, seconds, and requests that fail meanwhile.

    python bench/deploy.py [--rounds 3] [--json FILE]

The host is the one of the tests (tests/deploy/host.py): root on Debian, with the packages that scripts/test
installs, and a Docker engine here (`DOCKER_HOST`). Images travel through the SSH connection; what a registry is
sent is the subject of tests/deploy/test_failures.py.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import httpx

from tests.deploy.deployed import NAME, Deployed, Poller, first
from tests.deploy.host import Host, missing

if TYPE_CHECKING:
    from collections.abc import Callable

DAG_SECONDS = 60.0


class Bench:
    """One project, deployed once."""

    def __init__(self, folder: Path, host: Host) -> None:
        self.rounds: dict[str, list[float]] = {}
        began = time.monotonic()
        self.live: Deployed = first(folder, host, os.environ["DOCKER_HOST"])
        self.note("first deploy, s", time.monotonic() - began)
        self._number = 0

    def note(self, name: str, value: float) -> None:
        """Keep one figure."""
        self.rounds.setdefault(name, []).append(round(value, 2))
        print(f"  {name}: {value:.2f}", file=sys.stderr)

    def timed(self, name: str, action: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever the action returns
        """Keep the seconds of an action."""
        began = time.monotonic()
        result = action()
        self.note(name, time.monotonic() - began)
        return result

    def change(self) -> None:
        """Let the DAG be another one."""
        self._number += 1
        self.live.write_version(f"bench-{self._number}")

    def nothing_changed(self) -> None:
        """`astro deploy` of what runs already."""
        self.timed("nothing changed, s", self.live.deploy)

    def roll(self) -> None:
        """A DAG-only change through an image, watched from outside."""
        self.change()
        with Poller(self.live.url) as poller:
            done = self.timed(
                "DAG change through an image, s", lambda: self.live.astro("deploy", NAME, "--verbose")
            )
        said = [line for line in done.stderr.splitlines() if "sent " in line]
        self.note("DAG change through an image, bytes over SSH", float(said[-1].split("sent ")[1].split()[0]))
        self.note("requests during the roll", poller.requests)
        self.note("failed requests during the roll", len(poller.failures))
        self.note("slowest request during the roll, s", poller.slowest)

    def dags(self) -> None:
        """`astro deploy --dags`: from the command's beginning until the API knows the new DAG."""
        self._number += 1
        name = f"bench_{self._number}"
        source = (self.live.astro.folder / "dags/slow.py").read_text()
        self.live.astro.write(f"dags/{name}.py", source.replace("slow", name))
        began = time.monotonic()
        process = self.live.astro.spawn("deploy", NAME, "--dags")
        while not self._knows(name):
            if time.monotonic() - began > DAG_SECONDS:
                raise SystemExit(
                    f"the DAG {name} is not visible after {DAG_SECONDS:.0f} s: {process.communicate()}"
                )
            time.sleep(0.05)
        self.note("--dags, seconds to visible", time.monotonic() - began)
        process.communicate()
        self.note("--dags, seconds to the end of the command", time.monotonic() - began)

    def _knows(self, dag_id: str) -> bool:
        try:
            self.live.request("GET", f"/api/v2/dags/{dag_id}")
        except httpx.HTTPStatusError:
            return False
        return True


def main() -> None:
    """Run the rounds, print medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if reason := missing():
        raise SystemExit(reason)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="astro-bench-")))
        (folder / "host").mkdir()
        host = Host(folder / "host")
        stack.callback(host.close)
        bench = Bench(folder, host)
        for _ in range(options.rounds):
            bench.dags()
            bench.roll()  # after `--dags` the image is behind, so only now is there nothing to change
            bench.nothing_changed()
        load = os.getloadavg()
    for name, values in bench.rounds.items():
        print(f"{name:<46} {statistics.median(values):>12.2f}   of {values}")
    print(f"{os.cpu_count()} cores, load {load[0]:.1f}")
    if options.json:
        options.json.write_text(json.dumps(bench.rounds, indent=2) + "\n")


if __name__ == "__main__":
    main()
