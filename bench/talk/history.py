"""S5: does a database that holds two million task instances make the sandbox slower?

    python bench/talk/history.py [--instances 2000000] [--dags 10] [--rounds 2] [--workers 4] [--json FILE]

The same empty tasks run before and after the history is there, in one sandbox. It is made of copies of the real
rows with SQL, and put through `airflow db clean` at the end. Takes 10 minutes.
"""

from __future__ import annotations

import argparse
import statistics
import time

from empty_tasks import FACTORY, measure
from load import Talk, machine, tell

TASKS = 10
LOOKS = 40
COLUMNS = """
SELECT string_agg(column_name, '+') FROM information_schema.columns
WHERE table_name = '{table}' AND column_name NOT IN ({but})
"""


def main() -> None:
    """Run the scenario once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=2_000_000)
    parser.add_argument("--dags", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    before = machine()
    talk = Talk(parallelism=options.workers)
    try:
        text = FACTORY.format(dags=options.dags, tasks=TASKS, guard=True)
        (talk.project / "dags/factory.py").write_text(text)
        talk.start()
        talk.wait_for_dags(options.dags, "empty_")
        measure(talk, options.dags, 1)  # the first tasks of a sandbox pay for much that is done once
        empty = look(talk, options.dags, options.rounds)
        made = make_history(talk, options.instances // (options.dags * TASKS))
        full = look(talk, options.dags, options.rounds)
        began = time.monotonic()
        talk.astro("airflow", "run", "--", *CLEAN, "2020-01-01")
        cleaned = time.monotonic() - began
        figures = {
            "empty": empty,
            "full": full,
            "history": made,
            "clean_seconds": round(cleaned, 1),
            "instances_after_clean": instances(talk),
        }
    finally:
        talk.clean()
    parameters = {name: getattr(options, name) for name in ("instances", "dags", "rounds", "workers")}
    tell("S5 two million old task instances", before, parameters, figures, options.json)


CLEAN = (
    "db",
    "clean",
    "--tables",
    "task_instance,dag_run",
    "--skip-archive",
    "--yes",
    "--clean-before-timestamp",
)


def look(talk: Talk, dags: int, rounds: int) -> dict[str, object]:
    """How fast tasks go and the page of a DAG's runs comes."""
    tasks = measure(talk, dags, rounds)
    grid = []
    for number in range(LOOKS):
        began = time.monotonic()
        talk.api.get(f"/ui/grid/runs/empty_{number % dags}", params={"limit": 25}).raise_for_status()
        grid.append(time.monotonic() - began)
    return {**tasks, "grid_p95_ms": round(statistics.quantiles(grid, n=20)[-1] * 1000, 1)}


def make_history(talk: Talk, copies: int) -> dict[str, object]:
    """Copy the first run of each DAG with its task instances `copies` times, into the years before 2020."""
    began = time.monotonic()
    times = ["queued_at", "start_date", "end_date", "run_after", "data_interval_start", "data_interval_end"]
    shifted = "timestamptz '2019-12-31' - n * interval '1 minute'"
    first = "(SELECT min(id) FROM dag_run WHERE dag_id LIKE 'empty_%' GROUP BY dag_id)"
    kept = columns(talk, "dag_run", "id", "run_id", "logical_date", *times)
    talk.sql(
        f"INSERT INTO dag_run (run_id, {', '.join(times)}, {kept}) "
        f"SELECT 'old_' || n, {', '.join([shifted] * len(times))}, {kept} "
        f"FROM dag_run, generate_series(1, {copies}) n WHERE id IN {first}"
    )
    times = ["queued_dttm", "scheduled_dttm", "start_date", "end_date", "last_heartbeat_at"]
    kept = columns(talk, "task_instance", "id", "run_id", *times)
    listed = ", ".join(f"t.{one}" for one in kept.split(", "))
    talk.sql(
        f"INSERT INTO task_instance (id, run_id, {', '.join(times)}, {kept}) "
        f"SELECT gen_random_uuid(), 'old_' || n, {', '.join([shifted] * len(times))}, {listed} "
        f"FROM task_instance t JOIN dag_run r USING (dag_id, run_id), generate_series(1, {copies}) n "
        f"WHERE r.id IN {first}"
    )
    talk.sql("ANALYZE")
    return {
        "instances": instances(talk),
        "made_in_seconds": round(time.monotonic() - began, 1),
        "database_mib": int(talk.sql("SELECT pg_database_size('airflow') / 1048576")[0][0]),
    }


def columns(talk: Talk, table: str, *but: str) -> str:
    """The columns of a table except some, as SQL lists them."""
    quoted = ", ".join(f"'{one}'" for one in but)
    return talk.sql(COLUMNS.format(table=table, but=quoted))[0][0].replace("+", ", ")


def instances(talk: Talk) -> int:
    """How many task instances the database holds."""
    return int(talk.sql("SELECT count(*) FROM task_instance")[0][0])


if __name__ == "__main__":
    main()
