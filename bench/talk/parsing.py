"""S6: how long it takes to read many DAGs, and until a change of them shows.

    python bench/talk/parsing.py [--dags 1 137 1000] [--files 1 10] [--tasks 6] [--json FILE]

`parse_seconds` is what `astro airflow parse` needs to import all files and to bring each DAG into the form in which
Airflow stores it; `change_seconds` is from saving one file until Airflow's API shows what is new in it.
"""

from __future__ import annotations

import argparse
import json
import time

from load import Talk, machine, tell

FACTORY = """
from airflow.sdk import dag, task

@task
def nothing():
    pass

def make(dag_id):
    @dag(dag_id=dag_id, schedule=None, description="{mark}")
    def many():
        for number in range({tasks}):
            nothing.override(task_id=f"task_{{number}}")()
    many()

for number in range({first}, {last}):
    make(f"{name}_{{number:04}}")
"""


def main() -> None:
    """Run the scenario once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dags", type=int, nargs="+", default=[1, 137, 1000])
    parser.add_argument("--files", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--tasks", type=int, default=6)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    before = machine()
    talk = Talk(parallelism=2)
    figures = []
    try:
        talk.start()
        for dags in options.dags:
            for files in options.files:
                if files <= dags:
                    figures.append(measure(talk, dags, files, options.tasks))
    finally:
        talk.clean()
    tell("S6 parsing", before, {"tasks": options.tasks}, figures, options.json)


def measure(talk: Talk, dags: int, files: int, tasks: int) -> dict[str, float]:
    """The figures of so many DAGs in so many files; the files are gone afterwards."""
    name = f"d{dags}f{files}"
    paths = [talk.project / f"dags/{name}_{number}.py" for number in range(files)]
    edges = [round(dags * number / files) for number in range(files + 1)]

    def write(number: int, mark: str) -> None:
        values = {
            "tasks": tasks,
            "first": edges[number],
            "last": edges[number + 1],
            "name": name,
            "mark": mark,
        }
        paths[number].write_text(FACTORY.format(**values))

    for number in range(files):
        write(number, "first")
    told = json.loads(talk.astro("airflow", "parse", "--json")[1])["data"]
    again = json.loads(talk.astro("airflow", "parse", "--json")[1])["data"]
    appeared = talk.wait_for_dags(dags, name)
    write(0, "second")
    began = time.monotonic()
    last = f"{name}_{edges[1] - 1:04}"
    while talk.get(f"dags/{last}")["description"] != "second":
        time.sleep(0.1)
    change = time.monotonic() - began
    for path in paths:
        path.unlink()
    return {
        "dags": dags,
        "files": files,
        "first_parse_seconds": told["seconds"],
        "parse_seconds": again["seconds"],
        "appeared_seconds": round(appeared, 1),
        "change_seconds": round(change, 1),
    }


if __name__ == "__main__":
    main()
