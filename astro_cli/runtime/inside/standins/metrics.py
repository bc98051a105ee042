"""The service `metrics`: takes what Airflow sends by StatsD, and tells it as Prometheus does, and as JSON.

    metrics.py CONFIG

CONFIG   {"host": where it listens, "port": for StatsD by UDP, and for HTTP by TCP}

    GET /metrics         every series since the service began, for Prometheus
    GET /metrics.json    the same with what the last minute brought, for `astro airflow top`
    GET /health

Airflow sends tags as InfluxDB has them: `airflow.ti.finish,dag_id=etl,state=success:1|c`. Standard library only: it
runs beside Airflow, under whatever Python is there.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import socket
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import this_machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

WINDOW_SECONDS = 60.0
MOST_SERIES = 10_000
"""Names and tags come from DAGs, of which there may be many; what is beyond is counted and not kept."""
LARGEST_DATAGRAM = 65_535
COUNTER, GAUGE, TIMER = "c", "g", "ms"
_LINE = re.compile(r"([^|,:]+)((?:,[^|]*)?):([+-]?[0-9.eE+-]+)\|(c|g|ms)(?:\|@([0-9.]+))?")


@dataclass
class Series:
    """One name with its tags.

    Attributes:
        value: of a counter its total, of a gauge what it is, of a timer the sum in milliseconds.
        count: how many values a timer had.
        recent: of a counter and a timer: the second, and the sum, number and largest of its values.
    """

    name: str
    tags: tuple[tuple[str, str], ...]
    kind: str
    value: float = 0.0
    count: int = 0
    recent: deque[list[float]] = field(default_factory=deque)

    def add(self, value: float, now: float) -> None:
        """Take a value of a counter or a timer."""
        self.value += value
        self.count += 1
        second = float(int(now))
        if not self.recent or self.recent[-1][0] != second:
            self.forget(now)
            self.recent.append([second, 0.0, 0.0, value])
        last = self.recent[-1]
        last[1:] = [last[1] + value, last[2] + 1, max(last[3], value)]

    def forget(self, now: float) -> None:
        """Drop what is older than the window."""
        while self.recent and self.recent[0][0] < now - WINDOW_SECONDS:
            self.recent.popleft()


class Store:
    """Every series."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._series: dict[tuple[str, str, str], Series] = {}
        self._lock = threading.Lock()
        self.dropped = 0

    def take(self, datagram: bytes) -> None:
        """Take what came in one datagram; what is not understood is counted."""
        with self._lock:
            for line in datagram.decode("utf-8", "replace").splitlines():
                self._take(line)

    def _take(self, line: str) -> None:
        found = _LINE.fullmatch(line.strip())
        value = _number(found[3]) if found else None
        rate = _number(found[5] or "1") if found else None
        if found is None or value is None or not rate:
            self.dropped += 1
            return
        name, tags, kind = found[1], found[2], found[4]
        series = self._series.get((name, tags, kind))
        if series is None:
            if len(self._series) >= MOST_SERIES:
                self.dropped += 1
                return
            series = self._series[name, tags, kind] = Series(name, _tags(tags), kind)
        if kind != GAUGE:
            series.add(value / rate if kind == COUNTER else value, self._clock())
        else:
            series.value = series.value + value if found[3][0] in "+-" else value

    def as_data(self) -> dict[str, Any]:
        """Everything, as JSON has it; times in seconds."""
        now = self._clock()
        counters, gauges, timers = [], [], []
        with self._lock:
            for each in self._series.values():
                each.forget(now)
                named = {"name": each.name, "tags": dict(each.tags)}
                total, number = sum(part[1] for part in each.recent), sum(part[2] for part in each.recent)
                if each.kind == GAUGE:
                    gauges.append({**named, "value": each.value})
                elif each.kind == COUNTER:
                    counters.append({**named, "total": each.value, "last_minute": total})
                else:
                    last = {
                        "count": number,
                        "mean": total / number / 1000 if number else None,
                        "max": max((part[3] for part in each.recent), default=0.0) / 1000 if number else None,
                    }
                    timers.append(
                        {**named, "count": each.count, "sum": each.value / 1000, "last_minute": last}
                    )
            return {"counters": counters, "gauges": gauges, "timers": timers, "dropped": self.dropped}

    def as_text(self) -> str:
        """Everything, in Prometheus' text format; times in seconds."""
        families: dict[tuple[str, str], list[str]] = {}
        with self._lock:
            for each in self._series.values():
                name, labels = _prometheus_name(each.name), _labels(each.tags)
                if each.kind == COUNTER:
                    told = families.setdefault((f"{name}_total", "counter"), [])
                    told.append(f"{name}_total{labels} {_text(each.value)}")
                elif each.kind == GAUGE:
                    told = families.setdefault((name, "gauge"), [])
                    told.append(f"{name}{labels} {_text(each.value)}")
                else:
                    told = families.setdefault((f"{name}_seconds", "summary"), [])
                    told.append(f"{name}_seconds_sum{labels} {_text(each.value / 1000)}")
                    told.append(f"{name}_seconds_count{labels} {each.count}")
            dropped = self.dropped
        families["astro_metrics_dropped_total", "counter"] = [f"astro_metrics_dropped_total {dropped}"]
        lines = (
            line
            for (name, kind), told in sorted(families.items())
            for line in (f"# TYPE {name} {kind}", *told)
        )
        return "".join(f"{line}\n" for line in lines)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _tags(text: str) -> tuple[tuple[str, str], ...]:
    pairs = (part.partition("=") for part in text.split(",") if "=" in part)
    return tuple((name, value) for name, _, value in pairs)


