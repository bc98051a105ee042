"""The checks in front of a deploy: the DAG files parse, and the tests pass, inside the very image that is deployed.

Each runs in containers of its own, so that no sandbox has to run: a CI job has none.
"""

from __future__ import annotations

import json
import secrets
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from astro_cli.deploy.secret_store import new_keys
from astro_cli.domain import airflow
from astro_cli.domain.parse_report import as_text, read_report
from astro_cli.foundation import labels
from astro_cli.foundation.errors import GateError
from astro_cli.runtime.plan import ContainerSpec, PrivateFile
from astro_cli.workflows.inner_loop import RUNNER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from astro_cli.runtime.docker_api import DockerApi
    from astro_cli.runtime.engine import Report

AIRFLOW_USER, POSTGRES_USER = airflow.UID, 999


class Gates:
    """Checks of one image.

    Args:
        image: the project's, by id.
        postgres: the database image's id.
        ignored: whether a file, by its path in the project, is not deployed.
    """

    def __init__(
        self, api: DockerApi, image: str, postgres: str, *, ignored: Callable[[str], bool] = lambda _: False
    ) -> None:
        self._api = api
        self._ignored = ignored
        self._image = image
        self._postgres = postgres

    def parse(self, report: Report) -> None:
        """Every DAG file can be imported.

        Raises:
            GateError: one cannot, or there is no DAG at all.
        """
        report.step("gate: parse")
        with self._network() as network:
            lines = self._run(network, ["parse"], {}, report)[1]
        messages = [line for line in lines if line.startswith("{")]
        try:
            found = read_report(messages)
        except ValueError as exc:
            raise GateError(
                "the parse gate broke off", hint="see the lines above", details=tuple(lines)
            ) from exc
        found = replace(found, files=tuple(file for file in found.files if not self._ignored(file.path)))
        if not found.ok:
            raise GateError(
                "the parse gate refused: a DAG file cannot be imported",
                hint="correct it; `astro airflow parse` shows the same in the sandbox",
                details=tuple(as_text(found)),
            )

    def pytest(self, report: Report) -> None:
        """The project's tests pass.

        Raises:
            GateError: they do not.
        """
        report.step("gate: pytest")
        password = secrets.token_hex(16)
        with self._network() as network:
            database = ContainerSpec(
                name="postgres",
                image=self._postgres,
                command=(),
                user=f"{POSTGRES_USER}:{POSTGRES_USER}",
                environment={},
                mounts=(),
                ports={},
                files=(PrivateFile("/run/astro/password", password, POSTGRES_USER),),
                stop_seconds=1,
            )
            with self._container(database, network) as container:
                self._api.start_container(container)
                code, lines = self._run(network, ["pytest"], new_keys(password), report)
        if code:
            raise GateError(
                f"the pytest gate refused (exit code {code})",
                hint="correct the tests; `astro airflow pytest` runs the same in the sandbox",
                details=tuple(lines[-40:]),
            )

    def _run(
        self, network: str, command: list[str], private: dict[str, str], report: Report
    ) -> tuple[int, list[str]]:
        environment = {**airflow.gate_environment(), **private}
        spec = ContainerSpec(
            name="gate",
            image=self._image,
            command=("python", "/opt/astro/supervisor.py", "exec", "/run/astro", "--", RUNNER, *command),
            user=f"{AIRFLOW_USER}:0",
            environment={},
            mounts=(),
            ports={},
            files=(PrivateFile("/run/astro/environment.json", json.dumps(environment), AIRFLOW_USER),),
            stop_seconds=1,
        )
        lines: list[str] = []

        def on_line(line: str) -> None:
            lines.append(line)
            if not line.startswith("{"):
                report.detail(line)

        with self._container(spec, network) as container:
            return self._api.run_to_end(container, on_line), lines

    @contextmanager
    def _network(self) -> Iterator[str]:
        name = f"astro-gate-{secrets.token_hex(4)}"
        self._api.create_network(name, {labels.KIND: "gate"})
        try:
            yield name
        finally:
            self._api.remove_network(name)

    @contextmanager
    def _container(self, spec: ContainerSpec, network: str) -> Iterator[str]:
        container = self._api.create_container(
            spec, name=f"{network}-{spec.name}", network=network, marks={labels.KIND: "gate"}
        )
        try:
            yield container
        finally:
            self._api.remove_container(container)
