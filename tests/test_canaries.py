"""The search for secrets finds one that is there to be found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.canaries import files_for_everybody, processes_with


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
def test_a_process_with_a_secret_is_found_in_its_arguments_and_in_its_environment():
    for what, argument, variable in (("cmdline", "canary-a1", ""), ("environ", "", "canary-a1")):
        command = [sys.executable, "-c", "print(flush=True); input()", argument]
        child = subprocess.Popen(
            command, env={"A": variable}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            assert child.stdout is not None
            child.stdout.readline()
            assert processes_with({b"canary-a1"}, what) == {os.getuid(): {child.pid}}
        finally:
            child.kill()
            child.communicate()


def test_of_files_those_that_everybody_can_read_are_found(tmp_path: Path):
    tmp_path.chmod(0o755)
    for name, mode in (("open", 0o644), ("private", 0o600), ("shut/open", 0o644)):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("canary-a1")
        file.chmod(mode)
    (tmp_path / "shut").chmod(0o700)
    assert files_for_everybody(tmp_path) == {tmp_path / "open": b"canary-a1"}
