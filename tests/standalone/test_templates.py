"""The templates at work: their own tests, and real runs to the row, all in one sandbox with its stand-ins."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from astro_cli.domain.scaffold import TEMPLATES, list_templates
from tests.engine.astro import Astro, get, trigger, wait_for_dag, wait_for_run
from tests.free_port import free_port
from tests.standalone.merged import merge, own_files

if TYPE_CHECKING:
    from collections.abc import Iterator

BROWSER = shutil.which("chromium")
SCREENSHOTS = os.environ.get("SCREENSHOTS", "")
"""A folder; `SCREENSHOTS=docs/images` makes the pictures of the docs anew."""
HOURS = ("--from", "2026-01-01T00:00", "--to", "2026-01-01T01:00")


@pytest.fixture(scope="module")
def all_of_them(user: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Astro]:
    folder = tmp_path_factory.mktemp("projects") / "all"
    folder.mkdir()
    merge(folder)
    astro = Astro(folder, {**user, "ASTRO_ENGINE": "standalone", "ASTRO_SANDBOX_PORT": str(free_port())})
    yield astro
    astro("airflow", "kill", "--yes", "--no-snapshot", code=None)


@pytest.fixture(scope="module")
def url(all_of_them: Astro) -> str:
    return str(all_of_them.start()["url"])


def run_dag(url: str, dag_id: str, conf: dict[str, Any] | None = None) -> str:
    """The final state of a run, on a machine that has much else to do."""
    return wait_for_run(url, dag_id, trigger(url, dag_id, conf), seconds=600)


def warehouse(astro: Astro, query: str) -> list[list[str]]:
    """Rows, as text."""
    done = astro("airflow", "bash", "postgres", input=f'psql warehouse -AtF, -c "{query}"\n')
    return [line.split(",") for line in done.stdout.splitlines()]


def readme(template: str) -> str:
    return (TEMPLATES / template / "README.md.j2").read_text()


def test_no_two_templates_have_the_same_file():
    paths = [path for name in list_templates() for path in own_files(name)]
    assert len(paths) == len(set(paths))


def test_every_dag_of_every_template_can_be_parsed(all_of_them: Astro, url: str):
    told = all_of_them.json("airflow", "parse")
    assert {file["path"] for file in told["files"]} == {
        path for name in list_templates() for path in own_files(name) if path.startswith("dags/")
    }


def test_the_templates_own_tests_pass(all_of_them: Astro, url: str):
    all_of_them("airflow", "pytest", "-q", "-x")


def test_clickstream_arrives_to_the_row(all_of_them: Astro, url: str):
    """Two hours with duplicates, bad lines, late and missing files, an outage of the API and a re-run."""
    assert run_dag(url, "clickstream_config_sync") == "success"
    for customer in ("acme", "bolt"):
        wait_for_dag(url, f"clickstream_{customer}", seconds=120)
    assert run_dag(url, "clickstream_generate") == "success"
    first = returned(url, "clickstream_generate", "generate")
    backfill(all_of_them)
    assert tables(all_of_them, first) == first["rows"]
    states = task_states(url, "clickstream_acme")
    assert [states[name] for name in ("wait_click", "load_click", "wait_order", "load_order")] == [
        "skipped"
    ] * 4

    with outage(all_of_them, "/clickstream"):
        assert run_dag(url, "clickstream_config_sync") == "failed"
    assert run_dag(url, "clickstream_generate", {"late": True}) == "success"
    late = returned(url, "clickstream_generate", "generate")
    for _ in range(2):
        backfill(all_of_them, "--reprocess", "completed")
        assert tables(all_of_them, late) == late["rows"]

    files = warehouse(
        all_of_them, "SELECT count(*), sum(rejected) FROM loads WHERE customer IN ('acme', 'bolt')"
    )
    assert files == [[str(late["files"]), str(late["rejected"])]]
    rows = re.findall(
        r"^\| `events_(\w+)`, (\w+) \| (\d+) \| (\d+) \|$", readme("clickstream-redshift"), re.MULTILINE
    )
    assert {f"{who}.{what}": int(count) for what, who, count, _ in rows if count != "0"} == first["rows"]
    assert {f"{who}.{what}": int(count) for what, who, _, count in rows} == late["rows"]
    assert f"**{late['rejected']} lines**" in readme("clickstream-redshift")


def test_github_arrives_to_the_row_with_one_message_to_slack(all_of_them: Astro, url: str):
    control = stub(all_of_them)
    httpx.post(f"{control}/reset", trust_env=False).raise_for_status()
    assert run_dag(url, "github_extract") == "success"
    end = time.monotonic() + 180
    while not (messages := get(control, "/requests?path=/slack")) and time.monotonic() < end:
        time.sleep(1)
    assert len(messages) == 1
    assert "acme: open issues 4" in json.dumps(messages)
    assert warehouse(all_of_them, "SELECT count(*) FROM github_items") == [["91"]]
    stats = {(org, name): value for org, name, value in warehouse(all_of_them, "TABLE github_stats")}
    for org in ("acme", "globex"):
        names = ("open issues", "median hours to merge", "commits in the busiest week", "top contributor")
        assert f"| {org} | {' | '.join(stats[org, name] for name in names)} |" in readme("github-stats")


def test_a_dag_for_each_enabled_customer_appears(all_of_them: Astro, url: str):
    assert run_dag(url, "customers_sync") == "success"
    wait_for_dag(url, "customer_corner_cafe", seconds=120)
    assert run_dag(url, "customer_corner_cafe") == "success"
    assert returned(url, "customer_corner_cafe", "report") == 49
    assert httpx.get(f"{url}/api/v2/dags/customer_dormant", trust_env=False).status_code == 404


def test_salesforce_arrives_to_the_row(all_of_them: Astro, url: str):
    assert run_dag(url, "salesforce") == "success"
    counted = "SELECT (SELECT count(*) FROM sf_account), (SELECT count(*) FROM sf_contact)"
    assert warehouse(all_of_them, counted) == [["3", "2"]]


def test_a_strangers_token_is_refused_by_the_plugins_api_and_only_there(all_of_them: Astro, url: str):
    stranger = {"Authorization": "Bearer stranger"}
    codes = {
        path: httpx.get(f"{url}/ops/{path}", headers=stranger, trust_env=False, timeout=60).status_code
        for path in ("slow-tasks", "health", "")
    }
    assert codes == {"slow-tasks": 403, "health": 200, "": 200}
    assert (
        httpx.get(f"{url}/ops/slow-tasks", trust_env=False).status_code == 200
    )  # a sandbox has no strangers


@pytest.mark.skipif(BROWSER is None, reason="no chromium here; scripts/test installs it for root on Debian")
def test_the_plugins_page_and_button_are_in_the_web_ui(all_of_them: Astro, url: str):
    from playwright.sync_api import sync_playwright

    assert run_dag(url, "stock_check") == "success"
    assert get(url, "/api/v2/plugins/importErrors")["total_entries"] == 0
    (run,) = get(url, "/api/v2/dags/stock_check/dagRuns?limit=1&order_by=-run_after")["dag_runs"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 620})
        page.set_default_timeout(60_000)
        page.goto(url)
        page.get_by_role("link", name="Stock").click()
        page.frame_locator("iframe").get_by_role("cell").first.wait_for()  # of the table's first row of data
        _picture(page, "plugin-page")
        page.goto(f"{url}/dags/stock_check/runs/{run['dag_run_id']}/tasks/check/mapped/0/details")
        button = page.get_by_role("link", name="Stock room")
        button.wait_for()
        assert button.get_attribute("href") == "/ops/?task=check"
        _picture(page, "plugin-button")
        browser.close()


def _picture(page: Any, name: str) -> None:
    if SCREENSHOTS:
        page.screenshot(path=Path(SCREENSHOTS, f"{name}.png"))


def returned(url: str, dag_id: str, task_id: str) -> Any:
    """What a task of the latest run returned."""
    (run,) = get(url, f"/api/v2/dags/{dag_id}/dagRuns?limit=1&order_by=-run_after")["dag_runs"]
    path = (
        f"/api/v2/dags/{dag_id}/dagRuns/{run['dag_run_id']}/taskInstances/{task_id}/xcomEntries/return_value"
    )
    return get(url, f"{path}?deserialize=true")["value"]


def backfill(astro: Astro, *options: str) -> None:
    for customer in ("acme", "bolt"):
        astro("airflow", "backfill", f"clickstream_{customer}", *HOURS, *options)


def tables(astro: Astro, sheet: dict[str, Any]) -> dict[str, int]:
    """The rows of each customer and event in the tables themselves."""
    events = sorted({name.partition(".")[2] for name in sheet["rows"]})
    query = " UNION ALL ".join(
        f"SELECT customer || '.{event}', count(*) FROM events_{event} WHERE customer IN ('acme', 'bolt') GROUP BY 1"
        for event in events
    )
    return {name: int(count) for name, count in warehouse(astro, query)}


def task_states(url: str, dag_id: str) -> dict[str, str]:
    """Of the run of the second hour."""
    runs = get(url, f"/api/v2/dags/{dag_id}/dagRuns?limit=100")["dag_runs"]
    (run,) = [
        one["dag_run_id"] for one in runs if (one["logical_date"] or "").startswith("2026-01-01T01:00:00")
    ]
    tasks = get(url, f"/api/v2/dags/{dag_id}/dagRuns/{run}/taskInstances")["task_instances"]
    return {one["task_id"]: one["state"] for one in tasks}


def stub(astro: Astro) -> str:
    """The controls of the stand-in for APIs."""
    address = astro("airflow", "bash", input="echo $ASTRO_SERVICE_HTTP_STUB_URL\n").stdout.strip()
    return f"{address}/__stub__"


class outage:  # noqa: N801 - reads as a function
    """An API answers 503 meanwhile."""

    def __init__(self, astro: Astro, path: str) -> None:
        self._address, self._path = f"{stub(astro)}/outage", path

    def __enter__(self) -> None:
        httpx.put(self._address, json={"path": self._path, "status": 503}, trust_env=False).raise_for_status()

    def __exit__(self, *_: object) -> None:
        httpx.delete(self._address, trust_env=False).raise_for_status()
