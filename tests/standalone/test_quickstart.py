"""What the page 'Start in five minutes' tells to type, typed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.free_port import free_port

PAGE = Path(__file__).parents[2] / "docs/quickstart.md"


def test_every_block_of_the_quickstart_works(user: dict[str, str], tmp_path: Path):
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) > 4
    said = [f"echo '== {number}'\n{block}" for number, block in enumerate(blocks)]
    script = f"astro() {{ '{sys.executable}' -m astro_cli \"$@\"; }}\nset -eu\n" + "".join(said)
    environ = {**user, "ASTRO_SANDBOX_PORT": str(free_port()), "PYTHONPATH": str(PAGE.parents[1])}
    try:
        done = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, env=environ, text=True, capture_output=True, timeout=600
        )
        told = f"{done.stdout}\n{done.stderr}"
        assert done.returncode == 0, told
        assert "Traceback" not in done.stderr, told
        for expected in ("hello_astro", "prices", "tidy"):
            assert expected in told
    finally:
        subprocess.run(
            [sys.executable, "-m", "astro_cli", "airflow", "kill", "--yes", "-C", str(tmp_path / "hello")],
            env=environ,
            capture_output=True,
            timeout=120,
        )
