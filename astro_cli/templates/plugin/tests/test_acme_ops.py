"""The plugin, without a browser: `astro airflow pytest`."""

from datetime import date

from airflow import plugins_manager
from airflow.api_fastapi.core_api.security import get_user
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from acme_ops.api import app
from acme_ops.hook import StockHook
from acme_ops.macros import weekday

OPEN = {"/", "/health"}


def test_airflow_loads_the_plugin_without_a_complaint():
    plugins, errors = plugins_manager._get_plugins()

    assert errors == {}
    assert "acme_ops" in [plugin.name for plugin in plugins]


def test_every_dag_file_can_be_imported(dag_bag):
    assert dag_bag.import_errors == {}


def test_a_run_orders_what_the_readme_says(run_dag):
    run = run_dag("stock_check")

    assert run.state == "success"
    assert run.xcom("order") == {"espresso beans": 3, "whole milk": 4}


def test_the_minimum_is_a_parameter_of_the_run(run_dag):
    assert run_dag("stock_check", conf={"minimum": 2}).xcom("order") == {"whole milk": 1}


def test_each_check_has_its_button(run_dag):
    assert run_dag("stock_check").xcom("check", key="_link_StockLink") == ["/ops/?task=check"] * 4


def test_the_hook_tells_whether_its_list_is_there():
    assert StockHook().test_connection() == (True, "stock.csv is there")


def test_an_item_that_nobody_has_heard_of_is_not_in_stock():
    assert StockHook().in_stock("tea") == 0


def test_the_macro_speaks_english():
    assert weekday(date(2018, 4, 19)) == "Thursday"


def test_all_routes_but_two_ask_for_the_user():
    routes = [route for route in app.routes if isinstance(route, APIRoute)]
    asking = {
        route.path for route in routes if get_user in [one.call for one in route.dependant.dependencies]
    }

    assert {route.path for route in routes} - asking == OPEN


def test_the_slowest_tasks_come_first(run_dag):
    run_dag("stock_check")
    app.dependency_overrides[get_user] = lambda: "somebody"
    try:
        rows = TestClient(app).get("/slow-tasks", params={"limit": 5}).json()
    finally:
        app.dependency_overrides.clear()

    assert len(rows) == 5
    assert [row["seconds"] for row in rows] == sorted((row["seconds"] for row in rows), reverse=True)
