"""What the commands about deployments share: the deployment that is meant, its secrets, the way to its target."""

from __future__ import annotations

import getpass
import os
import socket
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from functools import cached_property
from typing import TYPE_CHECKING

from astro_cli.deploy.connect import open_target
from astro_cli.deploy.secret_values import read_pem, resolve_certificate, resolve_secrets
from astro_cli.deploy.stack import Names
from astro_cli.domain.deployments import (
    HOST,
    KUBERNETES,
    SWARM,
    check_deployment_name,
    choose_deployment,
    parse_deployments,
    read_deployments,
)
from astro_cli.domain.deployments_file import with_deployment, with_fields, without_deployment
from astro_cli.domain.image import EDGE_LAYER, KUBERNETES_LAYER
from astro_cli.domain.settings import PROJECT_FILE
from astro_cli.foundation import yamlfile
from astro_cli.foundation.errors import ProjectError, UsageError
from astro_cli.foundation.paths import write_atomic
from astro_cli.workflows.deployment import Built, Deployer, DeployOptions
from astro_cli.workflows.release_build import build

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from astro_cli.airflow_api import AirflowApi
    from astro_cli.app import App
    from astro_cli.deploy.target import Secrets, Target
    from astro_cli.domain.deployments import Deployment
    from astro_cli.runtime.engine import Report
    from astro_cli.workflows.edge import EdgeWorkers


def add_deployment(root: Path, name: str, fields: Mapping[str, Any]) -> Deployment:
    """Write a deployment into the project's configuration.

    Raises:
        UsageError: there is one of that name.
        ProjectError: a field is wrong; the file is as it was.
    """
    path = root / PROJECT_FILE
    check_deployment_name(name)
    if name in read_deployments(root):
        raise UsageError(f"there is a deployment `{name}` already", hint=f"edit it in {PROJECT_FILE}")
    text = with_deployment(yamlfile.read_text(path, name=str(PROJECT_FILE)), name, fields)
    made = parse_deployments(yamlfile.parse(text, name=str(PROJECT_FILE)))[name]
    write_atomic(path, text, mode=path.stat().st_mode & 0o777)
    return made


def remove_deployment(root: Path, name: str) -> None:
    """Take a deployment out of the project's configuration.

    Raises:
        ProjectError: that cannot be done by a program; the file is as it was.
    """
    path = root / PROJECT_FILE
    known = read_deployments(root)
    choose_deployment(known, name)
    text = without_deployment(yamlfile.read_text(path, name=str(PROJECT_FILE)), name)
    left = {key: value for key, value in known.items() if key != name}
    _write(path, text, left, name, advice="take it out with an editor")


def change_variables(
    root: Path, name: str | None, values: Mapping[str, str], secrets: Sequence[str], removed: Sequence[str]
) -> tuple[Deployment, Deployment]:
    """What a deployment is with other variables, before and after; nothing is written.

    Args:
        values: plain variables to set.
        secrets: names of variables whose values are secret.
        removed: names of variables to take away.

    Raises:
        UsageError: one that is to be removed is not there.
    """
    before = choose_deployment(read_deployments(root), name)
    unknown = next((each for each in removed if each not in {*before.env, *before.secrets}), None)
    if unknown is not None:
        known = ", ".join((*before.env, *before.secrets)) or "none"
        raise UsageError(f"{before.name} has no variable {unknown}", hint=f"there is: {known}")
    gone = {*removed, *secrets}
    env = {key: value for key, value in {**before.env, **values}.items() if key not in gone}
    kept = [each for each in before.secrets if each not in {*removed, *values}]
    return before, replace(before, env=env, secrets=tuple(dict.fromkeys((*kept, *secrets))))


def write_variables(root: Path, wanted: Deployment) -> None:
    """Write a deployment's variables into the project's configuration.

    Raises:
        ProjectError: they cannot be written there by a program; the file is as it was.
    """
    path = root / PROJECT_FILE
    fields = {"env": dict(wanted.env), "secrets": list(wanted.secrets)}
    text = with_fields(yamlfile.read_text(path, name=str(PROJECT_FILE)), wanted.name, fields)
    made = {**read_deployments(root), wanted.name: wanted}
    _write(path, text, made, wanted.name, advice="change `env` and `secrets` with an editor")


def _write(path: Path, text: str, wanted: Mapping[str, Deployment], name: str, *, advice: str) -> None:
    """Replace the configuration, if it then says just what is wanted."""
    if parse_deployments(yamlfile.parse(text, name=str(PROJECT_FILE))) != wanted:
        raise ProjectError(
            f"{PROJECT_FILE}: the lines of {name} are not written as a program can change them", hint=advice
        )
    write_atomic(path, text, mode=path.stat().st_mode & 0o777)


COMPANIONS = {HOST: ("postgres", "proxy"), SWARM: ("postgres", "proxy"), KUBERNETES: ("postgres",)}
"""Images that stand beside Airflow's on each kind of target."""
TOKEN_VARIABLE = "ASTRO_AIRFLOW_TOKEN"  # noqa: S105 - the name of a variable
"""A token for the API of a deployment with an auth manager of its own."""


