"""The standalone engine: runs a stack as local processes under one supervisor, where there is no Docker.

What belongs to a sandbox is in one private folder, found again by its `sandbox.json`; what sandboxes share (the
Python environment, Postgres, the database template) is in the user's cache, see `venv.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import astro_cli
from astro_cli.domain import airflow
from astro_cli.domain.image import dockerfile_version, images_folder
from astro_cli.domain.project_services import WAREHOUSE
from astro_cli.domain.services import SERVICES, ServiceStatus, hosted_by
from astro_cli.foundation import ports, process
from astro_cli.foundation.errors import AstroError, ProjectError, UsageError
from astro_cli.foundation.paths import make_private_dir, read_json, sandbox_dir, state_dir, write_atomic
from astro_cli.runtime import service_health, standalone_logs, standalone_services
from astro_cli.runtime.endpoint import EngineInfo
from astro_cli.runtime.engine import NEW_DATABASE, Change, Environment, PortTakenError, SandboxStatus
from astro_cli.runtime.supervised import service_status
from astro_cli.runtime.venv import (
    COMPLETE,
    POSTGRES_SCRIPT,
    Inputs,
    Workshop,
    clean_environment,
    missing_packages,
    requirement_lines,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from astro_cli.domain.project import Project
    from astro_cli.domain.services import Stack
    from astro_cli.domain.settings import Settings
    from astro_cli.runtime.engine import ExecRequest, LogLine, LogQuery, PrepareOptions, Report

SUPERVISOR = Path(astro_cli.__file__).parent / "runtime/inside/supervisor.py"
POSTGRES_MAJOR = "18"
GRACE_SECONDS = 15
STOP_SECONDS = 45.0
"""More than the supervisor takes: its own grace for the services, then for the database."""
SOCKET_PATH_LIMIT = 100
"""Bytes of a Unix socket's whole path that every system takes."""
POSTGRES_SOCKET = ".s.PGSQL.5432"


