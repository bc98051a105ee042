"""The hosts of a deployment as nodes of one swarm: reached when they are needed, joined when they are bare."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from astro_cli.deploy.ssh import SshConnection
from astro_cli.deploy.swarm.api import LOOPBACK, SWARM_PORT, SwarmApi, open_engine
from astro_cli.foundation.errors import TargetError
from astro_cli.foundation.wait import wait_until
from astro_cli.runtime.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from astro_cli.domain.deployments import Deployment, Host
    from astro_cli.domain.repository import Credentials

HOST = "astro.host"
"""Label of a node: the address by which the deployment's configuration names it."""
MANAGERS = 3
JOIN_SECONDS = 60.0
READY_SECONDS = 30.0
LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class HostEngine:
    """The engine of one host, connected.

    Attributes:
        address: at which the other hosts reach it; empty where nobody has said so.
    """

    host: Host
    api: SwarmApi
    endpoint: Endpoint
    address: str

    def swarm(self) -> dict[str, Any]:
        """What it says of the swarm that it is in."""
        return dict(self.api.call("GET", "/info")["Swarm"])


class Nodes:
    """The hosts of one deployment; connections last as long as it is entered as a context.

    Args:
        login: with which nodes pull images.
    """

    def __init__(self, deployment: Deployment, environ: Mapping[str, str], login: Credentials | None) -> None:
        self._deployment = deployment
        self._environ = environ
        self._login = login
        self._stack = ExitStack()
        self._engines: dict[str, HostEngine | TargetError] = {}

    def __enter__(self) -> Nodes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def engine(self, host: Host) -> HostEngine:
        """The engine of a host; one that could not be reached is not asked again.

        Raises:
            TargetError: it cannot be reached, or is too old.
        """
        if host.url not in self._engines:
            try:
                self._engines[host.url] = self._connected(host)
            except TargetError as exc:
                self._engines[host.url] = exc
        found = self._engines[host.url]
        if isinstance(found, TargetError):
            raise found
        return found

    def engine_of(self, node: Mapping[str, Any]) -> HostEngine | None:
        """The engine of a node; None for one that no host of the deployment is, or that cannot be reached."""
        url = (node["Spec"].get("Labels") or {}).get(HOST)
        host = next((each for each in self._deployment.hosts if each.url == url), None)
        if host is None or node["Status"]["State"] != "ready":
            return None
        try:
            return self.engine(host)
        except TargetError:
            return None

    def _connected(self, host: Host) -> HostEngine:
        url, address = f"unix://{host.socket}", host.private
        if not host.socket:
            ssh = self._stack.enter_context(SshConnection(host, self._deployment, self._environ))
            url, address = f"unix://{ssh.socket}", host.private or ssh.host_address
        endpoint = Endpoint(url, f"the deployment `{self._deployment.name}`")
        api = SwarmApi(open_engine(endpoint, host.url), host.url, self._login)
        api.check_age()
        return HostEngine(host, api, endpoint, address)

    def manager(self) -> HostEngine:
        """The first manager that answers; the first host where all of them are in no swarm yet.

        Raises:
            TargetError: there is none.
        """
        lost: list[TargetError] = []
        bare: list[HostEngine] = []
        for host in self._deployment.hosts:
            try:
                engine = self.engine(host)
                swarm = engine.swarm()
            except TargetError as exc:
                lost.append(exc)
                continue
            state = swarm["LocalNodeState"]
            if state == "active" and swarm.get("ControlAvailable"):
                return engine
            if state == "inactive":
                bare.append(engine)
            elif state != "active":
                lost.append(TargetError(f"the swarm on {host.url} is {state}: {swarm.get('Error', '')}"))
        if lost:
            raise TargetError(
                f"no manager of the swarm can be reached: {lost[0].message}",
                hint=lost[0].hint,
                details=tuple(exc.message for exc in lost[1:]),
            )
        if len(bare) < len(self._deployment.hosts):
            inside = next(host for host in self._deployment.hosts if host not in [each.host for each in bare])
            raise TargetError(
                f"{inside.url} belongs to a swarm of which no manager is named in `hosts`",
                hint="name a manager of that swarm; `docker node ls` there shows them",
            )
        return bare[0]

    def ensure(self, manager: HostEngine) -> list[str]:
        """Have every host in the manager's swarm, which is made if there is none; returns those that are down.

        Raises:
            TargetError: a host cannot be reached, or is in another swarm; nothing was changed.
        """
        is_new = not manager.api.is_swarm
        nodes = [] if is_new else manager.api.nodes()
        known = {(node["Spec"].get("Labels") or {}).get(HOST): node for node in nodes}
        ready = {url for url, node in known.items() if node["Status"]["State"] == "ready"}
        joining: list[HostEngine] = []
        down: list[str] = []
        marks: dict[str, str] = {}
        missed: dict[str, str] = {}
        for host in self._deployment.hosts:
            if host.url in ready:
                continue
            try:
                engine = self.engine(host)
            except TargetError:
                if host.url in known:  # it has been there, so it will come back
                    down.append(host.url)
                    continue
                raise
            swarm = engine.swarm()
            if swarm["LocalNodeState"] == "inactive":
                joining.append(engine)
            elif swarm.get("NodeID") in {node["ID"] for node in nodes}:
                marks[swarm["NodeID"]] = host.url
                missed[swarm["NodeID"]] = host.url
            else:
                raise TargetError(
                    f"{host.url} belongs to another swarm than {manager.host.url}",
                    hint="take it out of `hosts`, or end that swarm (`docker swarm leave --force`)",
                )
        if joining:
            self._join(manager, joining, is_new=is_new)
            marks |= {str(each.swarm()["NodeID"]): each.host.url for each in joining}
        for node_id, url in marks.items():
            manager.api.mark_node(node_id, {HOST: url})
        return [*down, *self._not_ready(manager, missed)]

    def _not_ready(self, manager: HostEngine, missed: Mapping[str, str]) -> list[str]:
        """Those of these nodes that the swarm misses for longer than a busy one would be.

        Args:
            missed: their hosts, by id.
        """

        def left() -> list[str]:
            states = {node["ID"]: node["Status"]["State"] for node in manager.api.nodes()}
            return [url for node_id, url in missed.items() if states.get(node_id) != "ready"]

        if missed:
            wait_until(lambda: None if left() else True, seconds=READY_SECONDS, pause=LOOK_SECONDS)
        return left() if missed else []

    def _join(self, manager: HostEngine, joining: Sequence[HostEngine], *, is_new: bool) -> None:
        nowhere = next((each for each in (manager, *joining) if not each.address), None)
        if nowhere is not None:
            raise TargetError(
                f"nobody knows at which address the other hosts reach {nowhere.host.url}",
                hint=f"write it so: `hosts: [{{url: {nowhere.host.url}, private: 10.0.0.1}}, …]`",
            )
        if not is_new and not manager.api.is_managed:
            raise TargetError(
                f"{joining[0].host.url} is not in the swarm of {manager.host.url}, which astro did not make",
                hint="let it join by hand: `docker swarm join-token worker` on a manager tells how",
            )
        manager.api.ensure_swarm(manager.address)
        swarm = manager.api.call("GET", "/swarm")
        wanted = MANAGERS if len(self._deployment.hosts) >= MANAGERS else 1
        there = [node for node in manager.api.nodes() if node["Spec"]["Role"] == "manager"]
        addresses = [node["ManagerStatus"]["Addr"] for node in there]
        if addresses[0].startswith(LOOPBACK):
            raise TargetError(
                f"the swarm of {manager.host.url} listens on loopback alone, so no other host can join it",
                hint="it was made for deployments with `target: host`: destroy these first, or take another host",
            )
        count = len(there)
        for engine in joining:
            if engine is manager:
                continue
            role = "Manager" if count < wanted else "Worker"
            count += role == "Manager"
            engine.api.join(engine.address, token=swarm["JoinTokens"][role], managers=addresses)
        self._wait_joined(manager, count)

    def _wait_joined(self, manager: HostEngine, managers: int) -> None:
        """Until all are ready, and so many managers can be reached: before that a lost one loses the swarm."""
        deadline = time.monotonic() + JOIN_SECONDS
        while True:
            nodes = manager.api.nodes()
            reachable = [(node.get("ManagerStatus") or {}).get("Reachability") for node in nodes]
            hosts = self._deployment.hosts
            ready = sum(node["Status"]["State"] == "ready" for node in nodes)
            if reachable.count("reachable") >= managers and ready >= len(hosts):
                return
            if time.monotonic() > deadline:
                raise TargetError(
                    f"the hosts did not become one swarm within {JOIN_SECONDS:.0f} s",
                    hint=f"they must reach each other on the ports {SWARM_PORT}/tcp, 7946/tcp+udp and 4789/udp",
                )
            time.sleep(LOOK_SECONDS)
