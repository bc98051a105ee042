"""How long each template needs, from a finished start to the first green run: `seconds` in its template.yaml.

    python bench/templates.py [--engine docker|standalone] [--write] [TEMPLATE...]

Each project is new, and started twice, so that nothing is installed while the clock runs. `--write` puts the
seconds into the templates: for a machine that does nothing else, or `init --list` shows what nobody else sees.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from project import BenchProject

from astro_cli.domain.scaffold import TEMPLATES

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
    parser.add_argument("--write", action="store_true")
    parser.add_argument("templates", nargs="*", choices=[*FIRST, []], default=[])
    options = parser.parse_args()
    figures = {name: measure(name, options.engine) for name in options.templates or FIRST}
    print(json.dumps(figures, indent=2))
    for name in figures if options.write else ():
        write(name, figures[name]["first_run"])


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


def write(template: str, seconds: float) -> None:
    """Have `init --list` show it."""
    about = TEMPLATES / template / "template.yaml"
    kept = re.sub(r"^seconds:.*\n", "", about.read_text(), flags=re.MULTILINE)
    about.write_text(f"{kept}seconds: {max(round(seconds), 1)}\n")


if __name__ == "__main__":
    main()
