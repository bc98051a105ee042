"""Keeps a deployment from growing for ever: once a day, old task logs, runs and versions of DAGs are removed.

    janitor.py LOGS LOG_DAYS HISTORY_DAYS [DAGS]     0 days: keep for ever

Standard library only, so that it idles in a few megabytes; the work on the database is Airflow's own `db clean`,
which keeps the last run of each DAG. A version of the DAGs goes when no release that can be returned to has it
(`keep.json`, which deploys write) and no run that is left in the database began with it.
"""

from __future__ import annotations

import datetime
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

FIRST_SECONDS = 600.0
DAY_SECONDS = 86_400.0
_VERSIONS = """
import json, os, sqlalchemy
with sqlalchemy.create_engine(os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]).connect() as connection:
    query = "SELECT bundle_version FROM dag_run UNION SELECT bundle_version FROM dag"
    print(json.dumps([version for version, in connection.execute(sqlalchemy.text(query)) if version]))
"""


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


def versions_of_runs() -> set[str] | None:
    """The versions of the DAGs that runs began with; None when the database does not tell."""
    done = subprocess.run([sys.executable, "-c", _VERSIONS], check=False, capture_output=True, text=True)  # noqa: S603
    if done.returncode:
        sys.stderr.write(done.stderr)
        return None
    return set(json.loads(done.stdout))


def remove_versions(folder: Path, used: set[str], *, before: float) -> int:
    """Remove versions of the DAGs that neither a release nor a run needs; returns how many files went.

    Args:
        folder: holds `blobs`, `tags` and `keep.json`.
        used: versions of runs.
        before: what is newer stays in any case: a deploy may be about to need it.
    """
    try:
        keep = json.loads((folder / "keep.json").read_text(encoding="utf-8"))
    except FileNotFoundError:  # deployed by an older astro
        return 0
    gone = [
        tag
        for tag in (folder / "tags").iterdir()
        if tag.name not in keep["tags"] and tag.stat().st_mtime < before
    ]
    tagged = {
        tag.read_text(encoding="ascii").strip() for tag in (folder / "tags").iterdir() if tag not in gone
    }
    needed: set[str] = set()
    for version in {*keep["versions"], *used, *tagged}:
        manifest = folder / "blobs" / version
        if manifest.exists():
            layers = json.loads(manifest.read_text(encoding="utf-8"))["layers"]
            needed |= {version, *(str(layer["digest"]).removeprefix("sha256:") for layer in layers)}
    blobs = (folder / "blobs").iterdir()
    gone += [blob for blob in blobs if blob.name not in needed and blob.stat().st_mtime < before]
    for path in gone:
        path.unlink()
    return len(gone)


def run(logs: Path, log_days: int, history_days: int, dags: Path | None = None) -> None:
    """Clean now, as far as anything is to go at all."""
    now = time.time()
    if log_days:
        removed = remove_logs(logs, before=now - log_days * DAY_SECONDS)
        sys.stdout.write(f"removed {removed} log files older than {log_days} days\n")
    if history_days:
        code = clean_history(before=now - history_days * DAY_SECONDS)
        sys.stdout.write(f"airflow db clean, older than {history_days} days: exit code {code}\n")
    used = versions_of_runs() if dags else None
    if dags and used is not None:
        removed = remove_versions(dags, used, before=now - DAY_SECONDS)
        sys.stdout.write(f"removed {removed} files of versions of the DAGs that nothing needs\n")
    sys.stdout.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    time.sleep(FIRST_SECONDS)  # a deploy that has just started has other things to do
    while True:
        run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *map(Path, sys.argv[4:]))
        time.sleep(DAY_SECONDS)
