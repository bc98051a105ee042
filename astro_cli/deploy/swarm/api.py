"""The calls to an engine in swarm mode that deployments need, over `DockerApi.call`."""

from __future__ import annotations

import base64
import json
import time
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from astro_cli.foundation import labels
from astro_cli.foundation.errors import EngineError, TargetError
from astro_cli.runtime.docker_api import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from astro_cli.domain.repository import Credentials
    from astro_cli.runtime.docker_api import DockerApi
    from astro_cli.runtime.endpoint import Endpoint

NOT_FOUND, CONFLICT, UNAVAILABLE = 404, 409, 503
CHANGE_TRIES = 9
OLDEST_API = (1, 41)
LOOPBACK, SWARM_PORT = "127.0.0.1", 2377
LEADER_SECONDS = 60.0
_NO_LEADER = (
    "does not have a leader",
    "lost leader status",
    "leadership",
    "context deadline exceeded",
    "code = Unavailable",
)


def open_engine(endpoint: Endpoint, where: str) -> DockerApi:
    """The engine of a host.

    Args:
        where: how the host is called in messages.

    Raises:
        TargetError: there is none.
    """
    from astro_cli.runtime.docker_api import DockerApi

    try:
        return DockerApi(endpoint)
    except EngineError as exc:
        raise TargetError(
            f"no Docker engine answers on {where}: {exc.message}",
            hint="install Docker Engine there, and let the user you log in as use it (group `docker`)",
        ) from exc


