"""S1: how many tasks a minute, and what each costs, when the tasks do nothing.

    python bench/talk/empty_tasks.py [--dags 50] [--tasks 10] [--workers 4] [--guard|--no-guard] [--json FILE]

All DAGs are in one file, like those of a factory. Twice, each time in a new sandbox: with the guard by which a task
builds its own DAG alone, and without it (then FILE is `NAME-no-guard.json`); an option leaves one of them out.
Takes some minutes. The CPU seconds hold the fixed cost of all services over that time.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from load import Talk, machine, tell

FACTORY = """
from airflow.sdk import dag, get_parsing_context, task

@task
def nothing():
    pass

def make(dag_id):
    @dag(dag_id=dag_id, schedule=None, is_paused_upon_creation=False)
    def empty():
        for number in range({tasks}):
            nothing.override(task_id=f"task_{{number}}")()
    empty()

wanted = get_parsing_context().dag_id if {guard} else None
for number in range({dags}):
    if wanted in (None, f"empty_{{number}}"):
        make(f"empty_{{number}}")
"""


def main() -> None:
    """Run the scenario once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dags", type=int, default=50)
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--guard", action=argparse.BooleanOptionalAction, default=None)
    parser.add_argument("--limit", type=float, default=3600, help="seconds")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    for guard in (True, False) if options.guard is None else (options.guard,):
        run(options, guard=guard)


def run(options: argparse.Namespace, *, guard: bool) -> None:
    """One sandbox, one result."""
    before = machine()
    talk = Talk(parallelism=options.workers)
    try:
        text = FACTORY.format(dags=options.dags, tasks=options.tasks, guard=guard)
        (talk.project / "dags/factory.py").write_text(text)
        talk.start()
        talk.wait_for_dags(options.dags, "empty_")
        figures = measure(talk, options.dags, 1, options.limit)
    finally:
        talk.clean()
    parameters = {name: getattr(options, name) for name in ("dags", "tasks", "workers")} | {"guard": guard}
    file = options.json
    if file and not guard:
        file = str(Path(file).with_suffix("")) + "-no-guard.json"
    tell("S1 empty tasks", before, parameters, figures, file)


def measure(talk: Talk, dags: int, rounds: int, limit: float = 3600) -> dict[str, object]:
    """The figures of `rounds` runs of every DAG, all triggered at once.

    Args:
        limit: seconds for all runs.
    """
    before = talk.states("task_instance", "empty_").get("success", 0)
    since = talk.sql("SELECT now()")[0][0]
    cpu, began = talk.cpu(), time.monotonic()
    talk.trigger([f"empty_{number}" for number in range(dags)] * rounds)
    states = talk.wait_for_runs("empty_", limit)
    seconds, spent = time.monotonic() - began, talk.cpu() - cpu
    done = talk.states("task_instance", "empty_").get("success", 0) - before
    return {
        "runs": states,
        "tasks_a_minute": round(done / seconds * 60, 1),
        "cpu_seconds_a_task": round(spent / max(done, 1), 3),
        "seconds": round(seconds, 1),
        **talk.timing("empty_", since),
    }


if __name__ == "__main__":
    main()
