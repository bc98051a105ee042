"""Pages of other sites get nothing from what answers on loopback without a login."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from astro_cli.runtime.inside.standins.this_machine import asgi, refusal, wsgi

OURS = (
    "localhost",
    "localhost:8080",
    "LOCALHOST:8080",
    "localhost.:8080",
    "127.0.0.1:8080",
    "[::1]:8080",
    "::1",
    "192.168.1.5:9000",
    "airflow:8080",
    "bucket.localhost:9000",
    "host.docker.internal:8080",
)
THEIRS = ("rebound.example:8080", "localhost.evil.example", "127.0.0.1.nip.io", "127.1", "", " ", "a@b.c")


@pytest.mark.parametrize("host", OURS)
def test_an_address_or_a_name_of_this_machine_is_answered(host: str):
    assert refusal(host, None) is None
    assert refusal(host, f"http://{host}") is None


@pytest.mark.parametrize("host", THEIRS)
def test_a_name_that_a_stranger_may_own_is_not(host: str):
    assert "localhost" in (refusal(host, None) or "")


@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost.evil.example:8080", "null", ""])
def test_a_page_of_another_site_is_not_answered(origin: str):
    assert "no page of" in (refusal("localhost:8080", origin) or "")


def test_a_program_that_names_neither_is_answered():
    assert refusal(None, None) is None


def test_the_wsgi_application_is_not_reached_by_what_is_refused():
    reached: list[str] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        reached.append(environ["REQUEST_METHOD"])
        return [b"yes"]

    told: list[Any] = []
    guarded = wsgi(application)
    foreign = {"REQUEST_METHOD": "POST", "HTTP_HOST": "localhost", "HTTP_ORIGIN": "https://evil.example"}
    body = b"".join(guarded(foreign, lambda *words: told.append(words)))
    assert (reached, told[0][0]) == ([], "403 Forbidden")
    assert b"evil.example" in body
    assert guarded({"REQUEST_METHOD": "GET", "HTTP_HOST": "localhost"}, lambda *_: None) == [b"yes"]


def test_the_asgi_application_is_not_reached_by_what_is_refused():
    reached: list[str] = []
    sent: list[dict[str, Any]] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["type"])

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {}

    guarded = asgi(application)
    foreign = {"type": "http", "headers": [(b"host", b"rebound.example:8080")]}
    asyncio.run(guarded(foreign, receive, send))
    assert reached == []
    assert [message.get("status") for message in sent] == [403, None]
    asyncio.run(guarded({"type": "http", "headers": [(b"host", b"localhost:8080")]}, receive, send))
    asyncio.run(guarded({"type": "lifespan"}, receive, send))
    assert reached == ["http", "lifespan"]
