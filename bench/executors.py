"""The same DAGs with every executor, on one cluster in one run: rate, cost, roll-out, and the loss of a node.

    python bench/executors.py [--dags 20] [--tasks 5] [--shapes local celery-1 …] [--no-loss] [--json FILE]

The cluster is the one of the tests (tests/kubernetes/lab.py: Kubernetes 1.20.2, two nodes that share this
machine's cores): root on Debian, with the packages that scripts/test installs, and a Docker engine here
(`DOCKER_HOST`). Takes half an hour. All tasks are empty, their file has the guard, and each executor may run 4
tasks at once, Celery 4 on each worker. `cpu_seconds_a_task` is what the deployment's pods used while the runs
lasted, tasks' pods included; `machine_cpu_seconds_a_task` has Kubernetes, both engines and this program as well.

A node is lost when its cable is pulled while tasks run there, and the clock stops when every one of them runs
again elsewhere. The lab gives a node 20 s to be missed and its pods 10 s more; by default it is 40 s and 5 min.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).with_name("talk")))
from empty_tasks import FACTORY
from load import TICKS, machine, tell

from tests.deploy.deployed import NAME
from tests.kubernetes import live as lives
from tests.kubernetes.lab import Lab, missing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.kubernetes.live import Live

SLOTS = 4
CELERY = "executor: celery\n    workers: {{worker: {{count: {count}, concurrency: 4}}}}"
SHAPES = {
    "local": f"executor: local\n    parallelism: {SLOTS}",
    "celery-1": CELERY.format(count=1),
    "celery-2": CELERY.format(count=2),
    "celery-4": CELERY.format(count=4),
    "kubernetes": f"executor: kubernetes\n    parallelism: {SLOTS}",
}
CELERY_SHAPES = tuple(name for name in SHAPES if name.startswith("celery"))
LOSSES = ("celery-2", "kubernetes")
LOST_TASKS = 4
LIMIT = 3600.0
"""Seconds for all runs of one executor."""


def main() -> None:
    """Deploy with one executor after the other, and measure each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dags", type=int, default=20)
    parser.add_argument("--tasks", type=int, default=5)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--loss", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    if reason := missing():
        raise SystemExit(reason)
    before, figures = machine(), {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="astro-executors-")))
        lab = Lab(_folder(folder / "lab"))
        stack.callback(lab.close)
        bench = Bench(_folder(folder / "project"), lab, options)
        try:
            for shape in options.shapes:
                figures[shape] = bench.measure(shape)
                print(f"{shape}: {figures[shape]}", file=sys.stderr)
        finally:  # what was measured is not lost with the next one
            parameters = {"dags": options.dags, "tasks": options.tasks, "slots": SLOTS}
            tell("executors", before, parameters, figures, options.json)


