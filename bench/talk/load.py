"""What the scenarios of the talk share: a sandbox, its CPU seconds, its task instances, and the result as JSON."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))
from project import ASTRO, BenchProject

from astro_cli.domain.airflow import DEFAULT_VERSION

TRIGGERS_AT_ONCE = 4
TICKS = os.sysconf("SC_CLK_TCK")


class Talk(BenchProject):
    """A sandbox of the standalone engine with nothing but what a scenario puts into it."""

    def __init__(self, *, parallelism: int, template: str = "minimal") -> None:
        super().__init__(
            ASTRO_ENGINE="standalone",
            ASTRO_SANDBOX_PARALLELISM=str(parallelism),
            UV_CACHE_DIR=os.environ.get("UV_CACHE_DIR", str(Path.home() / ".cache/uv")),
        )
        if template != "minimal":
            self.project = self.scratch
            self.astro("airflow", "init", "talk", "--template", template)
            self.project = self.scratch / "talk"
        else:
            for file in (self.project / "dags").glob("*.py"):
                file.unlink()

    def start(self) -> None:
        """Start it, and wait until it is healthy."""
        told = json.loads(self.astro("start", "--no-browser", "--wait", "900", "--json")[1])
        self.api = httpx.Client(base_url=told["data"]["url"], trust_env=False, timeout=120)

    def get(self, path: str, **query: str | int) -> Any:  # noqa: ANN401 - JSON
        """The JSON answer of Airflow's API."""
        return self.api.get(f"/api/v2/{path}", params=query).raise_for_status().json()

    def wait_for_dags(self, count: int, pattern: str, seconds: float = 900) -> float:
        """Seconds until the API knows that many DAGs whose id contains the pattern."""
        began = time.monotonic()
        while self.get("dags", dag_id_pattern=pattern, limit=1)["total_entries"] < count:
            if time.monotonic() - began > seconds:
                raise SystemExit(f"there are no {count} DAGs after {seconds:.0f} seconds")
            time.sleep(0.2)
        return time.monotonic() - began

    def trigger(self, dag_ids: list[str], logical_date: str | None = None) -> None:
        """Begin a run of each DAG, several at a time."""

        def one(dag_id: str) -> None:
            body = {"logical_date": logical_date}
            self.api.post(f"/api/v2/dags/{dag_id}/dagRuns", json=body).raise_for_status()

        with ThreadPoolExecutor(TRIGGERS_AT_ONCE) as pool:
            list(pool.map(one, dag_ids))

    def wait_for_runs(self, pattern: str, seconds: float) -> dict[str, int]:
        """Wait until no run is left; how many ended in which state."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            states = self.states("dag_run", pattern)
            if not set(states) & {"queued", "running"}:
                return states
            time.sleep(2)
        return self.states("dag_run", pattern)

    def states(self, table: str, pattern: str) -> dict[str, int]:
        """How many rows of a table are in which state."""
        query = f"SELECT state, count(*) FROM {table} WHERE dag_id LIKE '{pattern}%' GROUP BY 1"
        return {state: int(count) for state, count in self.sql(query)}

    def sql(self, query: str, database: str = "airflow") -> list[list[str]]:
        """Rows of the sandbox's database, as text."""
        done = subprocess.run(
            [*ASTRO, "airflow", "bash", "postgres"],
            input=f'psql {database} -AtF, -c "{query}"\n',
            cwd=self.project,
            env=self.environ,
            capture_output=True,
            text=True,
            check=True,
        )
        return [line.split(",") for line in done.stdout.splitlines()]

    def retried(self, pattern: str) -> int:
        """How many task instances needed more than one try."""
        query = f"SELECT count(*) FROM task_instance WHERE dag_id LIKE '{pattern}%' AND try_number > 1"
        return int(self.sql(query)[0][0])

    def timing(self, pattern: str, since: str = "-infinity") -> dict[str, float]:
        """Of all finished task instances: how many, over how many seconds, and how long each waited and ran.

        Args:
            since: those that were ready earlier do not count; a time of the database's.
        """
        query = (
            "SELECT count(*), extract(epoch FROM max(end_date) - min(queued_dttm)), "
            "percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM start_date - scheduled_dttm)), "
            "percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM start_date - scheduled_dttm)), "
            "avg(duration) FROM task_instance "
            f"WHERE dag_id LIKE '{pattern}%' AND start_date IS NOT NULL AND scheduled_dttm >= '{since}'"
        )
        names = ("instances", "seconds", "wait_p50", "wait_p95", "mean_duration")
        (row,) = self.sql(query)
        return {name: round(float(value or 0), 2) for name, value in zip(names, row, strict=True)}

    def cpu(self) -> float:
        """CPU seconds of all processes of this sandbox so far, with those of their ended children."""
        home = f"HOME={self.home}".encode()
        processes = {int(path.name): path for path in Path("/proc").glob("[0-9]*")}
        told = {pid: fields for pid, path in processes.items() if (fields := _stat(path))}
        # Airflow's processes write their titles over their environment, but their ancestors do not.
        ours = {pid for pid in told if _has(processes[pid], home)}
        while found := {pid for pid, fields in told.items() if int(fields[1]) in ours} - ours:
            ours |= found
        return sum(sum(map(int, told[pid][11:15])) for pid in ours) / TICKS


def _stat(process: Path) -> list[bytes]:
    """The fields of `stat` from the state on; none if the process has ended."""
    try:
        return (process / "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return []


def _has(process: Path, text: bytes) -> bool:
    try:
        return text in (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def machine() -> dict[str, Any]:
    """What the figures are of."""
    return {
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "airflow": DEFAULT_VERSION,
        "load_average": [round(one, 1) for one in os.getloadavg()],
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def tell(
    scenario: str, before: dict[str, Any], parameters: dict[str, Any], figures: object, file: str | None
) -> None:
    """Print the result as JSON, and write it to a file if one is named."""
    result = {
        "scenario": scenario,
        "machine_before": before,
        "machine_after": machine(),
        "parameters": parameters,
        "figures": figures,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if file:
        Path(file).write_text(text + "\n", encoding="utf-8")
