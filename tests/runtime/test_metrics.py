"""The service `metrics`: StatsD in, Prometheus and JSON out; and as a real process, asked by datagram and HTTP."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from astro_cli.domain.project_services import Health
from astro_cli.runtime.inside import standins
from astro_cli.runtime.service_health import is_well
from tests.engine.astro import wait_for
from tests.fake_runs import FakeClock
from tests.free_port import free_port

if TYPE_CHECKING:
    from astro_cli.runtime.inside.standins.metrics import Store

PROGRAM = Path(standins.__file__).parent / "metrics.py"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(1000.0)


@pytest.fixture
def store(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.syspath_prepend(PROGRAM.parent)  # the programs find each other there
    from astro_cli.runtime.inside.standins.metrics import Store

    return Store(clock.monotonic)


def test_a_counter_grows_and_says_what_the_last_minute_brought(store: Store, clock: FakeClock):
    store.take(b"airflow.ti.finish,dag_id=etl,state=success:2|c\n")
    clock.sleep(45)
    store.take(b"airflow.ti.finish,dag_id=etl,state=success:1|c|@0.1")
    clock.sleep(30)
    (counter,) = store.as_data()["counters"]
    assert counter == {
        "name": "airflow.ti.finish",
        "tags": {"dag_id": "etl", "state": "success"},
        "total": 12.0,
        "last_minute": 10.0,
    }
    assert 'airflow_ti_finish_total{dag_id="etl",state="success"} 12\n' in store.as_text()


def test_a_gauge_is_what_was_said_last_and_can_be_moved(store: Store):
    store.take(b"airflow.executor.open_slots:4|g\nairflow.executor.open_slots:-1|g")
    assert store.as_data()["gauges"] == [{"name": "airflow.executor.open_slots", "tags": {}, "value": 3.0}]
    assert "# TYPE airflow_executor_open_slots gauge\nairflow_executor_open_slots 3\n" in store.as_text()


def test_times_are_seconds_with_mean_and_largest_of_the_last_minute(store: Store, clock: FakeClock):
    store.take(b"airflow.task.duration,task_id=a:9000|ms")
    clock.sleep(61)
    assert store.as_data()["timers"][0]["last_minute"] == {"count": 0, "mean": None, "max": None}
    store.take(b"airflow.task.duration,task_id=a:1000|ms\nairflow.task.duration,task_id=a:2000.0|ms")
    (timer,) = store.as_data()["timers"]
    assert (timer["count"], timer["sum"]) == (3, 12.0)
    assert timer["last_minute"] == {"count": 2, "mean": 1.5, "max": 2.0}
    assert 'airflow_task_duration_seconds_sum{task_id="a"} 12\n' in store.as_text()
    assert 'airflow_task_duration_seconds_count{task_id="a"} 3\n' in store.as_text()


@pytest.mark.parametrize(
    "line", ["x", "a:1", "a:b|c", "a:1|zz", ":1|c", "a:1|c|@0", "a:1e999|c", "a:1|c|@x", "\xff:1|c|"]
)
def test_what_is_not_understood_is_counted_and_not_kept(store: Store, line: str):
    store.take(line.encode("latin-1") + b"\n")
    told = store.as_data()
    assert told["dropped"] == 1
    assert not told["counters"] + told["gauges"] + told["timers"]


def test_names_made_to_break_out_of_the_text_do_not(store: Store):
    store.take(b'1.bad name,tag="\\} 1:5|g')
    assert '_1_bad_name{tag="\\"\\\\} 1"} 5\n' in store.as_text()


def test_there_is_a_bound_to_what_is_kept(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("astro_cli.runtime.inside.standins.metrics.MOST_SERIES", 2)
    store.take(b"a:1|c\nb:1|c\nc:1|c\na:1|c")
    assert [each["total"] for each in store.as_data()["counters"]] == [2.0, 1.0]
    assert "astro_metrics_dropped_total 1\n" in store.as_text()


def test_the_program_takes_datagrams_and_answers_this_machine_alone(tmp_path: Path):
    port = free_port()
    (tmp_path / "config.json").write_text(json.dumps({"host": "127.0.0.1", "port": port}))
    process = subprocess.Popen([sys.executable, "-Es", str(PROGRAM), str(tmp_path / "config.json")])

    def ask(path: str, **headers: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    try:
        wait_for(lambda: is_well(Health("http", port, "/health"), port) or process.poll() is not None)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"airflow.a:1|c", ("127.0.0.1", port))
        wait_for(lambda: "airflow_a_total 1\n" in ask("/metrics")[1])
        assert json.loads(ask("/metrics.json")[1])["counters"][0]["total"] == 1.0
        assert ask("/elsewhere")[0] == 404
        assert ask("/metrics", Host="rebound.example")[0] == 403
        assert ask("/metrics", Origin="https://evil.example")[0] == 403
    finally:
        process.terminate()
        assert process.wait(60) == 0
