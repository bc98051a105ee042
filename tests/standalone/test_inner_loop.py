"""The inner loop without Docker: the same runner, forked by the same supervisor."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.engine.astro import Astro


def test_parse_test_and_pytest_work_in_local_processes(make_project: Callable[[str], Astro]):
    shop = make_project("shop")
    shop.start()
    assert shop.json("airflow", "parse")["dags"] == ["asset_report", "hello_astro"]
    shop.write("include/prices.py", "def read(row):\n    return row['price']\n")
    shop.write("dags/broken.py", "from airflow.sdk import dag\nfrom include.prices import read\nread({})\n")
    said = shop("airflow", "parse", "dags/broken.py", code=1).stdout
    assert "error: include/prices.py:2: KeyError: 'price'" in said
    (shop.folder / "dags/broken.py").unlink()
    assert shop.json("airflow", "test", "hello_astro")["state"] == "success"
    assert " passed" in shop("airflow", "pytest", "-q").stdout