class Bench:
    """One project on one cluster; database and broker are on its first node, which is never lost."""

    def __init__(self, folder: Path, lab: Lab, options: argparse.Namespace) -> None:
        self._lab, self._options = lab, options
        self._dags = [f"empty_{number}" for number in range(options.dags)]
        self._live: Live = lives.prepare(folder, lab, os.environ["DOCKER_HOST"])
        for file in (self._live.astro.folder / "dags").glob("*.py"):
            file.unlink()
        self._live.write_version("v1")
        text = FACTORY.format(dags=options.dags, tasks=options.tasks, guard=True)
        self._live.astro.write("dags/factory.py", text)
        self._live.commit("all")

    def measure(self, shape: str) -> dict[str, Any]:
        """The figures of one executor."""
        live = self._live
        with live.configured("executor: kubernetes", SHAPES[shape]):
            with self._volumes_on_the_first_node(shape):
                live.deploy("--wait", "900")
            live.password = live.password or self._password()
            live.wait_for_dags({*self._dags, "slow"})
            figures: dict[str, Any] = {
                "release_seconds": live.releases()[-1]["seconds"],
                **self._run_all(shape),
            }
            live.write_version(shape)
            live.deploy("--wait", "900")  # nothing but an image: what a change of the project takes
            figures["image_release_seconds"] = live.releases()[-1]["seconds"]
            if self._options.loss and shape in LOSSES:
                figures["loss_seconds"] = self._lose_a_node()
        return figures

    @contextmanager
    def _volumes_on_the_first_node(self, shape: str) -> Iterator[None]:
        """Pods stay on the node on which they are made."""
        wanted = {"statefulset.apps/postgres"} | (
            {"statefulset.apps/broker"} if shape in CELERY_SHAPES else set()
        )
        if wanted <= self._live.names("statefulsets"):
            yield
            return
        self._live.kubectl("cordon", "node2")
        yield
        self._live.kubectl("uncordon", "node2")

    def _password(self) -> str:
        told = self._live.astro.json("deployment", "inspect", NAME, "--show-password")
        return str(told["admin_password"])

    def _run_all(self, shape: str) -> dict[str, Any]:
        """A run of every DAG, all triggered at once."""
        live, count = self._live, len(self._dags)
        done = self._ended()
        pods, everything, began = self._pods_cpu(), _machine_cpu(), time.monotonic()
        for dag in self._dags:
            live.request("POST", f"/api/v2/dags/{dag}/dagRuns", json={"logical_date": None})
        while self._ended() < done + count:
            if time.monotonic() - began > LIMIT:
                raise SystemExit(f"{shape}: {self._ended() - done} of {count} runs in {LIMIT:.0f} s")
            time.sleep(1)
        seconds, tasks = time.monotonic() - began, count * self._options.tasks
        return {
            "tasks": tasks,
            "tasks_a_minute": round(tasks / seconds * 60, 1),
            "cpu_seconds_a_task": round((self._pods_cpu() - pods) / tasks, 2),
            "machine_cpu_seconds_a_task": round((_machine_cpu() - everything) / tasks, 2),
        }

    def _ended(self) -> int:
        """Runs that succeeded so far."""
        body = {"dag_ids": self._dags, "states": ["success"], "page_limit": 1}
        return int(self._live.request("POST", "/api/v2/dags/~/dagRuns/list", json=body)["total_entries"])

    def _pods_cpu(self) -> float:
        """CPU seconds of all pods so far, the ended ones included."""
        groups = (Path(f"/sys/fs/cgroup/cpuacct/{node.name}/cpuacct.usage") for node in self._lab.nodes)
        had_pods = (group for group in groups if group.exists())
        return sum(int(group.read_text()) for group in had_pods) / 1e9

    def _lose_a_node(self) -> float:
        """Seconds from the loss of the second node until all tasks that ran there run on the first."""
        live, node = self._live, self._lab.nodes[1]
        runs = [live.trigger(seconds=1800) for _ in range(LOST_TASKS)]
        tries = {run: live.wait_for_task(run, "running", seconds=600)["try_number"] for run in runs}
        lost = {run: number for run, number in tries.items() if self._node_of(run) == node.node_name}
        if not lost:
            raise SystemExit("no task ran on the node that was to be lost")
        node.cut()
        began = time.monotonic()
        try:
            while not all(self._runs_again(run, number) for run, number in lost.items()):
                if time.monotonic() - began > LIMIT:
                    raise SystemExit("the tasks of a lost node do not run again")
                time.sleep(1)
            return round(time.monotonic() - began, 1)
        finally:
            node.join()
            for run in runs:
                live.request("PATCH", f"/api/v2/dags/slow/dagRuns/{run}", json={"state": "failed"})

    def _node_of(self, run: str) -> str:
        pod = str(self._live.task(run)["hostname"])
        return self._live.kubectl("get", "pod", pod, "-o", "jsonpath={.spec.nodeName}")

    def _runs_again(self, run: str, number: int) -> bool:
        try:
            task = self._live.task(run)
        except httpx.HTTPError:  # the api-server was there as well
            return False
        return bool(task["state"] == "running" and task["try_number"] > number)


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _machine_cpu() -> float:
    """CPU seconds that this machine was busy so far."""
    user, nice, system, _, _, interrupts, *_ = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    return sum(map(int, (user, nice, system, interrupts))) / TICKS


if __name__ == "__main__":
    main()
