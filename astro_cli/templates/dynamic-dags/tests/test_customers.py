"""`astro airflow pytest` runs these in the sandbox, on a database of their own, against the stand-in of the API."""

import json
import os
import time
import urllib.request

import customers as factory
import pytest
from airflow.models import Variable

from include.customers import VARIABLE, as_text, sort_out

STUB = os.environ["ASTRO_SERVICE_HTTP_STUB_URL"]


def customer(number: int, **changes) -> dict:
    return {"name": f"shop_{number:03}", "schedule": "@hourly", "events": ["click"], **changes}


@pytest.fixture
def outage():
    """The API answers 503 until the test is over."""
    control = f"{STUB}/__stub__/outage"
    body = json.dumps({"path": "/customers", "status": 503}).encode()
    urllib.request.urlopen(urllib.request.Request(control, body, method="PUT"))
    yield
    urllib.request.urlopen(urllib.request.Request(control, method="DELETE"))


def test_every_dag_file_can_be_imported(dag_bag):
    assert dag_bag.import_errors == {}


def test_the_sync_keeps_the_three_customers_that_are_enabled(run_dag):
    assert run_dag("customers_sync").xcom("keep")["customers"] == 3
    assert [one["name"] for one in json.loads(Variable.get(VARIABLE))] == ["acme", "bolt", "corner_cafe"]


def test_the_same_answer_changes_nothing(run_dag):
    run_dag("customers_sync")

    assert run_dag("customers_sync").xcom("keep") == {"customers": 3, "changed": False}


@pytest.mark.usefixtures("outage")
def test_while_the_api_is_down_the_last_good_answer_stays(run_dag):
    Variable.set(VARIABLE, as_text([customer(1)]))

    assert run_dag("customers_sync").state == "failed"
    assert json.loads(Variable.get(VARIABLE)) == [customer(1)]


@pytest.mark.parametrize("number", [0, 1, 137])
def test_there_is_one_dag_for_each_customer(number):
    began = time.process_time()
    dags = factory.make_dags([customer(one) for one in range(number)])

    assert len({dag.dag_id for dag in dags}) == number
    assert time.process_time() - began < 5


def test_a_task_builds_no_dag_but_its_own(monkeypatch):
    monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", "customer_shop_007")  # as Airflow does it

    assert [dag.dag_id for dag in factory.make_dags([customer(one) for one in range(137)])] == [
        "customer_shop_007"
    ]


def test_the_dag_of_a_customer_has_a_task_for_each_event_and_adds_up(run_dag):
    Variable.set(VARIABLE, as_text([customer(1, events=["click", "order"])]))
    (dag,) = factory.make_dags(json.loads(Variable.get(VARIABLE)))
    run = run_dag(dag)

    assert run.tasks == {"count_click": "success", "count_order": "success", "report": "success"}
    assert run.xcom("report") == 2 * len("shop_001") + len("click") + len("order")


@pytest.mark.parametrize(
    "wrong",
    [
        customer(2, name="../etc"),
        customer(2, name="shop_001"),
        customer(2, schedule="* * * * *"),
        customer(2, events=[]),
        customer(2, events="click"),
        "shop_002",
    ],
)
def test_a_wrong_customer_is_left_out_with_a_reason_and_the_others_stay(wrong):
    good, bad = sort_out([customer(1), wrong, customer(3)])

    assert good == [customer(1), customer(3)]
    assert len(bad) == 1
    assert bad[0].startswith("customer 2 is left out: ")


def test_the_order_of_the_answer_does_not_matter():
    answer = [customer(1, events=["order", "click"]), customer(2)]
    turned = [customer(2), customer(1, events=["click", "order", "click"])]

    assert as_text(sort_out(answer)[0]) == as_text(sort_out(turned)[0])
