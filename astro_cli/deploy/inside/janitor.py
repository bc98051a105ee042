"""Keeps a deployment from growing for ever: once a day, old task logs and old history of runs are removed.

    janitor.py FOLDER LOG_DAYS HISTORY_DAYS     0 days: keep for ever

Standard library only, so that it idles in a few megabytes; the work on the database is Airflow's own `db clean`,
which keeps the last run of each DAG.
"""

from __future__ import annotations

import datetime
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

FIRST_SECONDS = 600.0
DAY_SECONDS = 86_400.0


def remove_logs(folder: Path, *, before: float) -> int:
    """Remove files that were last written before that moment, then empty folders; returns how many files."""
    removed = 0
    for parent, folders, files in os.walk(folder, topdown=False):
        for name in files:
            path = Path(parent, name)
            try:
                if path.lstat().st_mtime < before:
                    path.unlink()
                    removed += 1
            except FileNotFoundError:
                continue
        for name in folders:
            try:
                Path(parent, name).rmdir()
            except OSError:  # not empty, or just taken into use
                continue
    return removed


def clean_history(*, before: float) -> int:
    """Remove runs, and what belongs to them, from before that moment; the exit code of `airflow db clean`."""
    moment = datetime.datetime.fromtimestamp(before, datetime.timezone.utc).isoformat(timespec="seconds")
    command = ["airflow", "db", "clean", "--clean-before-timestamp", moment, "--skip-archive", "--yes"]
    return subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode  # noqa: S603 - our own words


def run(folder: Path, log_days: int, history_days: int) -> None:
    """Clean now, as far as anything is to go at all."""
    now = time.time()
    if log_days:
        removed = remove_logs(folder, before=now - log_days * DAY_SECONDS)
        sys.stdout.write(f"removed {removed} log files older than {log_days} days\n")
    if history_days:
        code = clean_history(before=now - history_days * DAY_SECONDS)
        sys.stdout.write(f"airflow db clean, older than {history_days} days: exit code {code}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    time.sleep(FIRST_SECONDS)  # a deploy that has just started has other things to do
    while True:
        run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
        time.sleep(DAY_SECONDS)
