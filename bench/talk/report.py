# /// script
# requires-python = ">=3.10"
# dependencies = ["jinja2", "matplotlib"]
# ///
"""Writes docs/talk.md and its chart from the results of all scenarios.

    uv run bench/talk/report.py [RESULTS]

RESULTS is a folder with one JSON file for each, `bench/talk/results` unless told; its README says how they came.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, FileSystemLoader, StrictUndefined

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
INK, PALE, BAR = "#1f4e79", "#9db8d2", "#c0504d"


def main() -> None:
    """Write both files."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "results"
    results = {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}
    draw(results)
    environment = Environment(
        loader=FileSystemLoader(HERE),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    (DOCS / "talk.md").write_text(environment.get_template("report.md.j2").render(results=results))


def draw(results: dict[str, Any]) -> None:
    """Three panels: tasks a minute, how long a task waits, and what a task costs by the way it waits."""
    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "astro", "font.size": 9, "axes.spines.top": False})
    mpl.rcParams["axes.spines.right"] = False
    import matplotlib.pyplot as plt

    figure, (rate, wait, cost) = plt.subplots(1, 3, figsize=(10, 2.8), layout="constrained")
    empty = {name: results[name]["figures"]["tasks_a_minute"] for name in ("empty-4", "empty-4-no-guard")}
    rates = {
        "empty, guard": empty["empty-4"],
        "empty, no guard": empty["empty-4-no-guard"],
        "real loads": results["burst"]["figures"]["tasks_a_minute"],
    }
    rate.barh(list(rates), list(rates.values()), color=[INK, PALE, INK])
    rate.axvline(46.3, color=BAR, linewidth=1)
    rate.set_ylim(3, -0.6)  # room for the words below the bars
    rate.annotate(" the talk's average", (46.3, 2.85), color=BAR, fontsize=8)
    rate.set_title("task instances a minute")
    steady = results["steady"]["figures"]
    wait.barh(["half of them", "95 %"], [steady["wait_p50"], steady["wait_p95"]], color=[PALE, INK])
    wait.axvline(15, color=BAR, linewidth=1)
    wait.annotate("bar ", (15, 0.5), color=BAR, fontsize=8, horizontalalignment="right")
    wait.invert_yaxis()
    wait.set_title("seconds from ready to started, steady")
    styles = results["waiting"]["figures"]
    cost.barh(list(styles), [styles[name]["cpu_seconds"] for name in styles], color=INK)
    cost.invert_yaxis()
    cost.set_title("CPU seconds, the same files")
    figure.savefig(DOCS / "images/talk.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
