"""Finds the project's services their ports of this machine, and says who has one that is taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from astro_cli.domain.project_services import WAREHOUSE, PlacedService, seed_hash
from astro_cli.foundation import ports
from astro_cli.foundation.errors import AstroError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from pathlib import Path

    from astro_cli.domain.project_services import ProjectService
    from astro_cli.runtime.engine import Engine, Report, SandboxStatus

Remembered = dict[str, int]
"""Ports of earlier starts: `s3:4566`, the service and its port inside, to the port of this machine."""


class Ports:
    """Chooses the ports of this machine.

    Args:
        remembered: see `Remembered`.
        running: the sandbox as it is now, whose ports are its own.
        holder: says who has a port.
    """

    def __init__(
        self, remembered: Mapping[str, int], running: SandboxStatus | None, holder: Callable[[int], str]
    ) -> None:
        self._remembered = remembered
        self._own = {
            port
            for service in (running.services if running else ())
            if service.state != "stopped"
            for port in service.ports
        }
        self._holder = holder

    def place(
        self,
        services: Iterable[ProjectService],
        root: Path,
        *,
        database_port: int | None,
        avoid: Collection[int],
        report: Report,
    ) -> tuple[PlacedService, ...]:
        """Each service with its ports.

        Args:
            root: the project's folder.
            database_port: where Postgres is published, if the user says so; the warehouse is in the same server.
            avoid: ports that are somebody else's, or will be.

        Raises:
            AstroError: a port that the project insists on is taken.
        """
        given = set(avoid)
        placed = []
        for service in services:
            chosen = {}
            for inside in service.ports:
                if service.kind == WAREHOUSE and database_port is not None:
                    port = database_port
                else:
                    port = self._choose(service, inside, given, report)
                given.add(port)
                chosen[inside] = port
            placed.append(PlacedService(service, chosen, seed_hash(root, service)))
        return tuple(placed)

    def _choose(self, service: ProjectService, inside: int, given: Collection[int], report: Report) -> int:
        if inside in service.fixed:
            port = service.fixed[inside]
            if port in given or (port not in self._own and not ports.is_free(port)):
                raise port_error(service, port, self._holder(port))
            return port
        wanted = self._remembered.get(f"{service.name}:{inside}", inside)
        if wanted in self._own and wanted not in given:
            return wanted
        first = max(wanted, 1024)
        found = next(
            (port for port in range(first, 65536) if port not in given and ports.is_free(port)), None
        )
        if found is None:
            raise AstroError(f"no free port was found for the service {service.name}")
        if found != wanted and wanted >= 1024:
            report.detail(f"port {wanted} is in use; {service.name} gets {found}")
        return found


def port_error(service: ProjectService, port: int, holder: str) -> AstroError:
    """A port that the project insists on is somebody else's."""
    return service.error(
        f"port {port} of the service {service.name} is already in use by {holder}",
        hint="stop it, or write another port; without one the next free one is taken",
    )


def holder_of(engine: Engine, port: int) -> str:
    """Who has a port of this machine, in words."""
    return engine.port_holder(port) or ports.holder(port) or "another program"


def taken_error(engine: Engine, port: int, option: str) -> AstroError:
    """A port that the user asks for is somebody else's.

    Args:
        option: what to type before another port.
    """
    other = ports.next_free(port + 1) or "PORT"
    return AstroError(
        f"port {port} is already in use by {holder_of(engine, port)}",
        hint=f"stop it, or choose another port: `{option} {other}`",
    )


def remembered(placed: Iterable[PlacedService]) -> Remembered:
    """What to remember of where services are."""
    return {f"{each.name}:{inside}": port for each in placed for inside, port in each.ports.items()}
