"""Serves the task logs of one machine to the api-server, and removes old ones once a day.

    log_server.py LOGS LOG_DAYS     0 days: keep for ever

The server is Airflow's own, which answers only what the api-server has signed. It runs by itself, and not in each
worker, so that the logs of workers that are gone can still be read.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from airflow.utils.serve_logs import serve_logs
from janitor import DAY_SECONDS, remove_logs


def clean(folder: Path, days: int) -> None:
    """Remove old logs, again and again."""
    while True:
        removed = remove_logs(folder, before=time.time() - days * DAY_SECONDS)
        sys.stdout.write(f"removed {removed} log files older than {days} days\n")
        sys.stdout.flush()
        time.sleep(DAY_SECONDS)


if __name__ == "__main__":
    if int(sys.argv[2]):
        threading.Thread(target=clean, args=(Path(sys.argv[1]), int(sys.argv[2])), daemon=True).start()
    serve_logs()