class StandaloneEngine:
    """See `runtime.engine.Engine`.

    A sandbox's folder holds
        sandbox.json      what it is: project, path, port, environment, hash of its configuration
        supervisor.json   the supervisor's process, there from start to stop
        config.json, environment.json, postgres.json, status.json, control.sock   see supervisor.py
        log, log.1, log.2 the lines of all services
        database          Postgres' data, with database.json: by whose version it was made
        airflow           AIRFLOW_HOME with the task logs
    """

    name = "standalone"
    runs_workers = False

    def __init__(self, environ: Mapping[str, str], settings: Callable[[], Settings]) -> None:
        self._environ = environ
        self._settings = settings

    def check(self) -> EngineInfo:
        """See `Engine.check`. What is missing shows in `prepare`, which knows what is cached."""
        import platform

        system = f"{platform.system().lower()}/{platform.machine()}"
        return EngineInfo("standalone", astro_cli.__version__, system, "local processes")

    def prepare(
        self,
        project: Project,
        sandbox_id: str,  # noqa: ARG002 - environments are shared by all sandboxes
        options: PrepareOptions,
        report: Report,
    ) -> Environment:
        """See `Engine.prepare`."""
        if options.image_name is not None:
            raise UsageError(
                "the standalone engine has no images", hint="leave --image-name out, or add `--engine docker`"
            )
        version = airflow_version_of(project)
        self._warn_of_missing_packages(project, report)
        requirements = project.root / "requirements.txt"
        asks = requirements.is_file() and bool(requirement_lines(requirements))
        workshop = Workshop(self._environ, images_folder())
        inputs = Inputs(
            version,
            images_folder() / "requirements.lock",
            requirements if asks else None,
            self._environ.get("UV_PYTHON", ""),
        )
        in_use = [str(read_json(folder / "sandbox.json").get("environment")) for folder in _running_folders()]
        made = workshop.environment(inputs, report, force=options.force, in_use=in_use)
        if self._database_url is None:
            postgres = workshop.postgres(made.folder / "bin/python", report)
            workshop.template(made.folder, postgres.folder, version, report)
        return Environment(str(made.folder), version, created=made.created)

    def _warn_of_missing_packages(self, project: Project, report: Report) -> None:
        missing = missing_packages(project.root / "packages.txt")
        if missing is None:
            report.warn("packages.txt is not checked: only Debian's packages can be looked up here")
        elif missing:
            report.warn(f"packages.txt asks for what is not installed here: {', '.join(missing)}")

    @property
    def _database_url(self) -> str | None:
        return self._settings().text("sandbox.database_url") or None

    # up and down

    def site(self, sandbox_id: str, project: Project, port: int) -> airflow.Site:
        """See `Engine.site`."""
        folder = _folder(sandbox_id)
        own = f"postgresql+psycopg2://airflow:{{password}}@/airflow?host={quote(str(_socket_folder(sandbox_id)))}"
        return airflow.Site(
            home=str(folder / "airflow"),
            project=str(project.root),
            api_host=ports.LOOPBACK,
            api_port=port,
            database=self._database_url or own,
            services_on_loopback=True,
        )

    def up(self, stack: Stack, environment: Environment, report: Report) -> tuple[Change, ...]:
        """See `Engine.up`."""
        folder = make_private_dir(_folder(stack.sandbox_id))
        standalone_services.check(stack.added)
        files = self._files(stack, environment, folder, report)
        config_hash = _digest([environment.reference, *(f"{name}={files[name]}" for name in sorted(files))])
        identity = _supervisor(folder)
        changes = []
        if identity is not None:
            if read_json(folder / "sandbox.json").get("config_hash") == config_hash:
                return ()
            report.step("stop the services, whose configuration has changed")
            _end(folder)
            changes.append(Change("stop", "services"))
        _end_leftovers(folder)
        if self._database_url is None:
            _check_database(folder, environment)
        if self._database_url is None and not (folder / "database").exists():
            changes.append(NEW_DATABASE)
            made_by = {"airflow": environment.airflow_version, "postgres": POSTGRES_MAJOR}
            write_atomic(folder / "database.json", json.dumps(made_by))
        standalone_services.make_folders(stack, folder)
        for name, content in files.items():
            write_atomic(folder / name, content)
        if "postgres.json" not in files:  # a database of the user's own took the place of ours
            (folder / "postgres.json").unlink(missing_ok=True)
        (folder / "status.json").unlink(missing_ok=True)
        make_private_dir(folder / "airflow")
        make_private_dir(_socket_folder(stack.sandbox_id))
        report.step("start the services")
        self._start(folder, stack, environment, config_hash)
        changes.append(Change("start", "services"))
        return tuple(changes)

    def _start(self, folder: Path, stack: Stack, environment: Environment, config_hash: str) -> None:
        """Start the supervisor, unless a port is taken.

        Seconds pass until the web UI listens: a port also belongs to the sandbox that has it written down.
        """
        from filelock import FileLock

        with FileLock(state_dir() / "standalone.lock"):
            added = (port for each in stack.added for port in each.ports.values())
            for port in dict.fromkeys((stack.port, stack.database_port, *added)):
                if port is not None and (self.port_holder(port) or not ports.is_free(port)):
                    raise PortTakenError(port)
            write_atomic(folder / "sandbox.json", json.dumps(_marks(stack, environment, config_hash)))
            started = process.leave_behind(
                [f"{environment.reference}/bin/python", str(SUPERVISOR), "run", str(folder)],
                env=self._process_environment(environment.reference, stack.environment),
                cwd=stack.root,
                log=folder / "log",
            )
            kept = {"pid": started.pid, "started": started.started}
            write_atomic(folder / "supervisor.json", json.dumps(kept))

    def _files(self, stack: Stack, environment: Environment, folder: Path, report: Report) -> dict[str, str]:
        """The supervisor's files, all private: the environment holds secrets, and so does the database's."""
        config: dict[str, Any] = {
            "services": {
                spec.name: [f"{environment.reference}/bin/airflow", *spec.command]
                for spec in hosted_by("airflow")
            },
            "health_url": f"http://{ports.LOOPBACK}:{stack.port}{airflow.HEALTH_PATH}",
            "migrations": str(images_folder() / "migrations.json"),
            "migrate": [f"{environment.reference}/bin/airflow", "db", "migrate"],
            "grace_seconds": GRACE_SECONDS,
            "fork": sys.platform == "linux",
            "debugger": True,
            "log": str(folder / "log"),
        }
        plain = {**stack.environment, **stack.private}
        if sys.platform == "darwin":  # tasks are forked, which Apple's libraries do not like without these
            plain = {"OBJC_DISABLE_INITIALIZE_FORK_SAFETY": "YES", "no_proxy": "*", **plain}
        workshop = Workshop(self._environ, images_folder())
        config["programs"], files = standalone_services.programs(
            stack,
            folder,
            workshop,
            python=f"{environment.reference}/bin/python",
            environment=self._process_environment(environment.reference, stack.environment),
            report=report,
        )
        warehouse = [
            port for each in stack.added if each.service.kind == WAREHOUSE for port in each.ports.values()
        ]
        if self._database_url is None:
            python = Path(environment.reference) / "bin/python"
            config["server"] = [
                str(python),
                "-I",
                str(POSTGRES_SCRIPT),
                "serve",
                str(folder / "postgres.json"),
            ]
            server = {
                "postgres": str(workshop.postgres_folder()),
                "data": str(folder / "database"),
                "template": str(workshop.template_folder(environment.airflow_version)),
                "socket": str(_socket_folder(stack.sandbox_id)),
                "port": stack.database_port or next(iter(warehouse), None),
                "password": stack.database_password,
            }
            files["postgres.json"] = json.dumps(server)
        elif stack.database_port is not None:
            raise UsageError(
                "--expose-db is for the sandbox's own database, and --database-url names another"
            )
        elif warehouse:
            raise UsageError(
                "the service warehouse is in the sandbox's own database, and --database-url names another",
                hint="leave one of them out",
            )
        return {**files, "config.json": json.dumps(config), "environment.json": json.dumps(plain)}

    def _process_environment(self, environment: str, plain: Mapping[str, str]) -> dict[str, str]:
        """This user's environment with the Airflow environment's programs first; secrets are not in it."""
        clean = clean_environment(self._environ)
        path = f"{environment}/bin{os.pathsep}{clean.get('PATH', os.defpath)}"
        return {**clean, "PATH": path, "VIRTUAL_ENV": environment, "PYTHONPATH": plain.get("PYTHONPATH", "")}

    def down(self, sandbox_id: str, *, data: bool, report: Report) -> tuple[Change, ...]:
        """See `Engine.down`."""
        folder = _folder(sandbox_id)
        changes = []
        if _supervisor(folder) is not None:
            report.step("stop the services")
            _end(folder)
            changes.append(Change("stop", "services"))
        _end_leftovers(folder)
        (folder / "supervisor.json").unlink(missing_ok=True)
        if data and folder.exists():
            report.step("remove the database and the logs")
            shutil.rmtree(folder)
            if (socket := _socket_folder(sandbox_id)).exists():
                shutil.rmtree(socket)
            changes += [Change("remove", "database"), Change("remove", "logs")]
        return tuple(changes)

    def restart(self, sandbox_id: str, service: str) -> None:
        """See `Engine.restart`."""
        folder = _running(sandbox_id)
        environment = str(read_json(folder / "sandbox.json")["environment"])
        done = process.run(
            [f"{environment}/bin/python", "-I", str(SUPERVISOR), "restart", str(folder), service]
        )
        if done.code != 0:
            raise AstroError(f"`{service}` was not restarted: {done.output.strip()}")

    def scale(
        self,
        sandbox_id: str,  # noqa: ARG002
        group: str,
        count: int,  # noqa: ARG002
        report: Report,  # noqa: ARG002
    ) -> tuple[Change, ...]:
        """See `Engine.scale`: refused, as `runs_workers` says."""
        raise UsageError(
            f"there are no workers `{group}` without Docker",
            hint="go over to Celery with `astro airflow start --engine docker --executor celery`",
        )

    def tidy(self, sandbox_id: str, environment: Environment) -> None:
        """See `Engine.tidy`. Environments are shared: another project may use what this one leaves."""

    # looking

    def port_holder(self, port: int) -> str | None:
        """See `Engine.port_holder`."""
        for folder in _running_folders():
            marks = read_json(folder / "sandbox.json")
            added = (held for told in (marks.get("added") or {}).values() for held in told["ports"])
            if port in (marks.get("port"), marks.get("database_port"), *added):
                return f"the sandbox of {marks.get('project_name')} ({marks.get('path')})"
        return None

    def status(
        self,
        sandbox_id: str | None = None,
        *,
        memory: bool = False,  # noqa: ARG002 - it costs nothing here
    ) -> tuple[SandboxStatus, ...]:
        """See `Engine.status`."""
        folders = [_folder(sandbox_id)] if sandbox_id else _all_folders()
        return tuple(
            _status(folder, marks) for folder in folders if (marks := read_json(folder / "sandbox.json"))
        )

    def logs(self, sandbox_id: str, query: LogQuery) -> Iterator[LogLine]:
        """See `Engine.logs`."""
        folder = _folder(sandbox_id)
        return standalone_logs.read(folder / "log", query, lambda: _supervisor(folder) is not None)

    def exec(self, sandbox_id: str, request: ExecRequest) -> int:
        """See `Engine.exec`."""
        folder = _running(sandbox_id)
        marks = read_json(folder / "sandbox.json")
        environment = str(marks["environment"])
        env = self._process_environment(environment, {"PYTHONPATH": marks["path"]})
        if request.service in ("postgres", WAREHOUSE):
            postgres = read_json(folder / "postgres.json")
            if postgres:
                env |= {"PGHOST": postgres["socket"], "PGUSER": "airflow", "PGDATABASE": "airflow"}
                env |= {"PGPASSWORD": postgres["password"]}
                env["PATH"] = f"{postgres['postgres']}/bin{os.pathsep}{env['PATH']}"
        env |= request.environment
        return process.attach(
            [f"{environment}/bin/python", "-I", str(SUPERVISOR), "exec", str(folder), "--", *request.command],
            env=env,
            cwd=Path(str(marks["path"])),
            stdin=request.stdin,
            interactive=request.interactive,
        )

    def forward(self, sandbox_id: str, port: int) -> AbstractContextManager[None]:  # noqa: ARG002 - it is one loopback
        """See `Engine.forward`."""
        return nullcontext()


