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
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from jinja2 import Environment, FileSystemLoader, StrictUndefined

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    """A panel each: tasks a minute, how long a task waits, and what a task costs by the way it waits."""
    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "astro", "font.size": 9, "axes.spines.top": False})
    mpl.rcParams["axes.spines.right"] = False
    import matplotlib.pyplot as plt

    figures = {name: result["figures"] for name, result in results.items()}
    panels = [rates, waits, *([costs] if "waiting" in figures else [])]
    width = 3.3 * len(panels)
    figure, axes = plt.subplots(1, len(panels), figsize=(width, 2.8), layout="constrained")
    for panel, axis in zip(panels, axes, strict=True):
        panel(axis, figures)
    figure.savefig(DOCS / "images/talk.svg", metadata={"Date": None})


def rates(axis: Axes, figures: dict[str, Any]) -> None:
    """Task instances a minute."""
    names = {"empty-4": "empty, guard", "empty-4-no-guard": "empty, no guard", "burst": "real loads"}
    shown = {said: figures[name]["tasks_a_minute"] for name, said in names.items() if name in figures}
    axis.barh(list(shown), list(shown.values()), color=INK)
    axis.set_ylim(len(shown), -0.6)  # room for the words below the bars
    axis.axvline(46.3, color=BAR, linewidth=1)
    axis.annotate(" the talk's average", (46.3, len(shown) - 0.15), color=BAR, fontsize=8)
    axis.set_title("task instances a minute")


def waits(axis: Axes, figures: dict[str, Any]) -> None:
    """From ready to started, at the talk's average."""
    axis.barh(
        ["half of them", "95 %"],
        [figures["steady"][name] for name in ("wait_p50", "wait_p95")],
        color=[PALE, INK],
    )
    axis.axvline(15, color=BAR, linewidth=1)
    axis.annotate("bar ", (15, 0.5), color=BAR, fontsize=8, horizontalalignment="right")
    axis.invert_yaxis()
    axis.set_title("seconds from ready to started")


def costs(axis: Axes, figures: dict[str, Any]) -> None:
    """CPU seconds by the way of waiting."""
    styles = figures["waiting"]
    axis.barh(list(styles), [style["cpu_seconds"] for style in styles.values()], color=INK)
    axis.invert_yaxis()
    axis.set_title("CPU seconds, the same files")


if __name__ == "__main__":
    main()
