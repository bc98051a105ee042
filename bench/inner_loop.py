"""Measures parse, test and watch against Airflow's own commands, and snapshots, on this machine, in one run.

    python bench/inner_loop.py [--rounds 3] [--json FILE]

One sandbox, one DAG of two tasks. Airflow's own commands run in the same sandbox through `astro airflow run`, so
that both sides pay the same for the way into the container. Rounds alternate. Needs a Docker engine; the images
are built first if they are missing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
from project import ASTRO, BenchProject

DAG = """
from airflow.sdk import dag, task

@dag(schedule=None)
def {name}():
    @task
    def one():
        return 1

    @task
    def two(number):
        return number + 1

    two(one())

{name}()
"""


class Bench(BenchProject):
    """A running sandbox with one DAG of two tasks."""

    def __init__(self) -> None:
        super().__init__()
        for file in (self.project / "dags").iterdir():
            file.unlink()
        self.write("pair", "pair")

    def write(self, file: str, name: str) -> None:
        """A DAG file."""
        (self.project / f"dags/{file}.py").write_text(DAG.format(name=name))

    def visible(self, url: str, name: str) -> float:
        """Seconds until the API shows a DAG."""
        began = time.monotonic()
        while httpx.get(f"{url}/api/v2/dags/{name}", trust_env=False).status_code != 200:
            if time.monotonic() - began > 120:
                raise SystemExit(f"{name} did not become visible")
            time.sleep(0.05)
        return time.monotonic() - began

    def saves(self, url: str, rounds: int) -> dict[str, list[float]]:
        """Seconds from a save to the API, with `watch` running."""
        watch = subprocess.Popen(
            [*ASTRO, "airflow", "watch"], cwd=self.project, env=self.environ, stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert watch.stderr is not None
        while "watching" not in watch.stderr.readline():
            pass
        time.sleep(2)
        new, edit = [], []
        for number in range(rounds):
            self.write(f"new_{number}", f"new_{number}")
            new.append(self.visible(url, f"new_{number}"))
            time.sleep(3)
            self.write(f"new_{number}", f"edited_{number}")
            edit.append(self.visible(url, f"edited_{number}"))
            time.sleep(3)
        watch.send_signal(signal.SIGINT)
        watch.communicate()
        return {"new": new, "edit": edit}


def snapshots(bench: Bench, rounds: int) -> dict[str, list[float]]:
    """Seconds to save and to restore the database of the default project, the whole command."""
    seconds: dict[str, list[float]] = {"save": [], "restore": []}
    for number in range(rounds):
        for command, taken in seconds.items():
            taken.append(bench.astro("airflow", "snapshot", command, f"round-{number}")[0])
    return seconds


def ratio(ours: list[float], plain: list[float]) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(ours, plain, strict=True))


def measure(bench: Bench, rounds: int) -> dict[str, Any]:
    """Every figure, in seconds unless the name says otherwise."""
    print("starting…", file=sys.stderr)
    url = json.loads(bench.astro("start", "--no-browser", "--wait", "600", "--json")[1])["data"]["url"]
    first = {name: bench.astro("airflow", *args)[0] for name, args in COMMANDS.items()}
    ours: dict[str, list[float]] = {name: [] for name in COMMANDS}
    plain: dict[str, list[float]] = {name: [] for name in PLAIN}
    imports = []
    for number in range(rounds):
        for name, args in PLAIN.items():
            plain[name].append(bench.astro("airflow", "run", *args)[0])
        for name, args in COMMANDS.items():
            ours[name].append(bench.astro("airflow", *args)[0])
        imports.append(json.loads(bench.astro("airflow", "parse", "--json")[1])["data"]["seconds"])
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    databases = snapshots(bench, rounds)
    saves = bench.saves(url, rounds)
    return {
        "first request, which warms up": first,
        "astro": ours,
        "parse, inside the runner": imports,
        "airflow": plain,
        "ratio": {name: ratio(ours[name], plain[name]) for name in PLAIN},
        "ratio of parse inside the runner": ratio(imports, plain["parse"]),
        "save to API": saves,
        "snapshot": databases,
        "machine": {"cpus": os.cpu_count(), "load": os.getloadavg()[0]},
    }


COMMANDS = {
    "parse": ("parse", "dags/pair.py"),
    "test": ("test", "pair"),
}
PLAIN = {"parse": ("dags", "list-import-errors"), "test": ("dags", "test", "pair")}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    bench = Bench()
    try:
        figures = measure(bench, options.rounds)
    finally:
        bench.clean()
    print(json.dumps(figures, indent=2))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
