"""Parses DAG files, each in a process of its own, and says what is in them and what is wrong with them."""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import json
import linecache
import os
import re
import select
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .children import emit
from .surroundings import KNOWN_VERSION, airflow_version, dagbag_module

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

SERIALIZER = "airflow.serialization.serialized_objects"


def parse(project: Path, paths: Sequence[str]) -> int:
    """Parse every DAG file, each in a process of its own, and write one JSON line for each."""
    began = time.monotonic()
    out = _keep_stdout()
    sys.path.append(str(project / "dags"))
    files = list(dag_files(project, paths))
    dagbag_module()  # once here, not once in each child
    importlib.import_module(SERIALIZER)
    running: dict[int, tuple[str, int]] = {}
    waiting = list(reversed(files))
    limit = max(2, os.cpu_count() or 2)
    while waiting or running:
        while waiting and len(running) < limit:
            file = waiting.pop()
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.close(reader)
                _parse_in_child(project, file, writer)
            os.close(writer)
            running[reader] = (file, pid)
        for reader in select.select(list(running), [], [])[0]:
            file, pid = running.pop(reader)
            with os.fdopen(reader, "rb") as stream:
                said = stream.read()
            _, status = os.waitpid(pid, 0)
            emit(out, json.loads(said) if said else _died(project, file, status))
    emit(out, {"type": "end", "files": len(files), "seconds": round(time.monotonic() - began, 3)})
    return 0


def _keep_stdout() -> int:
    """Keep standard output for the report; what the project's code prints has no place in it."""
    out = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)
    return out


def dag_files(project: Path, paths: Sequence[str]) -> Iterator[str]:
    """The files Airflow looks at, and those its safe mode would skip; `.airflowignore` holds."""
    try:
        importers = importlib.import_module("airflow.dag_processing.importers")
        listing = importers.get_importer_registry().list_dag_files
    except ImportError:  # before 3.2
        listing = importlib.import_module("airflow.utils.file").list_py_file_paths
    for path in paths or ["dags"]:
        target = project / path
        if target.is_file():
            yield str(target)
        elif target.is_dir():
            yield from sorted(str(file) for file in listing(str(target), safe_mode=False))


def _parse_in_child(project: Path, file: str, writer: int) -> None:
    found: dict[str, Any] = {"type": "file", "path": _relative(project, file)}
    try:
        found |= parse_file(project, file)
    except BaseException as exc:  # noqa: BLE001
        found["errors"] = [describe(project, file, exc)]
    emit(writer, found)
    os._exit(0)


def _died(project: Path, file: str, status: int) -> dict[str, Any]:
    code = os.waitstatus_to_exitcode(status)
    how = f"with exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
    error = {"kind": "died", "message": f"the process that imported the file was ended {how}"}
    return {"type": "file", "path": _relative(project, file), "errors": [error]}


def _relative(project: Path, file: str) -> str:
    with contextlib.suppress(ValueError):
        return str(Path(file).relative_to(project))
    return file


def parse_file(project: Path, file: str) -> dict[str, Any]:
    """What one file holds and what is wrong with it. Imports the file: call it in a process of its own."""
    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"  # connections and variables come from the database
    raised: list[BaseException] = []
    remember_exceptions(raised)
    missed: dict[tuple[str, str], None] = {}
    if airflow_version() == KNOWN_VERSION:
        _remember_missing(missed)
    bag = dagbag_module().DagBag(str(project / "dags"), collect_dags=False, bundle_path=project / "dags")
    importlib.import_module("logging").disable()
    began, cpu = time.perf_counter(), time.process_time()
    bag.process_file(file, only_if_updated=False, safe_mode=False)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    errors = [describe(project, file, exc) for exc in raised]
    for error in errors:
        if missed and re.search(
            "variable_not_found|connection_not_found|conn_id .* isn't defined", error["message"], re.I
        ):
            kind, key = list(missed)[-1]
            error |= {
                "kind": f"missing-{kind}",
                "key": key,
                "error": "",
                "message": f"there is no {kind} `{key}`",
            }
    if not errors:
        errors = [{"kind": "dag", "message": last_line(text)} for text in bag.import_errors.values()]
    errors += _not_storable(bag.dags.values())
    dags = [
        {"dag_id": dag.dag_id, "tasks": len(dag.tasks), "file": _relative(project, dag.fileloc)}
        for dag in bag.dags.values()
    ]
    broken = {(error.get("kind"), error.get("key")) for error in errors}
    return {
        "dags": dags,
        "seconds": round(seconds, 4),
        "cpu_seconds": round(cpu_seconds, 4),
        "errors": errors,
        "warnings": [text for found in bag.captured_warnings.values() for text in _own(project, found)],
        "missing": [
            {"kind": kind, "key": key} for kind, key in missed if (f"missing-{kind}", key) not in broken
        ],
        "skipped": bool(dags or errors) and not _might_contain_dag(file),
    }


