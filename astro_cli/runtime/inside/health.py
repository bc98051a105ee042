"""How Airflow's components are, from its health address, asked without waiting for the answer."""

from __future__ import annotations

import json
import selectors
import socket
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

TIMEOUT = 10.0
"""Seconds after which whoever asked gives up."""
KEYS = {"scheduler": "scheduler", "triggerer": "triggerer", "dag-processor": "dag_processor"}
"""Of the components in Airflow's answer."""


class HealthProbe:
    """One GET of the health address inside the event loop: never blocks; `done` gets the answer or None."""

    def __init__(
        self, url: str, selector: selectors.BaseSelector, done: Callable[[dict[str, Any] | None], None]
    ) -> None:
        parts = urlsplit(url)
        self._selector = selector
        self._done = done
        self._answer = bytearray()
        host, port = parts.hostname or "127.0.0.1", parts.port or 80
        # HTTP/1.0: the end of the answer is the end of the connection.
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._request = (
            f"GET {target} HTTP/1.0\r\nHost: {host}:{port}\r\nAccept: application/json\r\n\r\n".encode()
        )
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._socket.setblocking(False)
        self._socket.connect_ex((host, port))
        self.deadline = time.monotonic() + TIMEOUT
        selector.register(self._socket, selectors.EVENT_WRITE, self._on_event)

    def _on_event(self) -> None:
        try:
            if self._request:
                self._request = self._request[self._socket.send(self._request) :]
                if not self._request:
                    self._selector.modify(self._socket, selectors.EVENT_READ, self._on_event)
                return
            data = self._socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            self.finish(None)
            return
        if data:
            self._answer += data
        else:
            self.finish(parse_health(bytes(self._answer)))

    def finish(self, result: dict[str, Any] | None) -> None:
        """Close and report; also how the loop gives up on it."""
        self._selector.unregister(self._socket)
        self._socket.close()
        self._done(result)


def parse_health(answer: bytes) -> dict[str, Any] | None:
    """The JSON object of a 200 answer, else None."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if head.split(b" ", 2)[1:2] != [b"200"]:
        return None
    try:
        data = json.loads(body)
    except ValueError:
        return None
    return data if isinstance(data, dict) else None


def component_health(answer: dict[str, Any], key: str, started_at: float, before: str | None) -> str:
    """Health of one component from Airflow's answer.

    Airflow judges by the last heartbeat in the database, which may be of an earlier process: a heartbeat
    older than `started_at` says nothing about this one, which is then still `starting`.
    """
    entry = answer.get(key) or {}
    beat = entry.get(f"latest_{key}_heartbeat")
    fresh = False
    if isinstance(beat, str):
        try:
            fresh = datetime.fromisoformat(beat.replace("Z", "+00:00")).timestamp() >= started_at
        except ValueError:
            fresh = True
    if fresh:
        return "healthy" if entry.get("status") == "healthy" else "unhealthy"
    return "starting" if before in ("starting", None) else "unhealthy"
