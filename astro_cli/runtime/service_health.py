"""Looks whether a project's service is well, from this machine, through the port it has here.

Asked only when somebody looks (`ps`, the end of `start`): a service that nobody asks for costs nothing.
"""

from __future__ import annotations

import http.client
import socket
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from astro_cli.domain.project_services import WAREHOUSE, Health
from astro_cli.foundation.ports import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from astro_cli.domain.services import Stack

SECONDS = 2.0
"""A service that listens answers at once; one on a busy machine a little later."""
STILL_OPEN_SECONDS = 0.05
"""Docker's own relay accepts every connection, and closes those that nobody takes inside."""


def marks(stack: Stack) -> dict[str, Any]:
    """What to write down of a sandbox's services, so that a later look finds and asks them."""
    return {
        each.name: {
            "kind": each.service.kind,
            "ports": list(each.ports.values()),
            "health": asdict(each.service.health),
            "at": each.ports.get(each.service.health.port, 0),
        }
        for each in stack.added
    }


def look(marked: Mapping[str, Any], running: Iterable[str]) -> dict[str, bool]:
    """Of each running service that answers for itself, whether it does; the warehouse is well with its server.

    Args:
        marked: see `marks`.
    """
    return are_well(
        {
            name: (Health(**marked[name]["health"]), int(marked[name]["at"]))
            for name in running
            if marked[name]["kind"] != WAREHOUSE
        }
    )


def are_well(asked: Mapping[str, tuple[Health, int]]) -> dict[str, bool]:
    """Of each name, whether its service answers as it should; all are asked at once.

    Args:
        asked: name to how to ask, and the port of this machine to ask.
    """
    if not asked:
        return {}
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(len(asked)) as pool:
        answers = {name: pool.submit(is_well, health, port) for name, (health, port) in asked.items()}
    return {name: answer.result() for name, answer in answers.items()}


def is_well(health: Health, port: int) -> bool:
    """Whether one answers as it should."""
    if health.kind == "process":
        return True
    try:
        if health.kind == "http":
            connection = http.client.HTTPConnection(LOOPBACK, port, timeout=SECONDS)
            try:
                connection.request("GET", health.path)
                return connection.getresponse().status < http.HTTPStatus.INTERNAL_SERVER_ERROR
            finally:
                connection.close()
        with socket.create_connection((LOOPBACK, port), timeout=SECONDS) as connected:
            if health.kind == "smtp":
                return connected.recv(64).startswith(b"220")
            if health.kind == "redis":
                connected.sendall(b"PING\r\n")
                return connected.recv(64).startswith((b"+PONG", b"-NOAUTH"))
            connected.settimeout(STILL_OPEN_SECONDS)
            try:
                return connected.recv(1) != b""
            except TimeoutError:
                return True
    except (OSError, http.client.HTTPException):
        return False
