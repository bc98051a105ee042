"""Edge workers: groups of machines outside of a deployment, which take the tasks of queues of their own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from astro_cli.domain.workers import CONCURRENCY, DEFAULT_QUEUE, GROUP_NAME, MAX_CONCURRENCY, read_queues

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from astro_cli.domain.deployments import Host
    from astro_cli.domain.workers import WorkerGroup
    from astro_cli.foundation.yamlfile import Node

_FIELDS = ("queues", "concurrency", "hosts", "secrets", "authority")
_MACHINE_LENGTH = 24
"""With the name of a group and the number of a release, no more than the 64 characters that Airflow keeps."""


@dataclass(frozen=True)
class EdgeGroup:
    """Machines that are alike: each runs one worker.

    Attributes:
        queues: whose tasks go there, and nowhere else.
        concurrency: tasks at once on each machine.
        hosts: the machines whose workers astro starts; to others it is brought as files.
        secrets: names of the deployment's secrets that tasks there are given. Others never leave the deployment.
        authority: PEM file with who signed the certificate of the web address; empty for one that everybody knows.
    """

    name: str
    queues: tuple[str, ...]
    concurrency: int = CONCURRENCY
    hosts: tuple[Host, ...] = ()
    secrets: tuple[str, ...] = ()
    authority: str = ""

    def on_target(self) -> dict[str, Any]:
        """What a release has to know of it: no addresses. Plain JSON data."""
        return {
            "queues": list(self.queues),
            "concurrency": self.concurrency,
            "secrets": sorted(self.secrets),
        }


def read_edge(
    section: Node, *, address: Callable[[Node], Host], workers: Sequence[WorkerGroup], secrets: Sequence[str]
) -> tuple[EdgeGroup, ...]:
    """The groups of a deployment.

    Args:
        address: reads the address of a machine.
        workers: the groups of Celery workers inside.
        secrets: names of the deployment's secrets.

    Raises:
        ProjectError: something in them is wrong; the message names file and line.
    """
    groups = tuple(
        _group(name, node, address=address, secrets=secrets) for name, node in section.entries().items()
    )
    if not groups:
        raise section.error(f"{section.path} must name a group of machines", hint="for example {onsite: {}}")
    served = {queue: f"the workers `{group.name}`" for group in workers for queue in group.queues}
    served[DEFAULT_QUEUE] = "the deployment itself"
    for group, node in zip(groups, section.entries().values(), strict=True):
        for queue in group.queues:
            if queue in served:
                raise node.error(
                    f"the queue {queue} of {node.path} is served by {served[queue]} already",
                    hint="give the machines outside a queue of their own",
                )
            served[queue] = f"the machines `{group.name}`"
    return groups


def _group(name: str, node: Node, *, address: Callable[[Node], Host], secrets: Sequence[str]) -> EdgeGroup:
    if not GROUP_NAME.fullmatch(name):
        raise node.error(
            f'"{name}" cannot name a group of machines',
            hint="use up to 31 small letters, digits and -, first a letter",
        )
    entries = node.mapping(optional=_FIELDS) if node.value is not None else {}
    named: list[str] = []
    for item in entries["secrets"].items() if "secrets" in entries else ():
        if item.string() not in secrets:
            raise item.error(
                f"{item.string()} is none of the deployment's `secrets`", hint="name it there as well"
            )
        named.append(item.string())
    hosts: list[Host] = []
    for item in entries["hosts"].items() if "hosts" in entries else ():
        host = address(item)
        if machine_of(host) in map(machine_of, hosts):
            raise item.error(f"two machines of {node.path} would be called {machine_of(host)}")
        hosts.append(host)
    queues = read_queues(entries["queues"]) if "queues" in entries else (name,)
    if not queues:
        raise entries["queues"].error(
            f"{entries['queues'].path} must name a queue", hint=f"leave it out for a queue called {name}"
        )
    return EdgeGroup(
        name=name,
        queues=queues,
        concurrency=entries["concurrency"].integer(1, MAX_CONCURRENCY)
        if "concurrency" in entries
        else CONCURRENCY,
        hosts=tuple(hosts),
        secrets=tuple(dict.fromkeys(named)),
        authority=entries["authority"].string() if "authority" in entries else "",
    )


def machine_of(host: Host) -> str:
    """What a machine is called in the name of its worker."""
    name = host.address.rpartition("@")[2] or "here"
    return machine_name(f"{name}-{host.port}" if host.port else name)


def machine_name(text: str) -> str:
    """A name that fits into that of a worker, made of any text."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:_MACHINE_LENGTH].strip("-") or "machine"


def worker_name(group: str, machine: str, release: int) -> str:
    """How Airflow calls the worker of a release on a machine: the next release's is another worker beside it."""
    return f"{group}-{machine}-{release}"


def release_of(worker: str) -> int | None:
    """The release that a worker is of, as its name says; None for one that astro did not name."""
    number = worker.rpartition("-")[2]
    return int(number) if number.isascii() and number.isdecimal() else None


def queues_of(groups: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """All queues whose tasks go outside, of the groups as `EdgeGroup.on_target` tells them."""
    return tuple(queue for group in groups.values() for queue in group["queues"])
