"""Parses and tests a project's DAGs under the Airflow of an upgrade test, with the very code of the warm runner.

    trial_runner.py ENVIRONMENT.json parse            JSON lines as of runner.py
    trial_runner.py ENVIRONMENT.json test JSON        runs DAGs; a JSON line for each: dag_id, code, seconds, log

ENVIRONMENT.json holds environment variables, among them secrets, which have no place in an argument list.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if not __package__:  # run as a program: the files beside it are a package all the same (PEP 366)
    __package__ = "astro_inside"
    _spec: Any = importlib.util.spec_from_file_location(__package__, Path(__file__).with_name("__init__.py"))
    sys.modules[__package__] = importlib.util.module_from_spec(_spec)

from .children import emit, supervised
from .clones import clone_database
from .dag_runs import plain_test, read_log
from .parsing import parse
from .surroundings import dagbag_module, project_folder


def test(options: dict[str, Any]) -> int:
    """Run DAGs one after the other, each on a copy of the database.

    `options`: `dag_ids`; `mark_success` (a pattern) or null.
    """
    out = os.dup(1)
    for dag_id in options["dag_ids"]:
        request = {"date": None, "conf": None, "task": None}
        request |= {"dag_id": dag_id, "mark_success": options["mark_success"]}
        began = time.monotonic()
        with tempfile.TemporaryFile() as log:
            for fd in (1, 2):
                os.dup2(log.fileno(), fd)
            with clone_database() as url:
                code = supervised(None, lambda: _run(url, request))  # noqa: B023 - called at once
            seconds = round(time.monotonic() - began, 3)
            lines = read_log(log) if code else []
        message = {"type": "test", "dag_id": dag_id, "code": code, "seconds": seconds, "log": lines}
        emit(out, message)
    return 0


def _run(url: str, request: dict[str, Any]) -> int:
    os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = url
    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"  # connections and variables come from the database
    return plain_test(request)


def main(argv: list[str]) -> int:
    """Choose the command."""
    # As for the `airflow` program: the folder of this file is no place to import from.
    if sys.path[:1] == [str(Path(__file__).resolve().parent)]:
        del sys.path[0]
    os.environ.update(json.loads(Path(argv[0]).read_text(encoding="utf-8")))
    importlib.import_module("airflow.settings")
    if argv[1] == "parse":
        dagbag_module()  # once, for the process of each file
        return parse(project_folder(), [])
    return test(json.loads(argv[2]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
