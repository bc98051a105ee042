"""One machine outside of a deployment, over its Docker engine: the containers of workers that run there."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from astro_cli.deploy.transfer import transfer
from astro_cli.foundation import labels
from astro_cli.runtime.docker_api import RefusedError
from astro_cli.runtime.docker_logs import unframe
from astro_cli.runtime.engine_http import EngineReader, NotFound

if TYPE_CHECKING:
    from astro_cli.deploy.ssh import SshConnection
    from astro_cli.deploy.stack import Names
    from astro_cli.deploy.swarm.api import SwarmApi
    from astro_cli.domain.repository import Credentials
    from astro_cli.runtime.docker_api import DockerApi
    from astro_cli.runtime.endpoint import Endpoint
    from astro_cli.runtime.engine import Report
    from astro_cli.runtime.plan import ContainerSpec

NETWORK = "edge"
NOT_FOUND = 404
LAST_LINES = 15


@dataclass(frozen=True)
class Placed:
    """The container of a worker.

    Attributes:
        worker: its name to Airflow.
        ends: whether it was told to end, and finishes its tasks.
    """

    container: str
    worker: str
    group: str
    release: int
    image: str
    config_hash: str
    running: bool
    ends: bool


class Machine:
    """A connected machine.

    Args:
        ssh: the way there; None for an engine of this machine.
    """

    def __init__(
        self, engine: SwarmApi, endpoint: Endpoint, ssh: SshConnection | None, names: Names, where: str
    ) -> None:
        self._engine = engine
        self._endpoint = endpoint
        self._ssh = ssh
        self._names = names
        self.where = where

    def platform(self) -> str:
        """What kind of machine it is, in the words of images."""
        self._engine.check_age()
        version = self._engine.call("GET", "/version")
        return f"{version['Os']}/{version['Arch']}"

    def workers(self, group: str) -> list[Placed]:
        """The workers of a group that are there, those that have ended included."""
        mine = [f"{key}={value}" for key, value in self._names.labels.items()]
        found = self._engine.call(
            "GET", "/containers/json", all="true", filters=_filters([*mine, f"{labels.EDGE}={group}"])
        )
        return [self._placed(each["Id"]) for each in found or ()]

    def _placed(self, container: str) -> Placed:
        told = self._engine.call("GET", f"/containers/{container}/json")
        marks = told["Config"]["Labels"]
        return Placed(
            container=container,
            worker=told["Config"]["Hostname"],
            group=marks[labels.EDGE],
            release=int(marks[labels.RELEASE]),
            image=told["Image"],
            config_hash=marks.get(labels.CONFIG_HASH, ""),
            running=bool(told["State"]["Running"] or told["State"]["Restarting"]),
            ends=told["HostConfig"]["RestartPolicy"]["Name"] == "no",
        )

    # images

    def pull(self, reference: str, credentials: Credentials | None, report: Report) -> str:
        """Have an image of a registry there; returns the id by which the engine knows it.

        Raises:
            TargetError: the engine could not pull it, in its own words.
        """
        with self._engine.reached():
            known = self._engine.api.image_id(reference)
            if known is None:
                report.step(f"pull on {self.where}")
                self._engine.pull(reference, credentials)
                known = self._engine.api.image_id(reference)
        return known or reference

    def receive(self, image: str, source: DockerApi, report: Report) -> str:
        """Have an image of another engine there, through the connection; returns its id there."""
        report.step(f"copy the image to {self.where}")
        with self._engine.reached():
            known = self._engine.api.image_id(image)
            if known is None and self._ssh is None:
                source.copy_image(image, self._engine.api)
                known = image
        if known is not None:
            return known
        assert self._ssh is not None
        return transfer(source, image, self._engine.api, self._ssh, self._names.of(NETWORK), report)

    # containers

    def start(self, spec: ContainerSpec) -> str:
        """Start a worker; returns its container."""
        name = self._names.of(f"edge-{spec.name}")
        with self._engine.reached():
            self._ensure_network()
            container = self._engine.api.create_container(
                spec, name=name, network=self._names.of(NETWORK), marks={}, keep=True
            )
            self._engine.api.start_container(container)
        return container

    def _ensure_network(self) -> None:
        try:
            self._engine.call("GET", f"/networks/{self._names.of(NETWORK)}")
        except RefusedError as exc:
            if exc.status != NOT_FOUND:
                raise
            self._engine.api.create_network(self._names.of(NETWORK), self._names.labels)

    def drain(self, container: str) -> None:
        """Let a worker take no new task, and end when those that it has are done; does not wait for it."""
        with suppress(RefusedError):  # it ends just now
            self._engine.call(
                "POST", f"/containers/{container}/update", body={"RestartPolicy": {"Name": "no"}}
            )
            self._engine.call("POST", f"/containers/{container}/kill", signal="SIGTERM")

    def is_running(self, container: str) -> bool:
        """Whether a container that is there still runs."""
        try:
            return bool(self._engine.call("GET", f"/containers/{container}/json")["State"]["Running"])
        except RefusedError as exc:
            if exc.status != NOT_FOUND:
                raise
            return False

    def remove(self, placed: Placed) -> None:
        """Remove a container, and its image if no other needs it."""
        with self._engine.reached():
            self._engine.api.remove_container(placed.container)
            self._engine.api.remove_image(placed.image)

    def remove_network(self) -> None:
        """Remove what is left when the last worker is gone."""
        with suppress(RefusedError):
            self._engine.call("DELETE", f"/networks/{self._names.of(NETWORK)}")

    def last_lines(self, container: str) -> tuple[str, ...]:
        """What a container wrote last."""
        reader = EngineReader(self._endpoint)
        options = {"stdout": "true", "stderr": "true", "tail": str(LAST_LINES)}
        with suppress(NotFound), self._engine.reached():
            return tuple(unframe(reader.stream(f"/containers/{container}/logs", timeout=60.0, **options)))
        return ()


def _filters(marks: list[str]) -> str:
    return json.dumps({"label": marks})
