"""Runs one DAG to its end in this process, and says how its tasks do."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .children import emit, flush
from .parsing import dag_files, describe, last_line, remember_exceptions
from .surroundings import KNOWN_VERSION, airflow_version

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NOISE = re.compile(
    r"\[DAG TEST\]|\[airflow\.api_fastapi\.|\[airflow\.sdk\.api\.client\]|::(?:end)?group::|Pushing xcom  "
)
"""Log lines of a test run that speak of Airflow's own work."""


def run_test(project: Path, options: dict[str, Any]) -> int:
    """Run one DAG to its end in this process, and write a JSON line whenever a task changes.

    `options`: `dag_id`; `date` (ISO 8601), `conf` (an object), `task` and `mark_success` (a pattern), or null;
    `logs`: also those of tasks that succeed.
    """
    if airflow_version() != KNOWN_VERSION:
        return plain_test(options)
    out = os.dup(1)
    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"
    with tempfile.TemporaryFile() as log:
        for fd in (1, 2):
            os.dup2(log.fileno(), fd)
        bag, errors = _find_dags(project, options["dag_id"])
        dag = bag.dags.get(options["dag_id"])
        if dag is None:
            emit(out, {"type": "unknown", "errors": errors})
            return 1
        if options["task"]:
            if not dag.has_task(options["task"]):
                emit(out, {"type": "unknown-task", "tasks": sorted(dag.task_ids)})
                return 1
            dag = dag.partial_subset([options["task"]], include_upstream=False)
        _retry_at_once(dag)
        # `dag.test()` would read the whole folder once more, and store all of it.
        setattr(importlib.import_module("airflow.dag_processing.dagbag"), "BundleDagBag", lambda **_: bag)  # noqa: B010
        told = _report_tasks(out, log, all_logs=options["logs"])
        arguments: dict[str, Any] = {
            "run_conf": options["conf"],
            "mark_success_pattern": options["mark_success"],
        }
        if options["date"]:
            arguments["logical_date"] = _date(options["date"])
        try:
            run = dag.test(**arguments)
        except BaseException:
            traceback.print_exc()
            emit(out, {"type": "crash", "log": read_log(log)})
            raise
        for one in sorted(run.get_task_instances(), key=lambda one: (one.task_id, one.map_index)):
            if (one.task_id, one.map_index) not in told:
                emit(out, _task_event(one, _word(one.state)))
        date = run.logical_date and run.logical_date.isoformat()
        emit(out, {"type": "end", "state": _word(run.state), "run_id": run.run_id, "logical_date": date})
        return 0 if run.state == "success" else 1


def plain_test(options: dict[str, Any]) -> int:
    """The same with Airflow's own command, for an Airflow whose inner parts we have not read."""
    date = [options["date"]] if options["date"] else []
    argv = ["airflow", "dags", "test", options["dag_id"], *date]
    if options["task"]:
        argv = ["airflow", "tasks", "test", options["dag_id"], options["task"], *date]
    elif options["conf"]:
        argv += ["--conf", json.dumps(options["conf"])]
    if options["mark_success"] and not options["task"]:
        argv += ["--mark-success-pattern", options["mark_success"]]
    flush()
    os.execvp(argv[0], argv)  # noqa: S606


def _date(text: str) -> Any:
    datetime = importlib.import_module("datetime")
    date = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    return date if date.tzinfo else date.replace(tzinfo=datetime.timezone.utc)


