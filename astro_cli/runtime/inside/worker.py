"""One Celery worker in a container of its own: Airflow's command, which says in a file when it takes tasks.

The supervisor's `exec` gives it the sandbox's environment:

    worker.py RUN_DIR CMD ARGS     be `airflow CMD ARGS`, for example `airflow celery worker`

RUN_DIR/status.json   {"state": "ready", "updated_at": epoch seconds}, written when the worker takes tasks.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

if not __package__:  # run as a program: the files beside it are a package all the same (PEP 366)
    __package__ = "astro_inside"
    _spec: Any = importlib.util.spec_from_file_location(__package__, Path(__file__).with_name("__init__.py"))
    sys.modules[__package__] = importlib.util.module_from_spec(_spec)

from . import task_parent


def main(run_dir: Path, argv: list[str]) -> None:
    """Become the command; ends by SystemExit like it."""
    status = run_dir / "status.json"
    status.unlink(missing_ok=True)

    def ready(**_: object) -> None:
        temporary = run_dir / ".status.json.new"
        temporary.write_text(json.dumps({"state": "ready", "updated_at": time.time()}), encoding="utf-8")
        temporary.replace(status)

    importlib.import_module("celery.signals").worker_ready.connect(ready, weak=False)
    task_parent.preimport()
    task_parent.install()
    sys.argv = ["airflow", *argv]
    importlib.import_module("airflow.__main__").main()


if __name__ == "__main__":
    # As for the `airflow` program: the folder of this file is no place to import from.
    if sys.path[:1] == [str(Path(__file__).resolve().parent)]:
        del sys.path[0]
    main(Path(sys.argv[1]), sys.argv[2:])
