"""S3: one hour's burst of the talk, with real files and a real warehouse, and every row counted.

    python bench/talk/burst.py [--customers 137] [--events 10] [--workers 8] [--json FILE]

It is the template `clickstream-redshift` with many customers: for each, ten sensors, ten loads and the totals.
For 137 customers that is 2,877 task instances. All runs are triggered at once; the time counts until the last has
ended. Takes 15 minutes and more.
"""

from __future__ import annotations

import argparse
import json
import time

from load import Talk, machine, tell

HOUR = "2026-01-01T00"


def main() -> None:
    """Run the scenario once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--customers", type=int, default=137)
    parser.add_argument("--events", type=int, default=10)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--limit", type=float, default=7200, help="seconds")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    before = machine()
    talk = Talk(parallelism=options.workers, template="clickstream-redshift")
    try:
        figures = burst(talk, options.customers, options.events, options.limit)
    finally:
        talk.clean()
    parameters = {name: getattr(options, name) for name in ("customers", "events", "workers")}
    tell("S3 hourly burst", before, parameters, figures, options.json)


def burst(talk: Talk, customers: int, events: int, limit: float) -> dict[str, object]:
    """The figures."""
    names = [f"shop{number:03}" for number in range(customers)]
    kinds = [f"e{number:02}" for number in range(events)]
    answer = [{"name": one, "events": kinds, "wait_seconds": 600, "style": "sensors"} for one in names]
    (talk.project / "services/stub/clickstream/customers.json").write_text(json.dumps(answer))
    # The clock must not add runs of its own: a DAG runs when it is triggered, for the hour it is triggered for.
    file = talk.project / "dags/clickstream.py"
    clock = 'schedule=CronDataIntervalTimetable("@hourly", timezone="UTC")'
    assert clock in file.read_text()
    file.write_text(file.read_text().replace(clock, "schedule=None"))
    talk.start()
    dag_ids = [f"clickstream_{one}" for one in names]
    run(talk, "clickstream_config_sync")
    appeared = talk.wait_for_dags(customers, "clickstream_shop")
    sheet = run(talk, "clickstream_generate", {"hours": 1, "first_hour": HOUR}, "generate")
    cpu, began = talk.cpu(), time.monotonic()
    talk.trigger(dag_ids, f"{HOUR}:00:00Z")
    states = talk.wait_for_runs("clickstream_shop", limit)
    seconds, spent = time.monotonic() - began, talk.cpu() - cpu
    counts = " UNION ALL ".join(
        f"SELECT customer || '.{kind}', count(*) FROM events_{kind} GROUP BY 1" for kind in kinds
    )
    rows = {name: int(count) for name, count in talk.sql(counts, "warehouse")}
    wrong = {name for name in {*rows, *sheet["rows"]} if rows.get(name) != sheet["rows"].get(name)}
    done = sum(talk.states("task_instance", "clickstream_shop").values())
    return {
        "runs": states,
        "instances": done,
        "seconds_to_the_last_row": round(seconds, 1),
        "tasks_a_minute": round(done / seconds * 60, 1),
        "cpu_seconds_a_task": round(spent / max(done, 1), 3),
        "rows": sum(rows.values()),
        "rows_expected": sum(sheet["rows"].values()),
        "wrong_counts": sorted(wrong),
        "dags_appeared_after": round(appeared, 1),
        "timing": talk.timing("clickstream_shop"),
    }


def run(
    talk: Talk, dag_id: str, conf: dict[str, object] | None = None, task_id: str = ""
) -> dict[str, dict[str, int]]:
    """Run a DAG to its end; what a task of it returned."""
    talk.wait_for_dags(1, dag_id)
    body = {"logical_date": None, "conf": conf or {}}
    started = talk.api.post(f"/api/v2/dags/{dag_id}/dagRuns", json=body).raise_for_status().json()
    path = f"dags/{dag_id}/dagRuns/{started['dag_run_id']}"
    while (state := talk.get(path)["state"]) not in ("success", "failed"):
        time.sleep(0.5)
    if state == "failed":
        raise SystemExit(f"{dag_id} failed")
    if not task_id:
        return {}
    told = talk.get(f"{path}/taskInstances/{task_id}/xcomEntries/return_value", deserialize="true")
    value: dict[str, dict[str, int]] = told["value"]
    return value


if __name__ == "__main__":
    main()
