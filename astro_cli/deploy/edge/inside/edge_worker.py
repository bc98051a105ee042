"""One worker outside of a deployment: Airflow's command, which finishes its tasks when it is told to end.

    edge_worker.py NAME ARGS     be `airflow edge worker --edge-hostname NAME ARGS`

Airflow's own worker ends its tasks at SIGTERM, which is what an engine sends that stops a container, and waits for
them at SIGINT. One whose machine lost power finds its old pid file and its name in use, and does not start again.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import os
import ssl
import sys
import time
from pathlib import Path
from typing import Any

AUTHORITY = "ASTRO_EDGE_AUTHORITY"
"""Variable with the PEM text of who signed the certificate of the deployment's web address."""
TRUSTED = Path("/run/astro/trusted.pem")
PID = Path("/run/astro/edge-worker.pid")
TASK_PARENT = Path(__file__).parents[1] / "task_parent.py"
KEEP_SECONDS = 86_400.0
"""Logs stay that long after their last line; the deployment has them, too."""
LOOK_SECONDS = 3600.0


def main(name: str, argv: list[str]) -> None:
    """Become the command; ends by SystemExit like it."""
    trust(TRUSTED)
    sys.argv = ["airflow", "edge", "worker", "--edge-hostname", name, "--pid", str(PID), *argv]
    worker = importlib.import_module("airflow.providers.edge3.cli.worker")
    if PID.exists():  # this very container ended without a word
        sign_off(worker, name)
        PID.unlink()
    worker.EdgeWorker.shutdown_handler = worker.EdgeWorker.signal_drain
    worker.EdgeWorker.heartbeat = tidying(worker.EdgeWorker.heartbeat)
    parent = load(TASK_PARENT)
    parent.preimport()
    parent.install()
    importlib.import_module("airflow.__main__").main()


def trust(path: Path) -> None:
    """Believe the authority that is named besides all others; what reads certificates is imported after this."""
    text = os.environ.pop(AUTHORITY, "")
    if text:
        known = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
        path.write_text(
            f"{Path(known).read_text(encoding='utf-8') if known else ''}\n{text}", encoding="utf-8"
        )
        os.environ["SSL_CERT_FILE"] = str(path)


def sign_off(worker: Any, name: str) -> None:  # noqa: ANN401 - a module
    """Say that the worker of that name is gone, which the deployment would find out after a minute."""
    client = importlib.import_module("airflow.providers.edge3.cli.api_client")
    versions = {
        "airflow_version": worker.airflow_version,
        "edge_provider_version": worker.edge_provider_version,
    }
    with contextlib.suppress(Exception):
        asyncio.run(client.worker_set_state(name, worker.EdgeWorkerState.OFFLINE, 0, None, versions))


def tidying(heartbeat: Any) -> Any:  # noqa: ANN401 - a method of Airflow's
    """A heartbeat that removes old logs as well; no thread, since tasks are forked from this process."""
    last = time.monotonic()

    async def beat(self: Any, *args: Any) -> Any:  # noqa: ANN401
        nonlocal last
        if time.monotonic() - last > LOOK_SECONDS:
            last = time.monotonic()
            remove_old(Path(self.base_log_folder), before=time.time() - KEEP_SECONDS)
        return await heartbeat(self, *args)

    return beat


def remove_old(folder: Path, *, before: float) -> None:
    """Remove files that were last written before that moment, then empty folders."""
    for parent, folders, files in os.walk(folder, topdown=False):
        for each in files:
            path = Path(parent, each)
            with contextlib.suppress(OSError):
                if path.lstat().st_mtime < before:
                    path.unlink()
        for each in folders:
            with contextlib.suppress(OSError):
                Path(parent, each).rmdir()


def load(path: Path) -> Any:  # noqa: ANN401 - a module
    """A module by its file."""
    spec = importlib.util.spec_from_file_location(f"astro_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
