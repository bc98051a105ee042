"""Measures the standalone sandbox against `airflow standalone`, on this machine, in one run.

    python bench/standalone.py [--rounds 3] [--json FILE]

Both run in the very same Python environment, which astro makes, with the same project and the same parallelism, and
both are polled alike, at Airflow's health page, until every component is healthy. `airflow standalone` gets what it
had after its own first run: a database that is there already. Rounds alternate, so that a machine that slows down
slows both. Needs no Docker; with the package index or a full cache of uv the cold start is measured too.
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
from typing import TYPE_CHECKING, Any

import httpx
from project import ASTRO, BenchProject

from astro_cli.domain import airflow
from astro_cli.runtime.inside.processes import process_table, proportional_set_size

if TYPE_CHECKING:
    from collections.abc import Callable

PORT, PLAIN_PORT = 18081, 18080
PARALLELISM = 4
IDLE_SECONDS = 20.0
POLL_SECONDS = 0.1


class Bench(BenchProject):
    """The sandbox without Docker, and `airflow standalone` beside it."""

    def __init__(self) -> None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        super().__init__(
            UV_CACHE_DIR=os.environ.get("UV_CACHE_DIR") or str(cache / "uv"),
            ASTRO_ENGINE="standalone",
            ASTRO_SANDBOX_PARALLELISM=str(PARALLELISM),
        )

    @property
    def sandbox(self) -> Path:
        """The sandbox's private folder."""
        checkout = (self.project / ".astro/checkout").read_text(encoding="utf-8").strip()
        (found,) = (self.scratch / "home").glob(f"**/sandboxes/{checkout}/standalone")
        return found

    # our way

    def our_start(self, *, first: bool) -> tuple[float, float]:
        """Seconds until all is healthy, and until the command is through; with `first` without any history."""
        if first:
            self.astro("airflow", "kill", "--yes")
        began = time.monotonic()
        with subprocess.Popen(
            [*ASTRO, "airflow", "start", "--no-browser", "--port", str(PORT), "--wait", "300"],
            cwd=self.project,
            env=self.environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as command:
            healthy = until_healthy(PORT, began, lambda: command.poll() not in (None, 0))
            if command.wait() != 0:
                raise SystemExit("astro airflow start failed")
        return healthy, time.monotonic() - began

    def our_memory(self) -> int:
        """Bytes of all processes of the running sandbox."""
        kept = json.loads((self.sandbox / "supervisor.json").read_text(encoding="utf-8"))
        return memory_of(int(kept["pid"]))

    # the plain way

    def plain_start(self, *, measure: bool) -> tuple[float, int]:
        """`airflow standalone`: seconds until all is healthy, and bytes when idle (0 unless measured)."""
        environment = Path(
            json.loads((self.sandbox / "sandbox.json").read_text(encoding="utf-8"))["environment"]
        )
        home = self.scratch / "plain"
        home.mkdir(exist_ok=True)
        env = {
            **{name: value for name, value in self.environ.items() if not name.startswith("ASTRO")},
            "PATH": f"{environment}/bin{os.pathsep}{self.environ.get('PATH', os.defpath)}",
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.project / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PARALLELISM": str(PARALLELISM),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{PLAIN_PORT}/execution/",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(PLAIN_PORT),
            "AIRFLOW__API__WORKERS": "1",
        }
        began = time.monotonic()
        with (self.scratch / "plain.log").open("ab") as log:
            process = subprocess.Popen(
                [str(environment / "bin/airflow"), "standalone"],
                cwd=self.project,
                env=env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            healthy = until_healthy(PLAIN_PORT, began, lambda: process.poll() is not None)
            memory = 0
            if measure:
                time.sleep(IDLE_SECONDS)
                memory = memory_of(process.pid)
            return healthy, memory
        finally:
            end_tree(process)


def until_healthy(port: int, began: float, has_failed: Callable[[], bool], seconds: float = 300) -> float:
    """Seconds from `began` until all components of the Airflow at `port` say that they are healthy."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=2) as client:
        while time.monotonic() - began < seconds and not has_failed():
            try:
                told = client.get(airflow.HEALTH_PATH).json()
                if all(
                    told[name]["status"] == "healthy"
                    for name in ("metadatabase", "scheduler", "triggerer", "dag_processor")
                ):
                    return time.monotonic() - began
            except (httpx.HTTPError, ValueError, KeyError, TypeError):
                pass
            time.sleep(POLL_SECONDS)
    raise SystemExit(f"nothing healthy on port {port}")


def tree(root: int) -> list[int]:
    """A process and all its descendants."""
    table = process_table()
    found = {root}
    while more := {pid for pid, (parent, _) in table.items() if parent in found} - found:
        found |= more
    return sorted(found)


def memory_of(root: int) -> int:
    """Proportional set size of a tree of processes, in bytes."""
    return sum(proportional_set_size(pid) for pid in tree(root))


def end_tree(process: subprocess.Popen[bytes]) -> None:
    """TERM for all, then KILL for those that stay."""
    pids = tree(process.pid)
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def measure(bench: Bench, rounds: int) -> dict[str, Any]:
    """Every figure, in seconds unless the name says otherwise."""
    print("cold start…", file=sys.stderr)
    cold = bench.our_start(first=False)[1]
    bench.astro("airflow", "stop")
    bench.plain_start(measure=False)  # its database, its bytecode
    first, again, plain = [], [], []
    for number in range(rounds):
        plain.append(bench.plain_start(measure=False)[0])
        first.append(bench.our_start(first=True)[0])
        bench.astro("airflow", "stop")
        again.append(bench.our_start(first=False)[0])
        bench.astro("airflow", "stop")
        print(
            f"round {number + 1}: airflow standalone {plain[-1]:.1f} s, "
            f"astro first {first[-1]:.1f} s, again {again[-1]:.1f} s",
            file=sys.stderr,
        )
    plain_memory = bench.plain_start(measure=True)[1]
    bench.our_start(first=False)
    time.sleep(IDLE_SECONDS)
    our_memory = bench.our_memory()
    running = bench.astro("airflow", "start", "--no-browser", "--port", str(PORT))[0]
    return {
        "cold start, with install": cold,
        "airflow standalone": plain,
        "first start": first,
        "start after stop": again,
        "start when running": running,
        "ratio of first start": statistics.median(a / p for a, p in zip(first, plain, strict=True)),
        "ratio of start after stop": statistics.median(a / p for a, p in zip(again, plain, strict=True)),
        "idle memory, MiB": {
            "astro": round(our_memory / 2**20),
            "airflow standalone": round(plain_memory / 2**20),
            "ratio": our_memory / plain_memory,
        },
        "machine": {"cpus": os.cpu_count(), "load": os.getloadavg()[0]},
    }


def show(figures: dict[str, Any]) -> None:
    """The figures as lines of text."""
    for name, value in figures.items():
        if isinstance(value, list):
            every = ", ".join(f"{part:.1f}" for part in value)
            print(f"{name:<28} median {statistics.median(value):.1f}   all {every}")
        elif isinstance(value, dict):
            told = ", ".join(
                f"{key} {part:.2f}" if isinstance(part, float) else f"{key} {part}"
                for key, part in value.items()
            )
            print(f"{name:<28} {told}")
        else:
            print(f"{name:<28} {value:.2f}")


def main() -> None:
    """Measure, print, and keep the figures if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    bench = Bench()
    try:
        figures = measure(bench, options.rounds)
    finally:
        bench.clean()
    show(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