class SwarmApi:
    """One engine; every method raises `TargetError` when the engine does not answer any more.

    Args:
        login: with which nodes pull the images of services; None for none.
    """

    def __init__(self, api: DockerApi, where: str, login: Credentials | None = None) -> None:
        self.api = api
        self._where = where
        self._login = {"X-Registry-Auth": _encoded(login.for_engine)} if login else None

    @contextmanager
    def reached(self) -> Iterator[None]:
        """What goes wrong with the connection is the target's fault, not that of this machine's engine."""
        try:
            yield
        except EngineError as exc:
            raise TargetError(
                f"lost {self._where}: {exc.message}",
                hint="see whether the host is up, then run the same command again",
            ) from exc

    def call(self, method: str, path: str, **options: Any) -> Any:  # noqa: ANN401 - whatever JSON the engine sends
        """See `DockerApi.call`; a swarm that is choosing another leader is waited for."""
        deadline = time.monotonic() + LEADER_SECONDS
        while True:
            try:
                with self.reached():
                    return self.api.call(method, path, **options)
            except RefusedError as exc:
                if not any(words in exc.message for words in _NO_LEADER):
                    raise
                if time.monotonic() > deadline:
                    raise TargetError(
                        f"the swarm has no leader: too few of its managers are up (asked {self._where})",
                        hint="more than half of its managers must run; `docker node ls` on a host tells more",
                    ) from exc
                time.sleep(1.0)

    def filtered(self, path: str, **filters: list[str]) -> list[dict[str, Any]]:
        """A list, filtered by the engine."""
        return list(self.call("GET", path, filters=json.dumps(filters)) or [])

    def pull(self, reference: str, credentials: Credentials | None) -> None:
        """Have the engine pull an image.

        Raises:
            TargetError: it could not, in its own words.
        """
        error = ""
        with self.reached():
            for line in self.api.pull(reference, credentials.for_engine if credentials else None):
                error = str((line.get("errorDetail") or {}).get("message") or error)
        if error:
            raise TargetError(
                f"{self._where} cannot pull {reference}: {error}",
                hint="the engine there must reach the registry, and trust its certificate",
            )

    # the swarm

    def check(self) -> None:
        """That the engine can do what is asked of it.

        Raises:
            TargetError: it is too old, or belongs to a swarm that is not ours.
        """
        self.check_age()
        swarm = self.call("GET", "/info")["Swarm"]
        if swarm["LocalNodeState"] == "inactive":
            return
        if not swarm.get("ControlAvailable") or not self.is_managed:
            raise TargetError(
                f"the engine on {self._where} belongs to a swarm that astro did not make",
                hint="use another host; or end that swarm (`docker swarm leave --force`) if nobody needs it",
            )

    def check_age(self) -> None:
        """That the engine is new enough.

        Raises:
            TargetError: it is not.
        """
        version = str(self.call("GET", "/version")["ApiVersion"])
        if tuple(int(part) for part in version.split(".")) < OLDEST_API:
            raise TargetError(
                f"the Docker engine on {self._where} is too old (API {version})",
                hint="install Docker Engine 20.10 or newer there",
            )

    def _swarm_labels(self) -> Mapping[str, str]:
        return self.call("GET", "/swarm")["Spec"].get("Labels") or {}

    @property
    def is_swarm(self) -> bool:
        """Whether the engine is in swarm mode already."""
        return str(self.call("GET", "/info")["Swarm"]["LocalNodeState"]) == "active"

    def ensure_swarm(self, address: str = LOOPBACK) -> None:
        """Make the engine a swarm of one node, if it is in none.

        Args:
            address: at which other nodes reach it, and it listens; by default nobody does.
        """
        if self.is_swarm:
            return
        body = {
            **_addresses(address),
            # The engine's own choice, 10.0.0.0/8, is where many hosts' real neighbours are.
            "DefaultAddrPool": ["10.222.0.0/16"],
            "SubnetSize": 24,
            "Spec": {
                "Name": "default",
                "Labels": {labels.MANAGED: "true"},
                "Orchestration": {"TaskHistoryRetentionLimit": 8},
            },
        }
        try:
            self.call("POST", "/swarm/init", body=body)
        except RefusedError:
            if not self.is_swarm:  # else somebody was faster
                raise
        if not self.is_managed:  # an engine that leaves labels out of `init`
            swarm = self.call("GET", "/swarm")
            spec = {**swarm["Spec"], "Labels": {labels.MANAGED: "true"}}
            self.call("POST", "/swarm/update", body=spec, version=str(swarm["Version"]["Index"]))

    def join(self, address: str, *, token: str, managers: Sequence[str]) -> None:
        """Let the engine join a swarm.

        Args:
            address: at which the other nodes reach it.
            token: says whether as a manager.
            managers: addresses of some that are there.
        """
        body = {**_addresses(address), "RemoteAddrs": list(managers), "JoinToken": token}
        self.call("POST", "/swarm/join", body=body)

    @property
    def is_managed(self) -> bool:
        """Whether the swarm is one that astro has made."""
        return self._swarm_labels().get(labels.MANAGED) == "true"

    def nodes(self) -> list[dict[str, Any]]:
        """Every node of the swarm."""
        return self.filtered("/nodes")

    def mark_node(self, node_id: str, marks: Mapping[str, str]) -> None:
        """Set labels of a node besides those it has."""

        def mark() -> None:
            node = self.call("GET", f"/nodes/{node_id}")
            spec = {**node["Spec"], "Labels": {**(node["Spec"].get("Labels") or {}), **marks}}
            version = str(node["Version"]["Index"])
            self.call("POST", f"/nodes/{node_id}/update", body=spec, version=version)

        _in_sequence(mark)

    def now(self) -> datetime:
        """The engine's clock."""
        return parse_time(self.call("GET", "/info")["SystemTime"])

    # services and their tasks

    def services(self, label: str) -> dict[str, dict[str, Any]]:
        """Services with a label (`name=value`), by name; none where there is no swarm."""
        try:
            found = self._services(label=[label])
        except RefusedError as exc:
            if exc.status == UNAVAILABLE:
                return {}
            raise
        return {each["Spec"]["Name"]: each for each in found}

    def service(self, name: str) -> dict[str, Any] | None:
        """One service, or None."""
        try:
            found = self._services(name=[name])  # of every name that begins so
        except RefusedError as exc:
            if exc.status == UNAVAILABLE:
                return None
            raise
        return next((each for each in found if each["Spec"]["Name"] == name), None)

    def _services(self, **filters: list[str]) -> list[dict[str, Any]]:
        return list(self.call("GET", "/services", status="true", filters=json.dumps(filters)) or [])

    def put_service(self, spec: Mapping[str, Any]) -> None:
        """Make a service as `spec` says, or change it to that."""

        def put() -> None:
            existing = self.service(spec["Name"])
            if existing is None:
                self.call("POST", "/services/create", body=spec, headers=self._login)
                return
            query = {"version": str(existing["Version"]["Index"]), "registryAuthFrom": "spec"}
            self.call("POST", f"/services/{existing['ID']}/update", body=spec, headers=self._login, **query)

        _in_sequence(put)

    def update_anew(self, service: Mapping[str, Any]) -> None:
        """Let the engine begin the update of a service again, with the nodes that there are now."""
        template = service["Spec"]["TaskTemplate"]
        forced = {**template, "ForceUpdate": template.get("ForceUpdate", 0) + 1}
        self.put_service({**service["Spec"], "TaskTemplate": forced})

    def remove_service(self, name: str) -> None:
        """Remove a service; one that is gone is fine."""
        self._remove(f"/services/{name}")

    def tasks(self, service: str) -> list[dict[str, Any]]:
        """The tasks of a service, the newest first."""
        found = self.filtered("/tasks", service=[service])
        return sorted(found, key=lambda task: str(task["CreatedAt"]), reverse=True)

    # secrets and configs: immutable, except for labels

    def stored(self, kind: str, label: str) -> dict[str, dict[str, Any]]:
        """Secrets or configs (`kind`) with a label, by name; none where there is no swarm."""
        try:
            found = self.filtered(f"/{kind}", label=[label])
        except RefusedError as exc:
            if exc.status == UNAVAILABLE:
                return {}
            raise
        return {each["Spec"]["Name"]: each for each in found}

    def store(self, kind: str, name: str, data: str, marks: Mapping[str, str]) -> str:
        """Make a secret or config; returns its id.

        Raises:
            RefusedError: with status 409, there is one of that name.
        """
        body = {"Name": name, "Labels": dict(marks), "Data": base64.b64encode(data.encode()).decode()}
        return str(self.call("POST", f"/{kind}/create", body=body)["ID"])

    def mark_config(self, name: str, marks: Mapping[str, str]) -> None:
        """Set labels of a config besides those it has."""
        config = self.call("GET", f"/configs/{name}")
        spec = {**config["Spec"], "Labels": {**config["Spec"]["Labels"], **marks}}
        self.call(
            "POST", f"/configs/{config['ID']}/update", body=spec, version=str(config["Version"]["Index"])
        )

    def forget(self, kind: str, name: str) -> bool:
        """Remove a secret or config; one that is gone is fine. False if something still uses it."""
        return self._remove(f"/{kind}/{name}", in_use_is_fine=True)

    def _remove(self, path: str, *, in_use_is_fine: bool = False) -> bool:
        try:
            self.call("DELETE", path)
        except RefusedError as exc:
            if exc.status == NOT_FOUND:
                return True
            if in_use_is_fine and "in use" in exc.message:
                return False
            raise
        return True


def _addresses(address: str) -> dict[str, str]:
    host = f"[{address}]" if ":" in address else address
    return {"ListenAddr": f"{host}:{SWARM_PORT}", "AdvertiseAddr": address, "DataPathAddr": address}


def _encoded(login: Mapping[str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(dict(login)).encode()).decode()


def config_text(config: Mapping[str, Any]) -> str:
    """What a config holds."""
    return base64.b64decode(config["Spec"]["Data"]).decode()


def parse_time(text: str) -> datetime:
    """A time as engines write it, with nine digits of a second."""
    whole, _, rest = text.rstrip("Z").partition(".")
    digits = "".join(character for character in rest[:6] if character.isdigit()) or "0"
    zone = "+00:00" if text.endswith("Z") else text[-6:]
    return datetime.fromisoformat(f"{whole[:19]}.{digits:0<6}{zone}")


def _in_sequence(change: Callable[[], None]) -> None:
    """Read something of the engine's and write it, again if the engine has written to it in between."""
    for tries_left in range(CHANGE_TRIES, -1, -1):
        try:
            change()
            return
        except RefusedError as exc:
            if "out of sequence" not in exc.message or not tries_left:
                raise
