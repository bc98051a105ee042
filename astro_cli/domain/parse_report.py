"""What parsing a project's DAG files found: the runner's JSON lines as values, and their text and JUnit forms."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SLOW_SECONDS = 1.0
"""An import that takes longer is worth a warning: Airflow repeats it for every parse and every task."""


@dataclass(frozen=True)
class SourceLine:
    """One line of the excerpt around an error."""

    line: int
    text: str


@dataclass(frozen=True)
class Frame:
    """A call in the project's own code."""

    file: str
    line: int
    function: str


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a file.

    Attributes:
        kind: `import`, `dag` (built, but invalid), `timeout`, `died` (ended the process), `missing-variable`,
            `missing-connection`, `duplicate`; of warnings `slow`, `safe-mode`, `python`, and the missing ones.
        error: the exception's class, or "".
        file: where it happened, relative to the project; often the DAG file itself.
        line: from 1, or 0 where it is not known.
        frames: the project's own calls, innermost first.
    """

    kind: str
    message: str
    error: str = ""
    file: str = ""
    line: int = 0
    column: int | None = None
    source: tuple[SourceLine, ...] = ()
    frames: tuple[Frame, ...] = ()
    hint: str = ""

    @property
    def place(self) -> str:
        """`dags/orders.py:12`."""
        return f"{self.file}:{self.line}" if self.line else self.file

    @property
    def sentence(self) -> str:
        """The error's class and message."""
        return f"{self.error}: {self.message}" if self.error else self.message


@dataclass(frozen=True)
class ParsedFile:
    """One DAG file. `seconds` is how long its import took."""

    path: str
    dag_ids: tuple[str, ...]
    tasks: int
    seconds: float
    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


@dataclass(frozen=True)
class ParseReport:
    """All files of one `parse`, sorted by path; `seconds` is how long it took in all."""

    files: tuple[ParsedFile, ...]
    seconds: float

    @property
    def dag_ids(self) -> tuple[str, ...]:
        """The DAGs of all files."""
        return tuple(sorted({dag_id for file in self.files for dag_id in file.dag_ids}))

    @property
    def errors(self) -> int:
        """How many errors there are in all files."""
        return sum(len(file.errors) for file in self.files)

    @property
    def warnings(self) -> int:
        """How many warnings there are in all files."""
        return sum(len(file.warnings) for file in self.files)

    @property
    def ok(self) -> bool:
        """Whether there is a DAG and no error."""
        return bool(self.dag_ids) and not self.errors


def read_report(lines: Iterable[str]) -> ParseReport:
    """The report from the runner's JSON lines.

    Raises:
        ValueError: the last line is not the runner's, so the report is incomplete.
    """
    files, seconds = [], None
    for line in lines:
        message = json.loads(line)
        if message["type"] == "file":
            files.append(_parsed_file(message))
        elif message["type"] == "end":
            seconds = float(message["seconds"])
    if seconds is None:
        raise ValueError("the report is incomplete")
    files.sort(key=lambda file: file.path)
    return ParseReport(tuple(_with_duplicates(files)), seconds)


def _parsed_file(message: dict[str, Any]) -> ParsedFile:
    path, dags = message["path"], message.get("dags", ())
    return ParsedFile(
        path=path,
        dag_ids=tuple(sorted(dag["dag_id"] for dag in dags)),
        tasks=sum(dag["tasks"] for dag in dags),
        seconds=message.get("seconds", 0.0),
        errors=tuple(_problem(path, error) for error in message["errors"]),
        warnings=tuple(_warnings(path, message)),
    )


def _problem(path: str, error: dict[str, Any]) -> Problem:
    kind = error["kind"]
    return Problem(
        kind=kind,
        message=error["message"],
        error=error.get("error", ""),
        file=error.get("file") or path,
        line=error.get("line", 0),
        column=error.get("column"),
        source=tuple(SourceLine(**line) for line in error.get("source", ())),
        frames=tuple(Frame(**frame) for frame in error.get("frames", ())),
        hint=_missing_hint(kind.removeprefix("missing-"), error.get("key")) if "missing-" in kind else "",
    )


def _missing_hint(kind: str, key: str | None) -> str:
    name = f"`{key}`" if key else "it"
    return f"add the {kind} {name} to airflow_settings.yaml and run `astro airflow start`, or ask for it in a task"


def _warnings(path: str, message: dict[str, Any]) -> Iterator[Problem]:
    for missing in message.get("missing", ()):
        kind, key = missing["kind"], missing["key"]
        text = f"the import asks for the {kind} `{key}`, which does not exist"
        yield Problem(f"missing-{kind}", text, file=path, hint=_missing_hint(kind, key))
    if message.get("seconds", 0.0) > SLOW_SECONDS:
        text = (
            f"the import takes {message['seconds']:.1f} s; Airflow repeats it for every parse and every task"
        )
        yield Problem("slow", text, file=path, hint="move slow work from the top level into a task")
    if message.get("skipped"):
        text = "Airflow skips this file: the words `dag` and `airflow` do not both stand in it"
        hint = "write them in a comment, or set AIRFLOW__CORE__DAG_DISCOVERY_SAFE_MODE=False in .env"
        yield Problem("safe-mode", text, file=path, hint=hint)
    for text in message.get("warnings", ()):
        yield Problem("python", text, file=path)


