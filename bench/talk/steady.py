"""S2: the talk's average rate, 46.3 task instances a minute, for half an hour: does the sandbox keep up?

    python bench/talk/steady.py [--rate 46.3] [--minutes 30] [--workers 4] [--json FILE]

A run of ten empty tasks begins every thirteen seconds or so. `wait_p95` is the time from a task that may start to
the task that has started; `left` counts the instances that were not done when the last run had begun.
"""

from __future__ import annotations

import argparse
import time

from empty_tasks import FACTORY
from load import Talk, machine, tell

TASKS = 10
DAGS = 10


def main() -> None:
    """Run the scenario once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=46.3, help="task instances a minute")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    before = machine()
    talk = Talk(parallelism=options.workers)
    try:
        (talk.project / "dags/factory.py").write_text(FACTORY.format(dags=DAGS, tasks=TASKS, guard=True))
        talk.start()
        talk.wait_for_dags(DAGS, "empty_")
        cpu, began = talk.cpu(), time.monotonic()
        runs = round(options.rate * options.minutes / TASKS)
        for number in range(runs):
            time.sleep(max(began + number * TASKS / options.rate * 60 - time.monotonic(), 0))
            talk.trigger([f"empty_{number % DAGS}"])
        done = talk.states("task_instance", "empty_").get("success", 0)
        states = talk.wait_for_runs("empty_", 600)
        figures = {
            "runs": states,
            "left": runs * TASKS - done,
            "cpu_seconds_a_task": round((talk.cpu() - cpu) / (runs * TASKS), 3),
            **talk.timing("empty_"),
        }
    finally:
        talk.clean()
    parameters = {name: getattr(options, name) for name in ("rate", "minutes", "workers")}
    tell("S2 steady rate", before, parameters, figures, options.json)


if __name__ == "__main__":
    main()
