"""What an upgrade test found, as values, and its forms: Markdown to keep, data for programs, a short summary."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from astro_cli.domain.parse_report import ParsedFile, ParseReport, Problem, problem_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

TITLE = "# Upgrade test"
"""How a report begins; a file that begins so may be replaced by the next report."""

LOG_LINES = 30


@dataclass(frozen=True)
class PackageChange:
    """A package that the two environments do not have alike.

    Attributes:
        now, then: its version, or None where it is not installed.
        own: the project's requirements ask for it.
    """

    name: str
    now: str | None
    then: str | None
    own: bool

    @property
    def major(self) -> bool:
        """Whether the first number of its version differs; an epoch (`1!`) belongs to it."""
        numbers = [re.match(r"(?:\d+!)?\d+", version or "") for version in (self.now, self.then)]
        return len({found[0] for found in numbers if found}) == 2


@dataclass(frozen=True)
class Finding:
    """What one of ruff's rules says of a line.

    Attributes:
        rule: such as `AIR301`.
        fix: what to write instead, or "".
    """

    rule: str
    file: str
    line: int
    message: str
    fix: str


@dataclass(frozen=True)
class Migration:
    """What became of the copy of the metadata database.

    Attributes:
        state: `migrated`, `unchanged` (nothing to migrate), `failed`, `newer` (made by a newer Airflow than the
            other one: there is no way back), or `untested`.
        before, after: Alembic's revisions.
        reason: why it was not migrated, else "".
        lines: the last ones that the migration wrote before it failed.
    """

    state: str
    before: str = ""
    after: str = ""
    seconds: float = 0.0
    reason: str = ""
    lines: tuple[str, ...] = ()

    @property
    def breaks(self) -> bool:
        """Whether this database cannot be used by the other version."""
        return self.state in ("failed", "newer")


@dataclass(frozen=True)
class DagTest:
    """One run of a DAG under the other version; `log` has its last lines if it failed."""

    dag_id: str
    ok: bool
    seconds: float
    log: tuple[str, ...] = ()


@dataclass(frozen=True)
class UpgradeReport:
    """Everything one upgrade test found.

    Attributes:
        now, then: Airflow's version of the project, and the one that was tried.
        python_now, python_then: of the environments in which that was done.
        requirements: why the project's requirements cannot be installed with the other version, or "".
        parsed_now, parsed_then: what parsing found; None where it was not done.
        tests: None where they were not asked for.
        findings: ruff's; None where it could not be run, and `findings_missing` says why.
        packages: sorted by name.
    """

    project: str
    now: str
    then: str
    python_now: str
    python_then: str
    migration: Migration
    requirements: str
    parsed_now: ParseReport
    parsed_then: ParseReport | None
    tests: tuple[DagTest, ...] | None
    findings: tuple[Finding, ...] | None
    findings_missing: str
    packages: tuple[PackageChange, ...]

    @property
    def broken(self) -> tuple[ParsedFile, ...]:
        """The files that fail with the other version and not with the present one."""
        if self.parsed_then is None:
            return ()
        fine = {file.path for file in self.parsed_now.files if not file.errors}
        return tuple(file for file in self.parsed_then.files if file.errors and file.path in fine)

    @property
    def broken_already(self) -> tuple[ParsedFile, ...]:
        """The files that fail with the present version: nothing can be said of them."""
        return tuple(file for file in self.parsed_now.files if file.errors)

    @property
    def lost(self) -> tuple[str, ...]:
        """DAGs that are not there any more, although no file of theirs fails."""
        if self.parsed_then is None:
            return ()
        broken = {file.path for file in self.broken}
        there = set(self.parsed_then.dag_ids)
        return tuple(
            sorted(
                dag_id
                for file in self.parsed_now.files
                if file.path not in broken
                for dag_id in file.dag_ids
                if dag_id not in there
            )
        )

    @property
    def new_warnings(self) -> tuple[Problem, ...]:
        """Warnings of Python about the project's files that only the other version gives, mostly deprecations."""
        known = {(file.path, _same_text(one)) for file in self.parsed_now.files for one in file.warnings}
        return tuple(
            one
            for file in (self.parsed_then.files if self.parsed_then else ())
            for one in file.warnings
            if one.kind == "python" and (file.path, _same_text(one)) not in known
        )

    @property
    def breaks(self) -> tuple[str, ...]:
        """What stands in the way of the upgrade, a sentence each; empty when nothing was found."""
        return tuple(self._breaks())

    def _breaks(self) -> Iterator[str]:
        if self.requirements:
            yield self.requirements
        if self.migration.breaks:
            yield f"the metadata database cannot be migrated: {self.migration.reason}"
        if not self.parsed_now.dag_ids and not self.parsed_now.errors:
            yield "there is no DAG to check"
        for file in self.broken:
            yield f"{file.path} cannot be imported: {_inline(file.errors[0].sentence)}"
        for dag_id in self.lost:
            yield f"the DAG {dag_id} is no longer found"
        for test in self.tests or ():
            if not test.ok:
                yield f"the test of {test.dag_id} fails"


