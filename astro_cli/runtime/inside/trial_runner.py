"""Parses and tests a project's DAGs under the Airflow of an upgrade test, with the very code of the warm runner.

Runs under the Python of that environment: standard library only at import, nothing of astro_cli.

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


def load_runner() -> Any:  # noqa: ANN401 - a module
    """The module runner.py beside this file, which is no place to import from."""
    spec = importlib.util.spec_from_file_location("astro_runner", Path(__file__).with_name("runner.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test(runner: Any, options: dict[str, Any]) -> int:  # noqa: ANN401
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
            with runner.clone_database() as url:
                code = runner.supervised(None, lambda: _run(runner, url, request))  # noqa: B023 - called at once
            seconds = round(time.monotonic() - began, 3)
            lines = runner.read_log(log) if code else []
        message = {"type": "test", "dag_id": dag_id, "code": code, "seconds": seconds, "log": lines}
        runner.emit(out, message)
    return 0


def _run(runner: Any, url: str, request: dict[str, Any]) -> int:  # noqa: ANN401
    os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = url
    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"  # connections and variables come from the database
    return int(runner.plain_test(request))


def main(argv: list[str]) -> int:
    """Choose the command."""
    # As for the `airflow` program: the folder of this file is no place to import from.
    if sys.path[:1] == [str(Path(__file__).resolve().parent)]:
        del sys.path[0]
    os.environ.update(json.loads(Path(argv[0]).read_text(encoding="utf-8")))
    runner = load_runner()
    importlib.import_module("airflow.settings")
    if argv[1] == "parse":
        runner.dagbag_module()  # once, for the process of each file
        return int(runner.parse(runner.project_folder(), []))
    return test(runner, json.loads(argv[2]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
