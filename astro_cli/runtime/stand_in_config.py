"""What a stand-in is told when it starts, the same on every engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from astro_cli.domain.project_services import PAGE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from astro_cli.domain.project_services import PlacedService


def config(
    each: PlacedService, *, host: str, ports: Mapping[int, int], data: str, read: str | None
) -> dict[str, Any]:
    """What the program of a stand-in other than Redis reads from its one file.

    Args:
        host: where it listens.
        ports: a port of the service to the one it listens on.
        data: the folder it keeps its data in.
        read: what it finds the project's folder (`seed`, `fixtures`) as; None where the project names none.
    """
    service = each.service
    told: dict[str, Any] = {"host": host, "port": ports[service.ports[0]], "data": data}
    if service.kind == "s3":
        told |= {"seed": read, "seed_hash": each.seed, "buckets": service.buckets}
    elif service.kind == "http-stub":
        told |= {"fixtures": read}
    elif service.kind == "mail":
        told |= {"page_port": ports[service.ports[PAGE]]}
    return told


def redis_options(host: str, port: int, data: str) -> tuple[str, ...]:
    """How Redis runs: no password on the loopback interface, and every change is written down."""
    return (
        *("--bind", host, "--port", str(port), "--protected-mode", "no", "--dir", data),
        *("--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"),
    )