def _not_storable(dags: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Airflow stores a DAG before it can run; what cannot be stored is an import error there, too."""
    module = importlib.import_module(SERIALIZER)
    serialize = getattr(module.LazyDeserializedDAG, "from_dag", None)
    if serialize is None:  # before 3.1
        serialize = module.SerializedDAG.to_dict
    for dag in dags:
        try:
            serialize(dag)
        except Exception as exc:  # noqa: BLE001 - plugins and custom timetables may raise anything
            yield {"kind": "dag", "message": next(iter(str(exc).splitlines()), type(exc).__name__)}


def _own(project: Path, texts: Sequence[str]) -> list[str]:
    """The captured warnings that the project's own files cause."""
    prefix = f"{project}/"
    return [text.removeprefix(prefix) for text in texts if text.startswith(prefix)]


def _might_contain_dag(file: str) -> bool:
    return bool(importlib.import_module("airflow.utils.file").might_contain_dag(file, True))


def last_line(text: str) -> str:
    """The last line of a text that is not empty."""
    return next((line for line in reversed(text.splitlines()) if line.strip()), text)


def remember_exceptions(raised: list[BaseException]) -> None:
    """Airflow keeps the text of an import error only; the frames are in the exception."""

    class Loader(importlib.machinery.SourceFileLoader):
        def exec_module(self, module: Any) -> None:
            try:
                super().exec_module(module)
            except BaseException as exc:
                raised.append(exc)
                raise

    importlib.machinery.SourceFileLoader = Loader  # type: ignore[misc]


def _remember_missing(missed: dict[tuple[str, str], None]) -> None:
    """Note the connections and variables that the import asked for in vain, even if it lives without them."""
    context = importlib.import_module("airflow.sdk.execution_time.context")
    for kind in ("variable", "connection"):
        original = getattr(context, f"_get_{kind}")

        def wrapped(
            key: str, *args: Any, _kind: str = kind, _original: Any = original, **options: Any
        ) -> Any:
            try:
                return _original(key, *args, **options)
            except Exception:
                missed[_kind, key] = None
                raise

        setattr(context, f"_get_{kind}", wrapped)


def describe(project: Path, file: str, exc: BaseException) -> dict[str, Any]:
    """The error with the frames of the project, innermost first, and the source around the first of them."""
    frames = [
        (frame.filename, frame.lineno or 0, frame.name)
        for frame in traceback.extract_tb(exc.__traceback__)
        if _is_own(project, frame.filename)
    ]
    frames.reverse()
    if isinstance(exc, SyntaxError) and exc.filename:
        frames.insert(0, (exc.filename, exc.lineno or 0, ""))
    if not frames:
        frames = [(file, 0, "")]
    where, line, _ = frames[0]
    message = str(exc.msg) if isinstance(exc, SyntaxError) else str(exc)
    found: dict[str, Any] = {
        "kind": "import",
        "error": type(exc).__name__,
        "message": message.strip() or type(exc).__name__,
        "file": _relative(project, where),
        "line": line,
        "column": exc.offset if isinstance(exc, SyntaxError) else None,
        "source": _source(where, line),
        "frames": [
            {"file": _relative(project, name), "line": number, "function": function}
            for name, number, function in frames
        ],
    }
    if type(exc).__name__ == "AirflowTaskTimeout":
        found["kind"] = "timeout"
        found["message"] = message.splitlines()[0]
    return found


def _is_own(project: Path, name: str) -> bool:
    folders = [f"{project}/{folder}/" for folder in ("dags", "plugins", "include", "tests")]
    return name.startswith(tuple(folders))


def _source(file: str, line: int) -> list[dict[str, Any]]:
    """Two lines before and one after `line`."""
    numbers = range(max(1, line - 2), line + 2) if line else ()
    lines = [(number, linecache.getline(file, number)) for number in numbers]
    return [{"line": number, "text": text.rstrip()} for number, text in lines if text]