# the sandbox's folder


def _folder(sandbox_id: str) -> Path:
    return sandbox_dir(sandbox_id) / "standalone"


def _all_folders() -> list[Path]:
    return sorted(path.parent for path in state_dir().glob("sandboxes/*/standalone/sandbox.json"))


def _running_folders() -> list[Path]:
    return [folder for folder in _all_folders() if _supervisor(folder) is not None]


def _socket_folder(sandbox_id: str) -> Path:
    """Where Postgres listens: the sandbox's folder, unless its path is too long for a socket."""
    folder = _folder(sandbox_id)
    if len(os.fsencode(folder / POSTGRES_SOCKET)) <= SOCKET_PATH_LIMIT:
        return folder
    return Path(tempfile.gettempdir()) / f"astro-{os.getuid()}-{sandbox_id}"


def _supervisor(folder: Path) -> process.Identity | None:
    """The living supervisor of a sandbox."""
    kept = read_json(folder / "supervisor.json")
    if not isinstance(kept.get("pid"), int):
        return None
    identity = process.Identity(kept["pid"], str(kept.get("started")))
    return identity if identity.is_alive else None


def _running(sandbox_id: str) -> Path:
    folder = _folder(sandbox_id)
    if _supervisor(folder) is None:
        raise AstroError("the sandbox is not running", hint="start it with `astro airflow start`")
    return folder


