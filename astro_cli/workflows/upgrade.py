"""The workflow of an upgrade test: another Airflow gets a copy of the database, the DAGs and the requirements.

The same is done with the present version first, in the same way: what fails with both is no matter of the upgrade.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from astro_cli.domain import airflow
from astro_cli.domain.envfile import load_env
from astro_cli.domain.image import images_folder
from astro_cli.domain.services import build_stack
from astro_cli.domain.state import SandboxState, new_secrets
from astro_cli.domain.upgrade_report import (
    Finding,
    Migration,
    UpgradeReport,
    compare_packages,
    installed,
    read_findings,
    shortened,
)
from astro_cli.foundation import ports
from astro_cli.foundation.errors import AstroError, EngineError, Interrupted, ProjectError, UsageError
from astro_cli.foundation.paths import read_json
from astro_cli.runtime.capture import capture_lines
from astro_cli.runtime.engine import ExecRequest
from astro_cli.runtime.standalone import airflow_version_of
from astro_cli.runtime.trial import Airflow, trial_server
from astro_cli.runtime.venv import COMPLETE, Inputs, Workshop, missing_packages, requirement_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from astro_cli.domain.parse_report import ParseReport
    from astro_cli.domain.project import Project
    from astro_cli.domain.upgrade_report import DagTest
    from astro_cli.runtime.engine import Engine, Report
    from astro_cli.runtime.trial import Server

VERSION = re.compile(r"3\.\d+\.\d+((a|b|rc)\d+)?")
EMPTY, COPY, FRESH = "airflow", "copy", "fresh"
"""The server's databases: an empty one of the present version, the sandbox's, and an empty one of the other."""


@dataclass(frozen=True)
class UpgradeOptions:
    """What to try.

    Attributes:
        airflow_version: the other version.
        test: run every DAG as well.
        mark_success: a pattern; tasks whose whole id matches succeed in those runs without being run.
    """

    airflow_version: str
    test: bool = False
    mark_success: str | None = None


@dataclass(frozen=True)
class _Environments:
    """Those of the present and the other version; `missing` says why the other lacks the project's requirements."""

    now: Path
    then: Path
    missing: str


