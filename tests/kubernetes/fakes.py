"""A cluster that remembers what it is asked, and answers what it was told to."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass
class FakeAnswer:
    status: int
    data: bytes
    headers: dict[str, str] = field(default_factory=dict)

    def stream(self) -> Any:
        return iter([self.data[:7], self.data[7:]])


@dataclass
class FakeChannel:
    """An exec whose whole output is there at once."""

    channels: dict[int, bytes]
    opened: int = 2
    closed: bool = False

    def is_open(self) -> bool:
        self.opened -= 1
        return self.opened > 0

    def update(self, timeout: float) -> None:
        pass

    def read_channel(self, channel: int) -> bytes:
        return self.channels.pop(channel, b"")

    def write_channel(self, channel: int, data: bytes) -> None:
        raise AssertionError("nothing is typed")

    def close(self) -> None:
        self.closed = True

    def fileno(self) -> int:
        return -1


@dataclass
class FakeCluster:
    """`answers` by the method and the beginning of the path; the longest fits."""

    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)
    channel: FakeChannel | None = None
    asked: list[str] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)

    def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        content_type: str = "application/json",
        seconds: Any = None,
    ) -> FakeAnswer:
        self.asked.append(f"{method} {path}")
        self.bodies.append(json.loads(body) if body else None)
        self.types.append(content_type)
        fitting = [key for key in self.answers if f"{method} {path}".startswith(key)]
        if not fitting:
            return FakeAnswer(
                404, json.dumps({"message": "not found", "reason": "NotFound"}).encode(), self.headers
            )
        status, content = self.answers[max(fitting, key=len)]
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        return FakeAnswer(status, data, self.headers)

    def execute(self, path: str) -> FakeChannel:
        self.asked.append(f"EXEC {path}")
        assert self.channel is not None
        return self.channel

    def forward(self, path: str, port: int, client: Any) -> None:
        raise AssertionError("nothing is forwarded")
