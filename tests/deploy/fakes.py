"""A clock that needs no time, a report that remembers, a registry that refuses."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


def refusal(status: str, *headers: str, body: str = "") -> bytes:
    """An answer as a server sends it, for example to `413 Request Entity Too Large`."""
    told = ["Connection: close", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([f"HTTP/1.1 {status}", *told, "", body]).encode()


TOO_LARGE = refusal("413 Request Entity Too Large")


class FakeClock:
    """Goes on by sleeping alone; `slept` has every pause."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return sum(self.slept)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


class RecordingReport:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.details: list[str] = []
        self.warnings: list[str] = []

    def step(self, text: str) -> None:
        self.steps.append(text)

    def detail(self, text: str) -> None:
        self.details.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


class RefusingServer:
    """A server that lets everybody in and answers every upload with `answer`."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._server = socket.create_server(("127.0.0.1", 0))

    def __enter__(self) -> str:
        threading.Thread(target=self._serve, daemon=True).start()
        return f"127.0.0.1:{self._server.getsockname()[1]}"

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        with suppress(OSError), connection, connection.makefile("rb") as lines:
            if connection.recv(1, socket.MSG_PEEK) == b"\x16":
                return  # TLS, which is not spoken here
            first = lines.readline().decode("latin-1")
            length = 0
            while line := lines.readline().strip().lower():
                if line.startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            lines.read(length)
            if first.startswith("GET /v2/ "):
                connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")
            elif first.startswith(("HEAD", "GET")):
                connection.sendall(
                    b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
                )
            else:
                connection.sendall(self._answer)

    def __exit__(self, *_: object) -> None:
        self._server.close()
