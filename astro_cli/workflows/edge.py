"""Workers outside of a deployment: started on their machines, brought to the running release, ended."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from astro_cli.deploy.edge import plan
from astro_cli.domain.edge import machine_of, worker_name
from astro_cli.foundation.errors import AstroError, TargetError, UsageError
from astro_cli.foundation.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from astro_cli.deploy.edge.machine import Machine
    from astro_cli.deploy.stack import Names
    from astro_cli.deploy.swarm.target import SwarmTarget
    from astro_cli.domain.deployments import Deployment, Host
    from astro_cli.domain.edge import EdgeGroup
    from astro_cli.domain.releases import Release
    from astro_cli.domain.repository import Credentials
    from astro_cli.runtime.docker_api import DockerApi
    from astro_cli.runtime.engine import Report

LOOK_SECONDS = 2.0


class WorkerError(AstroError):
    """A worker outside did not come up."""

    code = "unhealthy"
    exit_code = 5


@dataclass(frozen=True)
class Outside:
    """One machine's worker after something was done.

    Attributes:
        draining: names of workers of older releases there that finish their tasks.
        error: why it is not what it should be; empty if it is.
    """

    group: str
    where: str
    worker: str
    started: bool = False
    draining: tuple[str, ...] = ()
    error: str = ""


class EdgeWorkers:
    """The workers outside of one deployment.

    Args:
        target: the deployment, connected.
        machines: connects a machine.
        local: opens this machine's engine, which may have the image.
        credentials: the login for the registry, or None.
        read: the text of a file of the project.
    """

    def __init__(
        self,
        deployment: Deployment,
        names: Names,
        target: SwarmTarget,
        machines: Callable[[Host], AbstractContextManager[Machine]],
        local: Callable[[], DockerApi],
        credentials: Credentials | None,
        read: Callable[[str], str],
        report: Report,
    ) -> None:
        self._deployment = deployment
        self._names = names
        self._target = target
        self._machines = machines
        self._local = local
        self._credentials = credentials
        self._read = read
        self._report = report

    def states(self) -> list[dict[str, Any]]:
        """Every worker that Airflow knows: `name`, `state`, `queues`, `running`, `seconds` since its last sign."""
        found: list[dict[str, Any]] = json.loads(self._target.tell([*plan.TELL, "workers"]))
        return found

    def start(self, groups: Sequence[EdgeGroup], wait: float) -> list[Outside]:
        """Have a worker of the running release on each machine; those of older ones finish their tasks.

        A machine that cannot be reached holds up no other one: see `Outside.error`.

        Args:
            wait: seconds that a worker may take until the deployment has heard of it.
        """
        release = self._release()
        done = [
            self._tried(self._start, group, host, release, wait) for group in groups for host in group.hosts
        ]
        self._forget()
        return done

    def stop(self, groups: Sequence[EdgeGroup]) -> list[Outside]:
        """End the workers on each machine when their tasks are done, and remove what was made there."""
        release = self._release()
        done = [
            self._tried(self._stop, group, host, release, 0.0) for group in groups for host in group.hosts
        ]
        self._forget()
        return done

    def write(self, group: EdgeGroup, machine: str, folder: Path) -> str:
        """Write a worker as files for Docker Compose; returns its name.

        Raises:
            UsageError: the image is in no registry.
        """
        from astro_cli.foundation.paths import write_atomic

        release = self._release()
        if "@" not in release.image:
            raise UsageError(
                f"the image of {self._deployment.name} is in no registry, from which a machine could pull it",
                hint="name a `registry` and deploy; or name the machine in `hosts` of the group",
            )
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / plan.SECRETS_NAME, self._secrets(release, group), mode=0o600)
        text = plan.compose_text(self._names, release, group.name, machine)
        write_atomic(folder / plan.COMPOSE_FILE, text, mode=0o644)
        return worker_name(group.name, machine, release.serving)

    def follow(self, wait: float) -> None:
        """After a new release: bring the machines to it, and say which workers do not run it."""
        done = self.start(self._deployment.edge, wait)
        for each in done:
            if each.error:
                self._report.warn(f"{each.error}; `astro deployment edge start` tries again")
        known = {name for each in done for name in (each.worker, *each.draining)}
        older = [name for name in plan.older(self.states(), self._release()) if name not in known]
        if older:
            self._report.warn(
                f"of an older release: {', '.join(older)}; "
                "`astro deployment edge file` writes the files of their machines anew"
            )

    # one machine

    def _tried(
        self, act: Callable[..., Outside], group: EdgeGroup, host: Host, release: Release, wait: float
    ) -> Outside:
        name = worker_name(group.name, machine_of(host), release.serving)
        try:
            with self._machines(host) as machine:
                return act(machine, group, name, machine_of(host), release, wait)
        except AstroError as exc:
            details = f" ({exc.details[-1]})" if exc.details else ""
            return Outside(group.name, host.url, name, error=f"{exc.message}{details}")

    def _start(
        self, machine: Machine, group: EdgeGroup, name: str, place: str, release: Release, wait: float
    ) -> Outside:
        self._require_same_platform(machine)
        image = self._bring(machine, release)
        spec = plan.container(
            self._names,
            release,
            group.name,
            place,
            image=image,
            secrets=self._secrets(release, group),
        )
        there = machine.workers(group.name)
        same = [
            each for each in there if each.running and not each.ends and each.config_hash == spec.config_hash
        ]
        if not same:
            for each in there:
                if each.worker == name:  # ended by somebody, or not what it should be
                    machine.remove(each)
            self._report.step(f"start {name} on {machine.where}")
            container = machine.start(spec)
            if wait_until(lambda: self._is_ready(name), seconds=wait, pause=LOOK_SECONDS) is None:
                lines = machine.last_lines(container)
                machine.remove(next(each for each in machine.workers(group.name) if each.worker == name))
                raise WorkerError(
                    f"{name} on {machine.where} did not reach {self._deployment.publish.base_url} "
                    f"within {wait:.0f} s",
                    hint="see that the machine reaches the deployment at that address",
                    details=lines,
                )
        draining = []
        for each in machine.workers(group.name):
            if each.worker == name:
                continue
            if each.running and not each.ends:
                machine.drain(each.container)
            if machine.is_running(each.container):
                draining.append(each.worker)
            else:
                machine.remove(each)
        return Outside(group.name, machine.where, name, started=not same, draining=tuple(draining))

    def _stop(
        self,
        machine: Machine,
        group: EdgeGroup,
        name: str,
        place: str,  # noqa: ARG002 - like `_start`
        release: Release,
        wait: float,  # noqa: ARG002
    ) -> Outside:
        there = machine.workers(group.name)
        for each in there:
            if each.running and not each.ends:
                machine.drain(each.container)
        if there:
            self._report.step(f"wait for the tasks on {machine.where}")
        seconds = release.configuration["drain"] + plan.GRACE_SECONDS
        for each in there:
            wait_until(
                lambda each=each: None if machine.is_running(each.container) else True,  # type: ignore[misc]
                seconds=seconds,
                pause=LOOK_SECONDS,
            )
            machine.remove(each)
        machine.remove_network()
        return Outside(group.name, machine.where, name)

    def _is_ready(self, name: str) -> bool | None:
        ready = any(each["name"] == name and each["state"] in plan.READY for each in self.states())
        return True if ready else None

    def _require_same_platform(self, machine: Machine) -> None:
        there, here = machine.platform(), self._target.platform()
        if there != here:
            raise TargetError(
                f"{machine.where} is {there}, but the image of {self._deployment.name} is for {here}",
                hint="take a machine of the same kind",
            )

    def _bring(self, machine: Machine, release: Release) -> str:
        if "@" in release.image:
            return machine.pull(release.image, self._credentials, self._report)
        local = self._local()
        source = local if local.image_id(release.image) else self._target.api.api
        return machine.receive(release.image, source, self._report)

    # what the deployment says

    def _release(self) -> Release:
        release = self._target.state().current
        if release is None:
            raise UsageError("there is no release there yet", hint="`astro deploy` makes one")
        missing = [group.name for group in self._deployment.edge if group.name not in _groups(release)]
        if missing:
            raise UsageError(
                f"release {release.id} knows nothing of the machines `{missing[0]}`",
                hint="`astro deploy` brings the configuration there",
            )
        return release

    def _secrets(self, release: Release, group: EdgeGroup) -> str:
        names = release.configuration["edge"][group.name]["secrets"]
        authority = self._read(group.authority) if group.authority else ""
        return plan.secrets_text(json.loads(self._target.tell([*plan.TELL, "secrets", *names])), authority)

    def _forget(self) -> None:
        """Let Airflow forget workers of older releases that are gone."""
        with suppress(AstroError):
            current = self._release().serving
            mine = [each["name"] for each in self.states() if plan.is_older(each["name"], current)]
            if mine:
                self._target.tell([*plan.TELL, "forget", *mine])


def _groups(release: Release) -> dict[str, Any]:
    return dict(release.configuration.get("edge", {}))
