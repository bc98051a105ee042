"""The first program of a deployed container: hands the engine's secrets on to Airflow, or asks after its health.

    entry.py run COMMAND...     every /run/secrets/astro/*.json (`{"NAME": "value"}`) becomes environment, then exec
    entry.py health URL         exit code 0 if URL answers with success
    entry.py fetch URL          the same, and the answer on standard output
    entry.py relay HOST PORT    standard input and output become a connection to HOST:PORT

A secret is never an argument and never in what `docker inspect` shows. Standard library only: it runs in the engine
image, where it is copied alone.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import urllib.request
from pathlib import Path

SECRETS = Path("/run/secrets/astro")
LOGIN = SECRETS / "login"
HEALTH_SECONDS = 8.0


def run(command: list[str]) -> None:
    """Become `command`, with the secrets in its environment."""
    for path in sorted(SECRETS.glob("*.json")):
        os.environ.update(json.loads(path.read_text(encoding="utf-8")))
    passwords = os.environ.get("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE")
    if passwords and LOGIN.exists():  # Airflow opens it for writing, and an engine's secret is read-only
        descriptor = os.open(passwords, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(LOGIN.read_text(encoding="utf-8"))
    os.execvp(command[0], command)  # noqa: S606 - the process that is asked for


def fetch(url: str, *, show: bool) -> int:
    """0 when `url` answers with success; its answer is printed with `show`."""
    try:
        with urllib.request.urlopen(url, timeout=HEALTH_SECONDS) as answer:  # noqa: S310 - our own address
            if show:
                sys.stdout.write(answer.read().decode())
            return 0
    except OSError as exc:
        sys.stderr.write(f"{url}: {exc}\n")
        return 1


def relay(host: str, port: int) -> None:
    """Copy both ways until the other side ends."""
    with socket.create_connection((host, port)) as connection:

        def send() -> None:
            while data := os.read(0, 65536):
                connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)

        threading.Thread(target=send, daemon=True).start()
        while data := connection.recv(65536):
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    if sys.argv[1] == "relay":
        relay(sys.argv[2], int(sys.argv[3]))
        sys.stdout.flush()
        os._exit(0)  # whatever still waits for input
    if sys.argv[1] in ("health", "fetch"):
        sys.exit(fetch(sys.argv[2], show=sys.argv[1] == "fetch"))
    run(sys.argv[2:])
