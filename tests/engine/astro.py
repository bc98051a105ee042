"""Drives the real `astro` program in a folder of its own, the way a user or a CI job would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable

COMMAND = (sys.executable, "-m", "astro_cli")
START_SECONDS = "600"  # a shared machine may be slow; a healthy sandbox takes a sixtieth of it
SPAWNED: list[subprocess.Popen[str]] = []
"""What `Astro.spawn` has begun in the present test; a fixture for every test ends what is left of it."""


@dataclass(frozen=True)
class Astro:
    """`astro` in `folder`, with a home and an engine given by `environ`, and run by `command`."""

    folder: Path
    environ: dict[str, str]
    command: tuple[str, ...] = COMMAND

    def __call__(self, *args: str, code: int | None = 0, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run to the end; `code` is the exit code that must come out, None for any."""
        done = subprocess.run(
            [*self.command, *args], cwd=self.folder, env=self.environ, text=True, capture_output=True, timeout=900,
            stdin=None if "input" in options else subprocess.DEVNULL, **options,
        )  # fmt: skip
        told = f"astro {' '.join(args)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert code is None or done.returncode == code, told
        assert "Traceback" not in done.stderr, told
        assert "bug in astro" not in done.stderr, told
        return done

    def spawn(self, *args: str) -> subprocess.Popen[str]:
        """Begin a run and go on, for tests that interfere with it; it does not outlive the test."""
        process = subprocess.Popen(
            [*self.command, *args], cwd=self.folder, env=self.environ, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        SPAWNED.append(process)
        return process

    def json(self, *args: str, code: int = 0) -> Any:
        """The `data` (or `error`) of a run with `--json`."""
        envelope = json.loads(self(*args, "--json", code=code).stdout)
        assert envelope["ok"] is (code == 0)
        return envelope["data"] if code == 0 else envelope["error"]

    def start(self, *args: str) -> dict[str, Any]:
        """`start` without a browser; what it tells as JSON."""
        told: dict[str, Any] = self.json("start", "--no-browser", "--wait", START_SECONDS, *args)
        return told

    def services(self) -> dict[str, dict[str, Any]]:
        """What `ps` says of each service."""
        return {service["name"]: service for service in self.json("airflow", "ps")["services"]}

    def wait_until_healthy(self) -> None:
        """Until every service is: one may need a moment, or lose its database and die once more."""
        wait_for(lambda: self.json("airflow", "ps")["healthy"], lambda: self.json("airflow", "ps"))

    def secrets_file(self) -> Path:
        """Where astro keeps this sandbox's own secrets; others of the same user have theirs beside it."""
        states = Path(self.environ["HOME"]).rglob("sandboxes/*/state.json")
        (mine,) = (each for each in states if json.loads(each.read_text()).get("path") == str(self.folder))
        return mine.with_name("secrets.json")

    def write(self, name: str, text: str) -> None:
        """Write a file of the project."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def wait_for(
    found: Callable[[], object], told: Callable[[], object] = lambda: "", seconds: float = 180
) -> None:
    """Until `found()` is true; an error with what was `told()` after so many seconds."""
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, f"waited in vain for {seconds:.0f} seconds: {told()}"
        time.sleep(0.4)  # asking takes from what is waited for


def end_spawned() -> None:
    """Kill what `Astro.spawn` has begun and nobody has waited for."""
    while SPAWNED:
        process = SPAWNED.pop()
        if process.poll() is None:
            process.kill()
            process.wait()


def environment(home: Path, engine_url: str) -> dict[str, str]:
    """What a user's shell would hand to `astro`: this one's, with another home and the engine's address."""
    cleared = ("ASTRO_", "XDG_", "DOCKER_", "AIRFLOW_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(cleared)}
    return {**kept, "HOME": str(home), "DOCKER_HOST": engine_url, "COLUMNS": "200"}


def trigger(url: str, dag_id: str, conf: dict[str, Any] | None = None) -> str:
    """Begin a run over REST; returns its id."""
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        client.patch(f"/api/v2/dags/{dag_id}", json={"is_paused": False}).raise_for_status()
        answer = client.post(
            f"/api/v2/dags/{dag_id}/dagRuns", json={"logical_date": None, "conf": conf or {}}
        )
        answer.raise_for_status()
        return str(answer.json()["dag_run_id"])


def wait_for_run(url: str, dag_id: str, run_id: str, seconds: float = 300) -> str:
    """The final state of a run."""
    end = time.monotonic() + seconds
    state = "unknown"
    while time.monotonic() < end:
        state = str(get(url, f"/api/v2/dags/{dag_id}/dagRuns/{run_id}")["state"])
        if state in ("success", "failed"):
            return state
        time.sleep(0.5)
    return state


def run_dag(url: str, dag_id: str, conf: dict[str, Any] | None = None) -> str:
    """Trigger a run and wait for it; returns its final state."""
    return wait_for_run(url, dag_id, trigger(url, dag_id, conf))


def wait_for_dag(url: str, dag_id: str, seconds: float = 180) -> float:
    """How long it takes until the API knows a DAG, in seconds."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if httpx.get(f"{url}/api/v2/dags/{dag_id}", trust_env=False, timeout=60).status_code == 200:
            return time.monotonic() - began
        time.sleep(0.1)
    raise AssertionError(f"the DAG {dag_id} is not visible after {seconds} seconds")


def get(url: str, path: str) -> Any:
    """The JSON answer of one GET."""
    answer = httpx.get(f"{url}{path}", trust_env=False, timeout=60)
    answer.raise_for_status()
    return answer.json()
