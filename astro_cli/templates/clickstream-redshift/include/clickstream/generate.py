"""Makes event files as a website would, and knows exactly what must arrive in the warehouse.

The same arguments give the same files, to the byte. Among the events of each file are duplicates and lines that are
no event; some files come late, and some never.
"""

import gzip
import json
import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from include.clickstream import key_of

DUPLICATES = 0.10
MALFORMED = 0.01
LARGEST = 600
"""Events of the most frequent type in an hour; the next ones have a half, a third … of it (Zipf)."""


@dataclass
class File:
    """One key with its content, and what must become of it."""

    customer: str
    event: str
    hour: str
    kind: str  # "present", "late" or "missing"
    lines: list[str] = field(repr=False)
    ids: set[str] = field(repr=False)
    malformed: int

    @property
    def key(self) -> str:
        return key_of(self.customer, self.event, self.hour)

    @property
    def content(self) -> bytes:
        return gzip.compress("".join(f"{line}\n" for line in self.lines).encode(), mtime=0)


def hours(first: str, count: int) -> list[str]:
    """The hours from `first` on: `2026-01-01T00`, `2026-01-01T01`, …"""
    start = datetime.fromisoformat(f"{first}:00")
    return [f"{start + timedelta(hours=number):%Y-%m-%dT%H}" for number in range(count)]


def files(customers: list[dict], when: list[str]) -> list[File]:
    """All files of these customers in these hours."""
    made = []
    for one in customers:
        for rank, event in enumerate(one["events"], start=1):
            made += [_file(one["name"], event, rank, hour, number) for number, hour in enumerate(when)]
    return made


def _file(customer: str, event: str, rank: int, hour: str, number: int) -> File:
    chance = random.Random(f"{customer}/{event}/{hour}")
    start = datetime.fromisoformat(f"{hour}:00")
    events = []
    for place in range(LARGEST // rank + chance.randrange(50)):
        at = start + timedelta(seconds=chance.randrange(3600))
        one = {
            "id": f"{customer}-{event}-{hour}-{place:05}",
            "at": at.isoformat(),
            "user": f"u{chance.randrange(99)}",
        }
        if event == "order":
            one["cents"] = chance.randrange(100, 9900)
        events.append(json.dumps(one))
    again = chance.sample(events, int(len(events) * DUPLICATES))
    broken = [line[: len(line) // 2] for line in chance.sample(events, int(len(events) * MALFORMED) + 1)]
    lines = events + again + broken
    chance.shuffle(lines)
    kind = {(2, 1): "missing", (1, 1): "late"}.get((rank, number % 2), "present")
    return File(customer, event, hour, kind, lines, {json.loads(line)["id"] for line in events}, len(broken))


def sheet(made: list[File], *, late: bool) -> dict:
    """What the warehouse must hold: rows of each event, files, and lines that are no event.

    :param late: whether the late files have come.
    """
    arrived = [file for file in made if file.kind == "present" or (late and file.kind == "late")]
    rows: dict[str, set] = {}
    for file in arrived:
        rows.setdefault(f"{file.customer}.{file.event}", set()).update(file.ids)
    return {
        "rows": {name: len(ids) for name, ids in sorted(rows.items())},
        "files": len(arrived),
        "rejected": sum(file.malformed for file in arrived),
    }
