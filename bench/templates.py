"""How long each template needs, from a finished start to the first green run: `seconds` in its template.yaml.

    python bench/templates.py [--engine docker|standalone] [TEMPLATE...]

Each project is new, and started twice, so that nothing is installed while the clock runs.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

from project import BenchProject

FIRST = {
    "default": "hello_astro",
    "minimal": "hello",
    "dynamic-dags": "customers_sync",
    "plugin": "stock_check",
    "github-stats": "github_extract",
    "clickstream-redshift": "clickstream_config_sync",
    "salesforce-warehouse": "salesforce",
}
"""The DAG that each README runs first."""


def main() -> None:
    """Measure the named templates, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("docker", "standalone"), default="standalone")
    parser.add_argument("templates", nargs="*", choices=[*FIRST, []], default=list(FIRST))
    options = parser.parse_args()
    print(json.dumps({name: measure(name, options.engine) for name in options.templates}, indent=2))


def measure(template: str, engine: str) -> dict[str, float]:
    """Seconds of the second start, and from there to the end of the first run."""
    bench = BenchProject(
        ASTRO_ENGINE=engine,
        UV_CACHE_DIR=os.environ.get("UV_CACHE_DIR", str(Path.home() / ".cache/uv")),
    )
    bench.project = bench.scratch
    bench.astro("airflow", "init", "one", "--template", template)
    bench.project = bench.scratch / "one"
    try:
        bench.astro("start", "--no-browser", "--wait", "600")
        bench.astro("airflow", "kill", "--yes", "--no-snapshot")
        start, _ = bench.astro("start", "--no-browser", "--wait", "600")
        began = time.monotonic()
        bench.astro("airflow", "trigger", FIRST[template], "--unpause", "--wait")
        return {"start": round(start, 1), "first_run": round(time.monotonic() - began, 1)}
    finally:
        bench.clean()


if __name__ == "__main__":
    main()
