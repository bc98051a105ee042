"""A project for a benchmark, in a temporary folder with a home of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ASTRO = (sys.executable, "-m", "astro_cli")


class BenchProject:
    """One project of the default template.

    Args:
        environ: added to this process's environment.
    """

    def __init__(self, **environ: str) -> None:
        self.scratch = Path(tempfile.mkdtemp(prefix="astro-bench-"))
        self.home = self.scratch / "home"
        self.home.mkdir()
        kept = {
            name: value
            for name, value in os.environ.items()
            # Without bytecode every figure would be the one of a first run after the installation.
            if not name.startswith(("XDG_", "AIRFLOW")) and name != "PYTHONDONTWRITEBYTECODE"
        }
        self.environ = {**kept, "HOME": str(self.home), **environ}
        self.project = self.scratch
        self.astro("airflow", "init", "bench")
        self.project = self.scratch / "bench"

    def astro(self, *args: str) -> tuple[float, str]:
        """Run astro; wall seconds and stdout."""
        began = time.monotonic()
        done = subprocess.run(
            [*ASTRO, *args], cwd=self.project, env=self.environ, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise SystemExit(f"astro {' '.join(args)} failed:\n{done.stdout}{done.stderr}")
        return time.monotonic() - began, done.stdout

    def clean(self) -> None:
        """Leave nothing behind."""
        kill = [*ASTRO, "airflow", "kill", "--yes"]
        subprocess.run(kill, cwd=self.project, env=self.environ, capture_output=True, check=False)
        shutil.rmtree(self.scratch)