class UpgradeTest:
    """Tries another Airflow on one project."""

    def __init__(self, project: Project, engine: Callable[[], Engine], environ: Mapping[str, str]) -> None:
        self._project = project
        self._engine = engine
        self._environ = environ
        self._state = SandboxState(project.root)
        self._workshop = Workshop(environ, images_folder())

    def run(self, options: UpgradeOptions, report: Report) -> UpgradeReport:
        """Do it all; everything that was made is gone afterwards, except for environments in the cache.

        Raises:
            UsageError: there is no such version, or it is the present one.
            ProjectError: a file of the project is wrong, or its requirements do not fit the present version.
            EngineError: no package index, and nothing cached.
        """
        now, then = airflow_version_of(self._project), options.airflow_version
        _check_version(now, then)
        try:
            return self._run(now, options, report)
        except KeyboardInterrupt as exc:
            raise Interrupted(
                "interrupted", hint="the sandbox was not touched, and no copy of its database is left"
            ) from exc

    def _run(self, now: str, options: UpgradeOptions, report: Report) -> UpgradeReport:
        then = options.airflow_version
        variables = self._variables()
        if missing := missing_packages(self._project.root / "packages.txt"):
            report.warn(f"packages.txt asks for what is not installed here: {', '.join(missing)}")
        environments = self._environments(now, then, report)
        postgres = self._workshop.postgres(environments.now / "bin/python", report).folder
        template = self._workshop.template(environments.now, postgres, now, report).folder
        with trial_server(environments.now / "bin/python", postgres, template, self._environ) as server:
            present, other = (
                Airflow(environment, self._project.root, server, variables, self._environ)
                for environment in (environments.now, environments.then)
            )
            database, untested = self._copy(server, report)
            report.step(f"parse all DAG files with Airflow {now}")
            parsed_now = present.parse(database)
            migration, database = _migrate(server, other, database, now, then, report)
            parsed_then: ParseReport | None = None
            tests: tuple[DagTest, ...] | None = None
            if not environments.missing:
                report.step(f"parse all DAG files with Airflow {then}")
                parsed_then = other.parse(database)
                if options.test:
                    report.step(f"run {len(parsed_then.dag_ids)} DAGs with Airflow {then}")
                    tests = other.test(database, parsed_then.dag_ids, options.mark_success)
            findings, findings_missing = self._findings(report)
        return UpgradeReport(
            project=self._project.name,
            now=now,
            then=then,
            python_now=_python(environments.now),
            python_then=_python(environments.then),
            migration=_told(migration, untested),
            requirements=environments.missing,
            parsed_now=parsed_now,
            parsed_then=parsed_then,
            tests=tests,
            findings=findings,
            findings_missing=findings_missing,
            packages=compare_packages(
                installed(self._workshop.installed(environments.now, report)),
                installed(self._workshop.installed(environments.then, report)),
                self._requirement_lines(),
            ),
        )

    # environments

    def _environments(self, now: str, then: str, report: Report) -> _Environments:
        """The virtual environments of both versions.

        Python is the best one here that the other version takes, for both: else two things would change at once.
        """
        workshop = self._workshop
        own = self._project.root / "requirements.txt" if self._requirement_lines() else None
        pythons = workshop.interpreters(self._environ.get("UV_PYTHON", ""))
        refused: AstroError | None = None
        for python in pythons:
            report.step(f"look for the packages of Airflow {then}")
            try:
                text = workshop.lock_for(then, python, report)
            except EngineError:
                raise
            except AstroError as exc:
                refused = refused or exc
                if "Python version" not in " ".join(exc.details):
                    break
                continue
            return self._install(now, then, python, own, text, report)
        assert refused is not None
        raise self._no_such_version(then, refused, report) from refused

    def _install(
        self, now: str, then: str, python: str, own: Path | None, lock: str, report: Report
    ) -> _Environments:
        import tempfile
        from pathlib import Path

        workshop = self._workshop
        present = workshop.environment(
            Inputs(now, images_folder() / "requirements.lock", own, python), report
        )
        with tempfile.TemporaryDirectory() as name:
            file = Path(name, "requirements.lock")
            file.write_text(lock, encoding="utf-8")
            inputs = Inputs(then, file, own, python)
            try:
                return _Environments(present.folder, workshop.environment(inputs, report).folder, "")
            except ProjectError as exc:
                bare = workshop.environment(replace(inputs, requirements=None), report)
                return _Environments(present.folder, bare.folder, exc.message)

    def _no_such_version(self, then: str, refused: AstroError, report: Report) -> AstroError:
        """Why there is no environment for a version, with versions that there are."""
        said = " ".join(" ".join(refused.details).split())
        if f"no version of apache-airflow=={then}" not in said:
            return ProjectError(
                f"Airflow {then} cannot be installed here: {shortened(refused.details)}",
                hint="another Python can be named with UV_PYTHON",
            )
        series = then.rpartition(".")[0]
        near = self._newest(f"=={series}.*", report)
        newest = self._newest("<4", report)
        hints = [f"did you mean `{near}`?"] if near else []
        hints += [f"the newest is {newest}"] if newest and newest != near else []
        return UsageError(f"there is no Airflow {then}", hint="; ".join(hints) or None)

    def _newest(self, versions: str, report: Report) -> str | None:
        with suppress(AstroError):
            found = self._workshop.resolve(f"apache-airflow{versions}", "--no-deps", report=report)
            return found.strip().rpartition("==")[2]
        return None

    def _requirement_lines(self) -> tuple[str, ...]:
        file = self._project.root / "requirements.txt"
        return requirement_lines(file) if file.is_file() else ()

    # the database

    def _copy(self, server: Server, report: Report) -> tuple[str, str]:
        """The database to go on with, and why it is not a copy of the sandbox's, or ""."""
        if self._state.known_id is None:
            return EMPTY, "the project has no sandbox yet"
        engine = self._engine()
        status = next(iter(engine.status(self._state.known_id)), None)
        if status is None or status.state != "running":
            return EMPTY, "the sandbox is not running"
        if not any(service.name == "postgres" for service in status.services):
            return EMPTY, "the sandbox uses a database of your own; try the migration on a copy of it"
        report.step("copy the metadata database")
        dump = server.folder / "dump.sql"
        request = ExecRequest(
            service="postgres", command=["pg_dump", "--no-owner", "--no-privileges", "airflow"], stdin=False
        )
        with dump.open("w", encoding="utf-8") as file:
            code = capture_lines(
                lambda: engine.exec(str(self._state.known_id), request),
                lambda line: file.writelines((line, "\n")),
            )
        if code:
            raise AstroError(
                f"the metadata database cannot be read: `pg_dump` ends with exit code {code}",
                hint="see `astro airflow logs postgres`",
            )
        server.create(COPY)
        server.restore(COPY, dump)
        dump.unlink()
        return COPY, ""

    def _variables(self) -> Callable[[str], Mapping[str, str]]:
        """The configuration of Airflow, as a sandbox of the project has it, for a home of Airflow."""
        file = self._project.root / ".env"
        own = load_env(file, self._environ, name=file.name) if file.exists() else {}
        keys = self._state.secrets() if self._state.known_id else new_secrets()

        def variables(home: str) -> Mapping[str, str]:
            stack = build_stack(
                sandbox_id=self._state.known_id or "",
                project_id=self._project.project_id,
                project_name=self._project.name,
                root=self._project.root,
                folders=(),
                port=airflow.API_PORT,
                database_port=None,
                site=airflow.Site(home, str(self._project.root), ports.LOOPBACK, airflow.API_PORT, ""),
                parallelism=1,
                secrets=keys,
                user_environment=own,
            )
            return {**stack.environment, **stack.private}

        return variables

    # ruff

    def _findings(self, report: Report) -> tuple[tuple[Finding, ...] | None, str]:
        """What ruff's rules for Airflow say of the project, or None and why it could not be run."""
        report.step("look for outdated idioms with ruff")
        root = self._project.root
        folders = [root / name for name in airflow.PROJECT_FOLDERS if (root / name).is_dir()]
        try:
            return read_findings(self._workshop.ruff("AIR", folders, report), str(root)), ""
        except AstroError as exc:
            return None, exc.message