def _with_duplicates(files: list[ParsedFile]) -> Iterator[ParsedFile]:
    """Two files with one DAG id: Airflow keeps the one it parsed last, and the other vanishes without a word."""
    homes = defaultdict(list)
    for file in files:
        for dag_id in file.dag_ids:
            homes[dag_id].append(file.path)
    for file in files:
        errors = list(file.errors)
        for dag_id in file.dag_ids:
            others = [path for path in homes[dag_id] if path != file.path]
            if others:
                text = f"the DAG id `{dag_id}` is also used in {', '.join(others)}"
                errors.append(
                    Problem("duplicate", text, file=file.path, hint="give each DAG an id of its own")
                )
        yield ParsedFile(file.path, file.dag_ids, file.tasks, file.seconds, tuple(errors), file.warnings)


# Forms


def as_data(report: ParseReport) -> dict[str, Any]:
    """The report for `--json`."""
    return {
        "ok": report.ok,
        "seconds": report.seconds,
        "dags": list(report.dag_ids),
        "errors": report.errors,
        "warnings": report.warnings,
        "files": [asdict(file) for file in report.files],
    }


def as_text(report: ParseReport) -> Iterator[str]:
    """The report as lines: a row for each file, the errors with their source, and a summary."""
    for file in report.files:
        state = "error" if file.errors else "warn" if file.warnings else "ok"
        yield f"{state:<5} {file.seconds:6.2f} s  {file.path}  {', '.join(file.dag_ids)}".rstrip()
    for file in report.files:
        for problem in file.errors:
            yield ""
            yield from problem_lines(file.path, "error", problem)
        for problem in file.warnings:
            yield ""
            yield from problem_lines(file.path, "warning", problem)
    yield ""
    yield summary(report)


def summary(report: ParseReport) -> str:
    """One line: how many of what, in which time."""
    counts = [
        _count(len(report.files), "file"),
        _count(len(report.dag_ids), "DAG"),
        _count(report.errors, "error"),
        _count(report.warnings, "warning"),
    ]
    return f"{', '.join(counts)} in {report.seconds:.2f} s"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def problem_lines(path: str, word: str, problem: Problem) -> Iterator[str]:
    """One problem of the file `path` with its source and the calls that led there; `word` is its rank."""
    yield f"{word}: {problem.place or path}: {problem.sentence}"
    width = len(str(problem.source[-1].line)) if problem.source else 0
    for line in problem.source:
        mark = ">" if line.line == problem.line else " "
        yield f"  {mark} {line.line:>{width}} | {line.text}".rstrip()
        if line.line == problem.line and problem.column:
            yield f"    {' ' * width} | {' ' * (problem.column - 1)}^"
    for frame in problem.frames[1:]:
        yield f"    called from {frame.file}:{frame.line}"
    if problem.hint:
        yield f"  hint: {problem.hint}"


def as_junit(report: ParseReport) -> str:
    """The report as JUnit XML: a test case for each file."""
    suite = ElementTree.Element(
        "testsuite",
        name="astro airflow parse",
        tests=str(max(len(report.files), 1)),
        failures=str(sum(bool(file.errors) for file in report.files) + (not report.ok and not report.errors)),
        time=f"{report.seconds:.3f}",
    )
    for file in report.files:
        case = ElementTree.SubElement(
            suite, "testcase", classname="dags", name=file.path, file=file.path, time=f"{file.seconds:.3f}"
        )
        if file.errors:
            first = file.errors[0]
            failure = ElementTree.SubElement(
                case, "failure", type=first.kind, message=_xml_safe(first.sentence)
            )
            failure.text = _joined(file, "error", file.errors)
        if file.warnings:
            ElementTree.SubElement(case, "system-out").text = _joined(file, "warning", file.warnings)
    if not report.ok and not report.errors:
        case = ElementTree.SubElement(suite, "testcase", classname="dags", name="project")
        ElementTree.SubElement(case, "failure", type="empty", message="there is no DAG")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ElementTree.tostring(suite, encoding="unicode")}\n'


def _joined(file: ParsedFile, word: str, problems: tuple[Problem, ...]) -> str:
    return _xml_safe("\n".join(line for one in problems for line in problem_lines(file.path, word, one)))


def _xml_safe(text: str) -> str:
    """Without the control characters that XML forbids."""
    return "".join(char for char in text if char in "\t\n" or char >= " ")
