"""Becomes a service of a standalone sandbox, with an environment of its own: not Airflow's, which holds secrets.

    launch.py SERVICE.json

SERVICE.json   {"command": [..], "folder": where it runs, "environment": all of its variables}

Standard library only: it runs under the Python of the sandbox's environment.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main(path: Path) -> int:
    """Returns only by an error."""
    service = json.loads(path.read_text(encoding="utf-8"))
    try:
        os.chdir(service["folder"])
        os.execvpe(service["command"][0], service["command"], service["environment"])  # noqa: S606
    except OSError as exc:
        sys.stderr.write(f"cannot run {service['command'][0]}: {exc.strerror}\n")
        return 127


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