def _find_dags(project: Path, dag_id: str) -> tuple[Any, list[dict[str, Any]]]:
    """A bag with the DAG and those it starts or waits for; without it, if it is nowhere; and the import errors.

    Files that mention an id are read first, and no more than are needed: a test shall not fail because of a DAG
    that has nothing to do with it.
    """
    folder = str(project / "dags")
    sys.path.append(folder)
    raised: list[BaseException] = []
    remember_exceptions(raised)
    dagbag = importlib.import_module("airflow.dag_processing.dagbag")
    bag = dagbag.DagBag(folder, collect_dags=False, bundle_path=Path(folder), bundle_name="dags-folder")
    unread = {file: Path(file).read_bytes() for file in dag_files(project, [])}
    errors: list[dict[str, Any]] = []
    wanted, seen = [dag_id], set[str]()
    while wanted:
        name = wanted.pop()
        seen.add(name)
        for file in sorted(unread, key=lambda file: name.encode() not in unread[file]):
            if name in bag.dags:
                break
            if name != dag_id and name.encode() not in unread[file]:
                break
            del unread[file]
            raised.clear()
            bag.process_file(file, only_if_updated=False, safe_mode=False)
            errors += [describe(project, file, exc) for exc in raised]
        if name in bag.dags:
            wanted += [other for other in _related(bag.dags[name]) if other not in seen]
    told = {error["file"] for error in errors}
    broken = [(str(Path("dags", name)), text) for name, text in bag.import_errors.items()]
    errors += [
        {"kind": "dag", "message": last_line(text), "file": file} for file, text in broken if file not in told
    ]
    bag.import_errors.clear()
    for name in [name for name in bag.dags if name not in seen]:
        del bag.dags[name]
    return bag, errors


def _related(dag: Any) -> list[str]:
    """The DAGs that tasks of this one trigger, or wait for."""
    names = [getattr(task, key, None) for task in dag.tasks for key in ("trigger_dag_id", "external_dag_id")]
    return [name for name in names if isinstance(name, str)]


def _retry_at_once(dag: Any) -> None:
    """Nobody wants to wait five minutes for the second try in a test."""
    zero = importlib.import_module("datetime").timedelta(0)
    for task in dag.tasks:
        with contextlib.suppress(Exception):  # a mapped task keeps it among its arguments
            if hasattr(task, "partial_kwargs"):
                task.partial_kwargs["retry_delay"] = zero
            else:
                task.retry_delay = zero


def _word(state: Any) -> str:
    return str(getattr(state, "value", state))


def _task_event(instance: Any, state: str) -> dict[str, Any]:
    return {
        "type": "task",
        "task_id": instance.task_id,
        "map_index": instance.map_index,
        "try_number": instance.try_number,
        "state": state,
    }


def _report_tasks(out: int, log: Any, *, all_logs: bool) -> set[tuple[str, int]]:
    """Write an event before and after every task; the returned set grows by those that ran."""
    module = importlib.import_module("airflow.sdk.definitions.dag")
    original = getattr(module, "_run_task")  # noqa: B009 - private: mypy would not have it
    told: set[tuple[str, int]] = set()

    def run_task(*, ti: Any, task: Any, **options: Any) -> Any:
        told.add((ti.task_id, ti.map_index))
        flush()
        log.seek(0)
        log.truncate()
        emit(out, _task_event(ti, "running"))
        began = time.monotonic()
        try:
            return original(ti=ti, task=task, **options)
        finally:
            flush()
            event = _task_event(ti, _word(ti.state)) | {"seconds": round(time.monotonic() - began, 3)}
            if all_logs or event["state"] not in ("success", "skipped"):
                event["log"] = read_log(log)
            emit(out, event)

    setattr(module, "_run_task", run_task)  # noqa: B010
    return told


def read_log(log: Any) -> list[str]:
    """The lines that were written to the file `log`, for readers."""
    flush()
    log.seek(0)
    text = log.read().decode("utf-8", "replace")
    log.seek(0, os.SEEK_END)
    return list(readable(text.splitlines()))


def readable(lines: Sequence[str]) -> Iterator[str]:
    """A task's log without what speaks of Airflow's own work, its frames in tracebacks included."""
    hidden = False
    for line in lines:
        if line.startswith("  File "):
            hidden = "/site-packages/airflow/" in line
        elif not line.startswith("    "):
            hidden = False
        if not hidden and not NOISE.search(line):
            yield line