def _prometheus_name(text: str) -> str:
    name = re.sub(r"[^a-zA-Z0-9_]", "_", text)
    return f"_{name}" if name[:1].isdigit() else name


def _labels(tags: Iterable[tuple[str, str]]) -> str:
    escapes = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
    pairs = {_prometheus_name(name): value.translate(escapes) for name, value in tags}
    return "{" + ",".join(f'{name}="{value}"' for name, value in pairs.items()) + "}" if pairs else ""


def _text(value: float) -> str:
    return repr(int(value) if value.is_integer() else value)


def application(store: Store) -> Callable[..., Iterable[bytes]]:
    """What answers by HTTP."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        pages = {
            "/metrics": ("text/plain; version=0.0.4; charset=utf-8", store.as_text),
            "/metrics.json": ("application/json", lambda: json.dumps(store.as_data())),
            "/health": ("text/plain", lambda: "ok\n"),
        }
        found = pages.get(environ["PATH_INFO"]) if environ["REQUEST_METHOD"] == "GET" else None
        media_type, body = (found[0], found[1]()) if found else ("text/plain", "see /metrics\n")
        content = body.encode("utf-8", "replace")
        headers = [("Content-Type", media_type), ("Content-Length", str(len(content)))]
        start_response("200 OK" if found else "404 Not Found", headers)
        return [content]

    return answer


class Server(ThreadingMixIn, WSGIServer):
    """One thread for each request."""

    daemon_threads = True


class SilentHandler(WSGIRequestHandler):
    """Looking at metrics is not worth a line."""

    def log_message(self, *_: object) -> None:
        """Nothing."""


def receive(store: Store, door: socket.socket) -> None:
    """Take datagrams for ever."""
    while True:
        store.take(door.recv(LARGEST_DATAGRAM))


def main(config: dict[str, Any]) -> None:
    """Serve until SIGTERM."""
    store = Store()
    address = config["host"], config["port"]
    door = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    door.bind(address)
    threading.Thread(target=receive, args=(store, door), daemon=True).start()
    page = make_server(*address, this_machine.wsgi(application(store)), Server, SilentHandler)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    sys.stdout.write(f"metrics are taken and shown on port {config['port']}\n")
    sys.stdout.flush()
    page.serve_forever()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