def _check_version(now: str, then: str) -> None:
    if not VERSION.fullmatch(then):
        raise UsageError(
            f"`{then}` is no version of Airflow 3", hint="write it whole: `--airflow-version 3.2.2`"
        )
    if then == now:
        raise UsageError(
            f"the project has Airflow {now} already", hint="name another version to compare it with"
        )


def _migrate(
    server: Server, other: Airflow, database: str, now: str, then: str, report: Report
) -> tuple[Migration, str]:
    """Migrate the copy; what became of it, and the database to go on with, which is an empty one if that failed."""
    revision = server.revision(database)
    if revision in other.known_revisions():
        report.step(f"migrate the copy to Airflow {then}")
        migration = other.migrate(database)
        if not migration.breaks:
            return migration, database
    else:
        reason = (
            f"Airflow {then} does not know revision {revision} of Airflow {now}, and there is no way back"
        )
        migration = Migration("newer", before=revision, reason=reason)
    report.step(f"make an empty database of Airflow {then}")
    server.create(FRESH)
    made = other.migrate(FRESH)
    if made.breaks:
        raise AstroError(f"Airflow {then} cannot make a database here: {made.reason}", details=made.lines)
    server.copy_objects(database, FRESH)
    return migration, FRESH


def _told(migration: Migration, untested: str) -> Migration:
    """What to say of the database: that an empty one cannot go back is nobody's loss."""
    return Migration("untested", reason=untested) if untested and migration.state != "failed" else migration


def _python(environment: Path) -> str:
    return str(read_json(environment / COMPLETE).get("python", "?"))