def _same_text(problem: Problem) -> str:
    """A warning's text without line numbers and paths of the environment."""
    return re.sub(r"\S*site-packages/|:\d+:", "", problem.message)


# Reading


def installed(frozen: Iterable[str]) -> dict[str, str]:
    """Names and versions from the lines of `uv pip freeze`; the source of what came from no index."""
    found = {}
    for line in frozen:
        pinned = re.match(r"([\w.-]+)(?:==| @ )(\S+)", line)
        if pinned:
            found[normal(pinned[1])] = pinned[2]
    return found


def normal(name: str) -> str:
    """A package name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def compare_packages(
    now: Mapping[str, str], then: Mapping[str, str], requirements: Iterable[str]
) -> tuple[PackageChange, ...]:
    """The difference of two environments; `requirements` are the lines of the project's file."""
    asked = {normal(found[0]) for line in requirements if (found := re.match(r"[A-Za-z0-9][\w.-]*", line))}
    return tuple(
        PackageChange(name, now.get(name), then.get(name), name in asked)
        for name in sorted({*now, *then})
        if now.get(name) != then.get(name)
    )


def read_findings(told: Iterable[Mapping[str, Any]], root: str) -> tuple[Finding, ...]:
    """The findings in ruff's JSON; files below the folder `root` by their path in it."""
    found = [
        Finding(
            rule=str(one["code"] or "syntax"),
            file=str(one["filename"]).removeprefix(f"{root}/"),
            line=int(one["location"]["row"]),
            message=str(one["message"]),
            fix=str((one.get("fix") or {}).get("message") or ""),
        )
        for one in told
    ]
    return tuple(sorted(found, key=lambda one: (one.file, one.line, one.rule)))


def shortened(said: Sequence[str]) -> str:
    """uv's explanation in a sentence: its innermost cause, without its conclusions."""
    text = re.sub(r"\n\s+(?!\s|cause:|hint:)", " ", "\n".join(said))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    causes = [line.partition(":")[2].strip() for line in lines if line.startswith(("cause:", "error:"))]
    last = (causes or lines or ["uv gives no reason"])[-1]
    return re.sub(r",? (?:and|we can conclude that) .*", "", last.removeprefix("Because ")).strip(" .")


# Forms


def as_data(report: UpgradeReport) -> dict[str, Any]:
    """The report for `--json`."""
    parsed = report.parsed_then
    return {
        "ok": not report.breaks,
        "project": report.project,
        "airflow_version": report.then,
        "present_version": report.now,
        "python": report.python_then,
        "present_python": report.python_now,
        "breaks": list(report.breaks),
        "database": asdict(report.migration),
        "requirements": report.requirements or None,
        "dags": None if parsed is None else list(parsed.dag_ids),
        "broken": [asdict(file) for file in report.broken],
        "broken_already": [file.path for file in report.broken_already],
        "lost": list(report.lost),
        "warnings": [asdict(one) for one in report.new_warnings],
        "tests": None if report.tests is None else [asdict(test) for test in report.tests],
        "findings": None if report.findings is None else [asdict(one) for one in report.findings],
        "packages": [{**asdict(one), "major": one.major} for one in report.packages],
    }


def summary(report: UpgradeReport) -> Iterator[str]:
    """The report in a few lines: a row for each part, then what stands in the way."""
    yield f"Airflow {report.now} -> {report.then}"
    yield f"  database      {_database(report.migration)}"
    yield f"  DAG files     {_dags(report)}"
    yield f"  tests         {_tests(report.tests)}"
    yield f"  ruff          {_ruff(report)}"
    yield f"  packages      {_packages(report.packages)}"
    for sentence in report.breaks:
        yield f"breaks: {sentence}"
    if not report.breaks:
        yield "nothing was found that breaks" + _untested(report)


def _untested(report: UpgradeReport) -> str:
    return "; the database was not tested" if report.migration.state == "untested" else ""


def _database(migration: Migration) -> str:
    if migration.state == "migrated":
        return f"its copy was migrated, {migration.before} to {migration.after}, in {migration.seconds:.1f} s"
    if migration.state == "unchanged":
        return f"nothing to migrate: both versions use revision {migration.after}"
    word = "not tested" if migration.state == "untested" else "cannot be migrated"
    return f"{word}: {migration.reason}"


def _dags(report: UpgradeReport) -> str:
    if report.parsed_then is None:
        return "not checked: the project's requirements cannot be installed"
    counts = f"{len(report.parsed_then.files)} parsed, {len(report.broken)} broken"
    already = len(report.broken_already)
    return counts + (f", {already} broken with {report.now} already" if already else "")