def _end(folder: Path) -> None:
    identity = _supervisor(folder)
    if identity is not None:
        process.end(identity, seconds=STOP_SECONDS)


def _end_leftovers(folder: Path) -> None:
    """End a supervisor that astro did not live to write down, then what a killed one left.

    The guardian of a killed one ends its services within a moment, so they are waited for first.
    """
    told = read_json(folder / "status.json")
    for entry, seconds in [
        (told, STOP_SECONDS),
        *((each, 2.0) for each in (told.get("services") or {}).values()),
    ]:
        pid, started = entry.get("pid"), entry.get("started_at")
        if isinstance(pid, int) and started and (left := process.find(pid, started_at=float(started))):
            process.end(left, seconds=seconds)


def _marks(stack: Stack, environment: Environment, config_hash: str) -> dict[str, object]:
    made = Path(environment.reference) / COMPLETE
    return {
        "sandbox_id": stack.sandbox_id,
        "project_name": stack.project_name,
        "path": str(stack.root),
        "port": stack.port,
        "database_port": stack.database_port,
        "airflow_version": environment.airflow_version,
        "environment": environment.reference,
        "made_at": made.stat().st_mtime if made.exists() else None,
        "config_hash": config_hash,
        "added": service_health.marks(stack),
    }


def _check_database(folder: Path, environment: Environment) -> None:
    made_by = read_json(folder / "database.json")
    if (folder / "database").exists() and made_by:
        airflow.check_database(
            made_by.get("postgres"),
            str(made_by.get("airflow", "0")),
            postgres_major=POSTGRES_MAJOR,
            airflow_version=environment.airflow_version,
        )


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def airflow_version_of(project: Project) -> str:
    """The version the Dockerfile asks for, so that both engines run the same Airflow.

    Raises:
        ProjectError: no lock of it ships with this astro.
    """
    try:
        text = project.dockerfile.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return airflow.DEFAULT_VERSION
    version = dockerfile_version(text) or airflow.DEFAULT_VERSION
    if version not in airflow.SUPPORTED_VERSIONS:
        raise ProjectError(
            f"this astro has no engine for Airflow {version}",
            hint=f"write one of {', '.join(airflow.SUPPORTED_VERSIONS)} into the Dockerfile's FROM line",
        )
    return version


