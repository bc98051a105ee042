"""What S3 and S4 share: the template `clickstream-redshift` with many customers, and its rows counted."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from load import Talk

FIRST_HOUR = "2026-01-01T00"
CLOCK = 'schedule=CronDataIntervalTimetable("@hourly", timezone="UTC")'
WAITING = 'mode="reschedule"'
WAITS = {"poke": 'mode="poke"', "reschedule": WAITING, "deferrable": "deferrable=True", "listing": WAITING}
"""Style of waiting to how the template's sensor says it; `listing` is one sensor for all files of an hour."""


@dataclass(frozen=True)
class Shops:
    """Customers of the same kind.

    Attributes:
        name: the beginning of their names.
        events: how many types of events each of them has.
        hours: how many; from the second on, files come late or never.
        wait_seconds: how long a file is waited for.
    """

    name: str
    customers: int
    events: int
    hours: int = 1
    wait_seconds: int = 600
    style: str = "reschedule"

    @property
    def kinds(self) -> list[str]:
        """The types of events."""
        return [f"{self.name}_e{number:02}" for number in range(self.events)]

    @property
    def dags(self) -> list[str]:
        """The ids of their DAGs."""
        return [f"clickstream_{self.name}{number:03}" for number in range(self.customers)]

    def rows(self) -> list[dict[str, object]]:
        """What the API answers."""
        style = "listing" if self.style == "listing" else "sensors"
        common = {"events": self.kinds, "wait_seconds": self.wait_seconds, "style": style}
        return [{"name": dag.removeprefix("clickstream_"), **common} for dag in self.dags]


def prepare(talk: Talk, shops: Shops) -> None:
    """Give the project these customers and no others; a DAG runs when it is triggered, not by the clock."""
    stub = talk.project / "services/stub/clickstream/customers.json"
    stub.write_text(json.dumps(shops.rows()))
    file = talk.project / "dags/clickstream.py"
    text = file.read_text()
    for wanted in WAITS.values():
        text = text.replace(f"        {wanted},\n", f"        {WAITS[shops.style]},\n")
    assert f"        {WAITS[shops.style]},\n" in text
    file.write_text(text.replace(CLOCK, "schedule=None"))


def load(talk: Talk, shops: Shops, limit: float) -> dict[str, object]:
    """Generate the files, run every DAG for every hour, and count the rows.

    Args:
        limit: seconds for all runs.
    """
    pattern = f"clickstream_{shops.name}"
    run(talk, "clickstream_config_sync")
    appeared = talk.wait_for_dags(shops.customers, pattern)
    sheet = run(talk, "clickstream_generate", {"hours": shops.hours, "first_hour": FIRST_HOUR}, "generate")
    cpu, began = talk.cpu(), time.monotonic()
    for hour in range(shops.hours):
        talk.trigger(shops.dags, f"2026-01-01T{hour:02}:00:00Z")
    states = talk.wait_for_runs(pattern, limit)
    seconds, spent = time.monotonic() - began, talk.cpu() - cpu
    counts = " UNION ALL ".join(
        f"SELECT customer || '.{kind}', count(*) FROM events_{kind} GROUP BY 1" for kind in shops.kinds
    )
    rows = {name: int(count) for name, count in talk.sql(counts, "warehouse")}
    expected: dict[str, int] = sheet["rows"]
    instances = talk.states("task_instance", pattern)
    done = sum(instances.values())
    return {
        "runs": states,
        "instances": instances,
        "seconds_to_the_last_row": round(seconds, 1),
        "tasks_a_minute": round(done / seconds * 60, 1),
        "cpu_seconds": round(spent, 1),
        "cpu_seconds_a_task": round(spent / max(done, 1), 3),
        "tried_again": talk.retried(pattern),
        "rows": sum(rows.values()),
        "rows_expected": sum(expected.values()),
        "wrong_counts": sorted(name for name in {*rows, *expected} if rows.get(name) != expected.get(name)),
        "dags_appeared_after": round(appeared, 1),
        "timing": talk.timing(pattern),
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