def _tests(tests: tuple[DagTest, ...] | None) -> str:
    if tests is None:
        return "not run (--test)"
    return f"{len(tests)} run, {sum(not test.ok for test in tests)} failed"


def _ruff(report: UpgradeReport) -> str:
    if report.findings is None:
        return f"not run: {report.findings_missing}"
    return f"{len(report.findings)} findings" if report.findings else "no findings"


def _packages(packages: tuple[PackageChange, ...]) -> str:
    added = sum(one.now is None for one in packages)
    removed = sum(one.then is None for one in packages)
    major = sum(one.major for one in packages)
    changed = len(packages) - added - removed
    return f"{changed} changed, {major} of them by a major version; {added} added, {removed} removed"


def as_markdown(report: UpgradeReport, date: str) -> str:
    """The report to keep.

    Args:
        date: when it was made, as it shall stand there.
    """
    return "\n".join(_markdown(report, date)) + "\n"


def _markdown(report: UpgradeReport, date: str) -> Iterator[str]:
    yield f"{TITLE}: {report.project}, Airflow {report.now} to {report.then}"
    yield ""
    yield f"Made by `astro airflow upgrade-test` on {date}. Python {report.python_now} and {report.python_then}."
    yield ""
    if report.breaks:
        yield "**This breaks:**"
        yield ""
        yield from (f"- {_inline(sentence)}" for sentence in report.breaks)
    else:
        yield f"**Nothing was found that breaks{_untested(report)}.**"
    yield from _database_section(report.migration)
    yield from _dags_section(report)
    yield from _tests_section(report.tests)
    yield from _ruff_section(report)
    yield from _packages_section(report.packages)


def _database_section(migration: Migration) -> Iterator[str]:
    yield from _heading("Database")
    yield f"{_capital(_database(migration))}."
    yield from _block(migration.lines)


def _dags_section(report: UpgradeReport) -> Iterator[str]:
    yield from _heading("DAGs")
    yield f"{_capital(_dags(report))}."
    for file in report.broken:
        yield from _block(line for one in file.errors for line in problem_lines(file.path, "error", one))
    if report.lost:
        yield ""
        yield f"No longer found: {', '.join(report.lost)}."
    if report.broken_already:
        yield ""
        yield f"Broken with {report.now} already, so that nothing can be said of them:"
        yield ""
        yield from (f"- {file.path}: {_inline(file.errors[0].sentence)}" for file in report.broken_already)
    if report.new_warnings:
        yield ""
        yield f"Warnings that only {report.then} gives:"
        yield ""
        yield from (f"- {_inline(one.message)}" for one in report.new_warnings)


def _tests_section(tests: tuple[DagTest, ...] | None) -> Iterator[str]:
    yield from _heading("Tests")
    if tests is None:
        yield "Not run; `--test` runs every DAG once."
        return
    yield "| DAG | result | seconds |"
    yield "|---|---|---|"
    for test in tests:
        yield f"| {test.dag_id} | {'passed' if test.ok else '**failed**'} | {test.seconds:.1f} |"
    for test in tests:
        yield from _block(test.log)


def _ruff_section(report: UpgradeReport) -> Iterator[str]:
    yield from _heading("Ruff's rules for Airflow")
    yield f"{_capital(_ruff(report))}."
    if not report.findings:
        return
    yield ""
    yield "| place | rule | finding | instead |"
    yield "|---|---|---|---|"
    for one in report.findings:
        yield f"| {one.file}:{one.line} | {one.rule} | {_cell(one.message)} | {_cell(one.fix)} |"


def _packages_section(packages: tuple[PackageChange, ...]) -> Iterator[str]:
    yield from _heading("Packages")
    yield f"{_capital(_packages(packages))}."
    if not packages:
        return
    yield ""
    yield "| package | now | then | |"
    yield "|---|---|---|---|"
    for one in sorted(packages, key=lambda one: (not one.own, not one.major, one.name)):
        marks = [*(["yours"] if one.own else []), *(["**major**"] if one.major else [])]
        yield f"| {one.name} | {one.now or '-'} | {one.then or '-'} | {', '.join(marks)} |"


def _heading(text: str) -> Iterator[str]:
    yield ""
    yield f"## {text}"
    yield ""


def _block(lines: Iterable[str]) -> Iterator[str]:
    """Lines as they are. Four backticks: three may be among them."""
    kept = list(lines)
    if kept:
        yield from ("", "````text", *kept, "````")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _inline(text: str) -> str:
    """A text on one line, without the paths of the environment."""
    return re.sub(r" ?\(\S*/site-packages/\S*\)", "", " ".join(text.split()))


def _cell(text: str) -> str:
    return _inline(text).replace("|", "\\|")
