"""What a deployment removes by itself."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

from astro_cli.deploy.inside.janitor import remove_versions, run

NOW = time.time()


def old(path: Path, days: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("line\n")
    moment = path.stat().st_mtime - days * 86_400
    os.utime(path, (moment, moment))
    return path


def test_old_logs_go_with_their_folders_and_new_ones_stay(tmp_path: Path, capsys):
    gone = old(tmp_path / "dag_id=a/run_id=1/task_id=t/attempt=1.log", days=31)
    kept = old(tmp_path / "dag_id=a/run_id=2/task_id=t/attempt=1.log", days=29)

    run(tmp_path, log_days=30, history_days=0)

    assert not gone.parents[1].exists()
    assert kept.exists()
    assert capsys.readouterr().out == "removed 1 log files older than 30 days\n"


def test_zero_days_keeps_for_ever(tmp_path: Path):
    kept = old(tmp_path / "a.log", days=3000)

    run(tmp_path, log_days=0, history_days=0)

    assert kept.exists()


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path):
    outside = old(tmp_path / "outside/precious.txt", days=99)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/latest").symlink_to(outside.parent)

    run(tmp_path / "logs", log_days=1, history_days=0)

    assert outside.exists()


def test_history_is_cleaned_by_airflow_itself(tmp_path: Path, monkeypatch):
    program = tmp_path / "airflow"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/said\nexit 3\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    run(tmp_path / "logs", log_days=0, history_days=90)

    said = (tmp_path / "said").read_text()
    assert said.startswith("db clean --clean-before-timestamp 2")
    assert said.endswith("--skip-archive --yes\n")


def test_versions_of_the_dags_go_that_no_release_no_run_and_no_tag_needs(tmp_path: Path):
    (tmp_path / "keep.json").write_text(json.dumps({"versions": ["released"], "tags": ["release-9"]}))
    for name in ("released", "run", "pointed-to", "gone", "young"):
        layer = hashlib.sha256(name.encode()).hexdigest()
        days = 0.5 if name == "young" else 2
        old(tmp_path / "blobs" / name, days).write_text(
            json.dumps({"layers": [{"digest": f"sha256:{layer}"}]})
        )
        for path in (tmp_path / "blobs" / name, old(tmp_path / "blobs" / layer, days)):
            os.utime(path, (NOW - days * 86_400,) * 2)
    for tag, version in (("release-9", "pointed-to"), ("release-3", "gone")):
        old(tmp_path / "tags" / tag, days=2).write_text(f"{version}\n")
        os.utime(tmp_path / "tags" / tag, (NOW - 2 * 86_400,) * 2)

    removed = remove_versions(tmp_path, {"run"}, before=NOW - 86_400)

    left = {path.name for path in (tmp_path / "blobs").iterdir() if len(path.name) < 64}
    assert (removed, left) == (3, {"released", "run", "pointed-to", "young"})
    assert len(list((tmp_path / "blobs").iterdir())) == 8
    assert [path.name for path in (tmp_path / "tags").iterdir()] == ["release-9"]


def test_before_the_first_deploy_of_this_astro_no_version_goes(tmp_path: Path):
    blob = old(tmp_path / "blobs/x", days=9)

    assert remove_versions(tmp_path, set(), before=blob.stat().st_mtime + 1) == 0
    assert blob.exists()
