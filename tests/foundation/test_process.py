"""The door to other programs, with real ones."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from astro_cli.foundation import process


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_run_gives_both_outputs_and_the_exit_code():
    seen: list[str] = []
    done = process.run(
        python("import sys; print('out', flush=True); print('err', file=sys.stderr); sys.exit(3)"),
        on_line=seen.append,
    )
    assert done.code == 3
    assert seen == ["out", "err"]
    assert done.lines == ("out", "err")


def test_a_program_that_does_not_exist_is_an_error():
    with pytest.raises(OSError):
        process.run(["/no/such/program"])


def test_attach_gives_the_exit_code(tmp_path: Path):
    assert process.attach(python("import sys; sys.exit(4)"), env=os.environ, cwd=tmp_path, stdin=False) == 4


def test_what_is_left_behind_lives_in_its_own_session_until_it_is_ended(tmp_path: Path):
    log = tmp_path / "log"
    identity = process.leave_behind(
        python("import os, time; print(os.getsid(0) == os.getpid(), flush=True); time.sleep(60)"),
        env=os.environ,
        cwd=tmp_path,
        log=log,
    )
    end = time.monotonic() + 60
    while not log.read_text():
        assert time.monotonic() < end
        time.sleep(0.02)
    assert log.read_text() == "True\n"
    assert identity.is_alive
    assert process.end(identity, seconds=60)
    assert not identity.is_alive


def test_a_program_that_ignores_term_is_killed(tmp_path: Path):
    log = tmp_path / "log"
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    identity = process.leave_behind(python(code), env=os.environ, cwd=tmp_path, log=log)
    end = time.monotonic() + 60
    while not log.read_text():
        assert time.monotonic() < end
        time.sleep(0.02)
    assert process.end(identity, seconds=0.2) is False
    assert not identity.is_alive


def test_another_process_with_the_same_id_is_not_the_one_that_was_meant():
    meant = process.Identity(os.getpid(), "at another time")
    assert not meant.is_alive
    assert process.end(meant, seconds=0.1)  # and this test goes on


def test_a_process_is_found_by_its_id_and_its_start():
    found = process.find(os.getpid(), started_at=time.time())
    older = process.find(os.getpid(), started_at=time.time() - 1_000_000)
    assert older is None
    assert found is None or found.is_alive
