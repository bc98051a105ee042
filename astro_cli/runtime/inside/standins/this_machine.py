"""Refuses what a web site has a browser send: what answers on loopback without a login is for this machine.

A stranger's page reaches such a server in two ways. It sends there itself, and then the browser names the page in
`Origin`. Or it lets its own name resolve to 127.0.0.1 (DNS rebinding), and then that name is in `Host`. Programs
send no `Origin`, and call the server by its address or by a name that no stranger can own.

Standard library only: it wraps Airflow's api-server as well as the services that astro brings.
"""

from __future__ import annotations

import ipaddress
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from typing import TypeAlias

    Receive: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]
    Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]
    Asgi: TypeAlias = Callable[[Mapping[str, Any], Receive, Send], Awaitable[None]]
    Wsgi: TypeAlias = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

OWN_DOMAINS = (".localhost", ".internal")
"""Names with dots that nobody on the internet can have: RFC 6761, and what ICANN reserved for private use."""


def is_here(host: str) -> bool:
    """Whether `host`, with or without a port, is an address, or a name of this machine or of its containers."""
    name = host.strip().lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    name = name.removesuffix(".")
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return bool(name) and ("." not in name or name.endswith(OWN_DOMAINS))
    return True


def refusal(host: str | None, origin: str | None) -> str | None:
    """Why a request with these headers is not answered, in a sentence; None if it is."""
    if host is not None and not is_here(host):
        return f"this answers as localhost, and not as {host[:100]!r}"
    if origin is not None and not is_here(origin.partition("://")[2]):
        return f"this answers no page of {origin[:100]!r}"
    return None


def wsgi(application: Wsgi) -> Wsgi:
    """The application, for this machine alone."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        why = refusal(environ.get("HTTP_HOST"), environ.get("HTTP_ORIGIN"))
        if why is None:
            return application(environ, start_response)
        body = _body(why)
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        start_response("403 Forbidden", headers)
        return [body]

    return answer


def asgi(application: Asgi) -> Asgi:
    """The application, for this machine alone."""

    async def answer(scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
            why = refusal(headers.get(b"host"), headers.get(b"origin"))
            if why is not None:
                body = _body(why)
                told = [
                    (b"content-type", b"application/json"),
                    (b"content-length", str(len(body)).encode()),
                ]
                await send({"type": "http.response.start", "status": 403, "headers": told})
                await send({"type": "http.response.body", "body": body})
                return
        await application(scope, receive, send)

    return answer


def _body(why: str) -> bytes:
    return json.dumps({"detail": why, "error": why}).encode()
