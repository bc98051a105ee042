"""A debugger of a few lines: speaks the Debug Adapter Protocol over a socket, as VS Code and PyCharm do.

https://microsoft.github.io/debug-adapter-protocol/specification
"""

from __future__ import annotations

import json
import socket
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Debugger:
    """Attached to 127.0.0.1:`port`; waits up to `seconds` for something to listen there, and for each answer."""

    def __init__(self, port: int, *, seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while True:
            try:
                self._socket = socket.create_connection(("127.0.0.1", port), timeout=seconds)
                break
            except ConnectionRefusedError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)
        self._file = self._socket.makefile("rb")
        self._sent = 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._events: list[dict[str, Any]] = []

    def __enter__(self) -> Debugger:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def attach(self) -> None:
        """The handshake of an "attach" configuration without breakpoints."""
        self.ask("initialize", adapterID="debugpy", clientID="test", pathFormat="path")
        attached = self._send("attach", justMyCode=False)
        self.event("initialized")
        self.ask("configurationDone")
        self._until(lambda: self._answers.get(attached))

    def stopped(self) -> dict[str, Any]:
        """Wait until it has stopped; the uppermost frame, with its `thread`."""
        thread = self.event("stopped")["threadId"]
        frame: dict[str, Any] = self.ask("stackTrace", threadId=thread)["stackFrames"][0]
        return {**frame, "thread": thread}

    def value(self, expression: str, frame: dict[str, Any]) -> str:
        """What an expression is in a frame."""
        return str(
            self.ask("evaluate", expression=expression, frameId=frame["id"], context="watch")["result"]
        )

    def ask(self, command: str, **arguments: Any) -> Any:
        """The answer's body; a refusal is an AssertionError."""
        number = self._send(command, **arguments)
        answer = self._until(lambda: self._answers.get(number))
        assert answer["success"], answer
        return answer.get("body")

    def event(self, name: str) -> Any:
        """Wait for the next event of that name; its body."""
        found = self._until(lambda: next((each for each in self._events if each["event"] == name), None))
        self._events.remove(found)
        return found.get("body")

    def _send(self, command: str, **arguments: Any) -> int:
        self._sent += 1
        request = {"seq": self._sent, "type": "request", "command": command, "arguments": arguments}
        body = json.dumps(request).encode()
        self._socket.sendall(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        return self._sent

    def _until(self, found: Callable[[], Any]) -> Any:
        while (answer := found()) is None:
            message = self._read()
            if message["type"] == "event":
                self._events.append(message)
            elif message["type"] == "response":
                self._answers[message["request_seq"]] = message
        return answer

    def _read(self) -> dict[str, Any]:
        length = 0
        while line := self._file.readline().strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        assert length, "the debugger's connection was closed"
        message: dict[str, Any] = json.loads(self._file.read(length))
        return message
