"""One Celery worker in a container of its own: Airflow's command, which says in a file when it takes tasks.

This file is copied into the engine image beside task_parent.py, hence: nothing of astro_cli. The supervisor's
`exec` gives it the sandbox's environment:

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


def main(run_dir: Path, argv: list[str]) -> None:
    """Become the command; ends by SystemExit like it."""
    status = run_dir / "status.json"
    status.unlink(missing_ok=True)

    def ready(**_: object) -> None:
        temporary = run_dir / ".status.json.new"
        temporary.write_text(json.dumps({"state": "ready", "updated_at": time.time()}), encoding="utf-8")
        temporary.replace(status)

    importlib.import_module("celery.signals").worker_ready.connect(ready, weak=False)
    parent = load_beside("task_parent")
    parent.preimport()
    parent.install()
    sys.argv = ["airflow", *argv]
    importlib.import_module("airflow.__main__").main()


def load_beside(name: str) -> Any:  # noqa: ANN401 - a module
    """A module beside this file, which is no place to import from."""
    spec = importlib.util.spec_from_file_location(f"astro_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    # As for the `airflow` program: the folder of this file is no place to import from.
    if sys.path[:1] == [str(Path(__file__).resolve().parent)]:
        del sys.path[0]
    main(Path(sys.argv[1]), sys.argv[2:])
