"""A worker that has nothing left to hear from its task waits for the task's end, and not for a time."""

from __future__ import annotations

import importlib.metadata
import sys
from types import ModuleType
from typing import Any

import pytest

from astro_cli.runtime.inside import task_parent


class Late(Exception):
    """What a process raises that has not ended in time."""


class Process:
    """Ends after some seconds, with an exit code or, when somebody else has seen it end, none."""

    TimeoutExpired = Late

    def __init__(self, ends_after: float, code: int | None = 0) -> None:
        self._ends_after = ends_after
        self._code = code
        self.waited: list[float] = []

    def wait(self, seconds: float) -> int | None:
        self.waited.append(seconds)
        if self._ends_after > seconds:
            raise Late
        return self._code


@pytest.mark.parametrize(
    ("process", "left"),
    [
        (Process(0.01), 0.0),
        (Process(60), 0.0),  # all seconds are used up, and a heartbeat is due
        (Process(0.01, None), 5.0),  # else it would ask a hundred times a second for ever
    ],
)
def test_how_long_to_wait_after_waiting_for_the_end(process: Process, left: float) -> None:
    assert task_parent.wait_for_end(process, 5.0) == left
    assert process.waited == [5.0]


class Watched:
    """What the hook knows of Airflow's class."""

    def __init__(self, sockets: dict[str, str]) -> None:
        self._open_sockets = sockets
        self._process = Process(0.01)
        self.listened: list[float] = []

    def _service_subprocess(self, max_wait_time: float) -> None:
        self.listened.append(max_wait_time)


def install(monkeypatch: pytest.MonkeyPatch, version: str) -> type[Watched]:
    module: Any = ModuleType("airflow.sdk.execution_time.supervisor")
    module.WatchedSubprocess = type("WatchedSubprocess", (Watched,), {})
    for name in ("airflow", "airflow.sdk", "airflow.sdk.execution_time"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(importlib.metadata, "version", lambda _: version)
    task_parent.install()
    watched: type[Watched] = module.WatchedSubprocess
    return watched


@pytest.mark.parametrize(
    ("sockets", "version", "waited", "listened"),
    [
        ({}, task_parent.KNOWN_VERSION, [5.0], [0.0]),
        ({"logs": "logs"}, task_parent.KNOWN_VERSION, [], [5.0]),
        ({}, "3.4.0", [], [5.0]),  # astro does not know its inside
    ],
)
def test_only_a_task_that_says_no_more_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
    sockets: dict[str, str],
    version: str,
    waited: list[float],
    listened: list[float],
) -> None:
    task = install(monkeypatch, version)(sockets)

    task._service_subprocess(max_wait_time=5.0)

    assert task._process.waited == waited
    assert task.listened == listened