# status


def _status(folder: Path, marks: Mapping[str, Any]) -> SandboxStatus:
    told = read_json(folder / "status.json")
    alive = _supervisor(folder) is not None
    # `stop` removes the file, so a process that is named there and gone has died
    died = not alive and (folder / "supervisor.json").exists()
    names = [
        spec.name for spec in SERVICES if spec.container == "airflow" or (folder / "postgres.json").exists()
    ]
    services = {name: _service_status(name, told, alive=alive, died=died) for name in names}
    added = marks.get("added") or {}
    known = {name: _service_status(name, told, alive=alive, died=died) for name in added}
    return SandboxStatus(
        sandbox_id=str(marks.get("sandbox_id")),
        project_name=str(marks.get("project_name")),
        path=str(marks.get("path")),
        state="running" if alive else "stopped",
        port=marks.get("port"),
        services=(
            *services.values(),
            *standalone_services.statuses(added, known, services.get("postgres")),
        ),
        airflow_version=marks.get("airflow_version"),
        image_created=marks.get("made_at"),
        database=told.get("database"),
    )


def _service_status(name: str, told: Mapping[str, Any], *, alive: bool, died: bool) -> ServiceStatus:
    known = service_status(name, told)
    if alive:
        return known
    code = 1 if died and known.exit_code is None else known.exit_code
    return replace(known, state="stopped", health=None, started_at=None, memory=None, exit_code=code)
