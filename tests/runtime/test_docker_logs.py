from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import cast

import pytest

from astro_cli.foundation.errors import EngineError
from astro_cli.runtime import docker_logs
from astro_cli.runtime.engine import LogQuery
from astro_cli.runtime.engine_http import EngineReader

AIRFLOW = (
    "2026-11-22T18:00:01.000000000Z scheduler      | first",
    "2026-11-22T18:00:03.000000000Z api-server     | a | b",
    "2026-11-22T18:00:05.000000000Z the supervisor itself",
    "2026-11-22T18:00:06.000000000Z stranger | not a service",
)
POSTGRES = (
    "2026-11-22T18:00:02.000000000Z ready",
    "2026-11-22T18:00:04.000000000Z LOG: checkpoint | done",
)


def frame(text: bytes, channel: int = 1) -> bytes:
    return struct.pack(">BxxxL", channel, len(text)) + text


class Logs:
    """Stands for an EngineReader: framed log streams by container id, in pieces of `piece` bytes."""

    def __init__(self, streams: Mapping[str, bytes], piece: int = 65536, failure: Exception | None = None):
        self._streams = streams
        self._piece = piece
        self._failure = failure
        self.queries: list[dict[str, str]] = []

    def stream(self, path: str, /, *, timeout: float | None = None, **query: str) -> Iterator[bytes]:
        self.queries.append(query)
        data = self._streams[path.split("/")[2]]
        if query.get("follow") and self._failure:
            raise self._failure
        yield from (data[i : i + self._piece] for i in range(0, len(data), self._piece))


def streams() -> dict[str, bytes]:
    return {
        "a": b"".join(frame(f"{line}\n".encode()) for line in AIRFLOW),
        "p": b"".join(frame(f"{line}\n".encode(), channel=2) for line in POSTGRES),
    }


BOTH = {"airflow": "a", "postgres": "p"}


def read(logs: Logs, query: LogQuery, containers: Mapping[str, str] = BOTH) -> list[tuple[str, str]]:
    found = docker_logs.read(cast("EngineReader", logs), containers, query)
    return [(line.service, line.text) for line in found]


MERGED = [
    ("scheduler", "first"),
    ("postgres", "ready"),
    ("api-server", "a | b"),
    ("postgres", "LOG: checkpoint | done"),
    ("astro", "the supervisor itself"),
    ("astro", "stranger | not a service"),
]


@pytest.mark.parametrize("piece", [1, 7, 65536])
def test_lines_of_all_services_are_merged_by_time_however_they_arrive(piece: int):
    assert read(Logs(streams(), piece), LogQuery()) == MERGED


def test_only_containers_that_may_hold_the_service_are_read():
    logs = Logs(streams())
    assert read(logs, LogQuery(services=("postgres",))) == [MERGED[1], MERGED[3]]
    assert len(logs.queries) == 1


def test_one_service_of_the_airflow_container_is_picked_out():
    assert read(Logs(streams()), LogQuery(services=("api-server",))) == [("api-server", "a | b")]


@pytest.mark.parametrize(("tail", "expected"), [(0, []), (1, [MERGED[0], MERGED[2], MERGED[3], MERGED[5]])])
def test_tail_counts_for_each_service(tail: int, expected: list[tuple[str, str]]):
    assert read(Logs(streams()), LogQuery(tail=tail)) == expected


def test_a_line_in_two_frames_is_one_line():
    first, second = b"2026-11-22T18:00:01Z scheduler | be", b"gun\n"
    logs = Logs({"a": frame(first) + frame(second)})
    assert read(logs, LogQuery(), {"airflow": "a"}) == [("scheduler", "begun")]


def test_a_last_line_without_an_end_is_shown():
    logs = Logs({"a": frame(b"2026-11-22T18:00:01Z scheduler | cut of")})
    assert read(logs, LogQuery(), {"airflow": "a"}) == [("scheduler", "cut of")]


def test_bytes_that_are_no_text_do_no_harm():
    logs = Logs({"p": frame(b"2026-11-22T18:00:01Z \xff\xfe\x00\n")})
    assert read(logs, LogQuery(), {"postgres": "p"}) == [("postgres", "\ufffd\ufffd\x00")]


def test_since_is_handed_to_the_engine():
    logs = Logs(streams())
    read(logs, LogQuery(since=1.5))
    assert {query["since"] for query in logs.queries} == {"1.500000000"}


def test_follow_shows_what_is_there_and_then_only_what_is_new():
    assert read(Logs(streams()), LogQuery(follow=True, tail=1)) == [MERGED[i] for i in (0, 2, 3, 5)]


def test_follow_with_no_tail_shows_nothing_of_the_past():
    assert read(Logs(streams()), LogQuery(follow=True, tail=0)) == []


def test_an_engine_that_goes_away_while_following_ends_it_with_its_error():
    logs = Logs(streams(), failure=EngineError("gone"))
    with pytest.raises(EngineError, match="gone"):
        read(logs, LogQuery(follow=True))
