"""What one test run of a DAG tells: the runner's JSON lines as values."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TaskEvent:
    """A task began or ended.

    Attributes:
        state: Airflow's word: `running`, `success`, `failed`, `up_for_retry`, `skipped`, `upstream_failed`.
        seconds: how long it ran, or None before its end and for a task that never ran.
        log: its lines, where they are worth reading.
    """

    task: str
    state: str
    try_number: int
    seconds: float | None = None
    log: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """One row of the live list."""
        took = f"  {self.seconds:.2f} s" if self.seconds is not None else ""
        again = f"  (try {self.try_number})" if self.try_number > 1 else ""
        return f"{self.state:<15} {self.task}{took}{again}"


def task_event(message: dict[str, Any]) -> TaskEvent:
    """A `task` message of the runner."""
    index = message["map_index"]
    return TaskEvent(
        task=message["task_id"] if index < 0 else f"{message['task_id']}[{index}]",
        state=message["state"],
        try_number=message["try_number"],
        seconds=message.get("seconds"),
        log=tuple(message.get("log", ())),
    )


def read_line(line: str) -> dict[str, Any] | None:
    """The runner's message in a line, or None when the line is something else's."""
    if not line.startswith('{"type"'):
        return None
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None