class Remote:
    """One deployment of the project at hand.

    Args:
        name: of the deployment; None for the only one.
    """

    def __init__(self, app: App, name: str | None) -> None:
        self._app = app
        self._name = name

    @cached_property
    def deployment(self) -> Deployment:
        """As the project declares it."""
        return choose_deployment(read_deployments(self._app.project.root), self._name)

    @property
    def names(self) -> Names:
        """How everything of it is called."""
        project = self._app.project
        return Names(project.project_id, project.name, self.deployment.name)

    @property
    def more_services(self) -> tuple[str, ...]:
        """The services that it has and a sandbox has not."""
        from astro_cli.deploy import stack
        from astro_cli.deploy.swarm.proxy import PROXY
        from astro_cli.domain.deployments import SWARM

        groups = tuple(group.name for group in self.deployment.workers)
        spread = (stack.LOG_SERVER.name,) if self.deployment.target == SWARM else ()
        return (stack.JANITOR.name, PROXY, *((stack.BROKER,) if groups else ()), *spread, *groups)

    def secrets(self) -> Secrets:
        """The values of its secrets."""
        return resolve_secrets(self.deployment, self._app.project.root, self._app.environ)

    def certificate(self) -> Secrets:
        """The value of its certificate alone; see `resolve_certificate`."""
        return resolve_certificate(self.deployment, self._app.project.root, self._app.environ)

    def build(self, image: str | None, report: Report) -> Built:
        """The project's image, and what it is made of."""
        app = self._app
        wanted = self.deployment
        companions = (*COMPANIONS[wanted.target], *(("broker",) if wanted.workers else ()))
        return build(
            app.project,
            app.docker,
            app.settings,
            app.environ,
            image,
            companions,
            report,
            layers=(
                *((KUBERNETES_LAYER,) if wanted.executor == KUBERNETES else ()),
                *((EDGE_LAYER,) if wanted.edge else ()),
            ),
        )

    @contextmanager
    def target(self, *, changing: bool = False) -> Iterator[Target]:
        """Its target, connected."""
        wanted = self.deployment
        if wanted.registry_authority:
            path = self._app.project.root / os.path.expanduser(wanted.registry_authority)  # noqa: PTH111 - never fails
            wanted = replace(wanted, registry_authority=str(path))
        with open_target(wanted, self.names, self._app.environ, lambda: self._app.docker.api) as target:
            target.check(changing=changing)
            yield target

    def edge(self, target: Target, report: Report) -> EdgeWorkers:
        """Its workers outside.

        Args:
            target: see `target`.

        Raises:
            UsageError: it has none.
        """
        from astro_cli.deploy.connect import open_machine
        from astro_cli.deploy.registry import find_credentials
        from astro_cli.deploy.swarm.target import SwarmTarget
        from astro_cli.domain.repository import parse_repository
        from astro_cli.workflows.edge import EdgeWorkers

        wanted, environ = self.deployment, self._app.environ
        if not wanted.edge or not isinstance(target, SwarmTarget):
            raise UsageError(
                f"{wanted.name} has no machines outside",
                hint=f"declare a group of them below `edge:` of {wanted.name} in {PROJECT_FILE}, then deploy",
            )
        return EdgeWorkers(
            wanted,
            self.names,
            target,
            lambda host: open_machine(host, wanted, self.names, environ),
            lambda: self._app.docker.api,
            find_credentials(parse_repository(wanted.registry).host, environ) if wanted.registry else None,
            lambda path: read_pem(path, self._app.project.root, "authority"),
            report,
        )

    @contextmanager
    def airflow(self) -> Iterator[AirflowApi]:
        """Its Airflow's API, logged in: with the token in ASTRO_AIRFLOW_TOKEN, else as the admin.

        Raises:
            UsageError: it has an auth manager of the user's own, and there is no token.
        """
        from astro_cli.airflow_api import AirflowApi
        from astro_cli.domain.airflow import ADMIN

        token = self._app.environ.get(TOKEN_VARIABLE, "")
        with self.target() as target:
            password = "" if token else target.admin_password()
            if not token and not password:
                raise UsageError(
                    f"{self.deployment.name} has an auth manager of its own",
                    hint=f"log in there, and put the token into {TOKEN_VARIABLE}",
                )
            with target.forwarded_api() as url, AirflowApi(url, seconds=60.0, token=token) as api:
                if password:
                    api.log_in(ADMIN, password)
                yield api

    @contextmanager
    def opened(self, report: Report) -> Iterator[Deployer]:
        """What changes it."""
        with self.target(changing=True) as target:
            yield Deployer(self.deployment, target, report)

    def options(self, *, description: str = "", wait: float = 300.0, lock_wait: float = 0.0) -> DeployOptions:
        """How to deploy, by whom, and when."""
        return DeployOptions(
            lock_wait=lock_wait,
            wait=wait,
            description=description,
            who=os.environ.get("ASTRO_DEPLOYER") or f"{getpass.getuser()}@{socket.gethostname()}",
            now=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
