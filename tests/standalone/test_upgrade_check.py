"""`upgrade-check` with ruff from the package index."""

from __future__ import annotations

import json
from pathlib import Path

from tests.domain.test_old_idioms import DAG_2018, PLUGIN_2018
from tests.engine.astro import Astro


def test_old_code_outside_of_a_project_is_refused_with_file_line_and_the_modern_way(
    user: dict[str, str], tmp_path: Path
):
    astro = Astro(tmp_path, user)
    astro.write("dags/github.py", DAG_2018)
    astro.write("plugins/report.py", PLUGIN_2018)
    astro.write(".env", "AIRFLOW__CORE__EXECUTOR=MesosExecutor\n")

    told = json.loads(astro("airflow", "upgrade-check", "--json", code=6).stdout)["data"]

    assert told["ruff_missing"] is None
    rules = {(one["file"], one["line"]): one["rule"] for one in told["findings"]}
    assert rules[".env", 1] == "astro"
    assert rules["plugins/report.py", 12] == "astro"
    assert ("dags/github.py", 10) in rules
    assert {one["rule"] for one in told["findings"]} >= {"astro", "AIR311"}
    texts = [
        one["message"]
        for one in told["findings"]
        if one["line"] == 10 and "schedule_interval" in one["message"]
    ]
    assert len(texts) == 1  # ruff says it as well, but once is enough

    shown = astro("airflow", "upgrade-check", "dags/github.py", code=6).stdout
    assert "dags/github.py:10: error: `schedule_interval` is gone" in shown
    assert "    instead: `schedule=`" in shown


def test_a_project_of_today_passes(user: dict[str, str], tmp_path: Path):
    Astro(tmp_path, user)("airflow", "init", "shop", "--template", "plugin")

    told = Astro(tmp_path / "shop", user).json("airflow", "upgrade-check")

    assert told["ok"]
    assert told["findings"] == []
