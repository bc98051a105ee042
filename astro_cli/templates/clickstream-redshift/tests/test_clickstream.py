"""`astro airflow pytest` runs these in the sandbox, on a database of their own, against stand-ins.

The customer is made up for the tests; its rows and files are removed before and after each of them.
"""

import gzip
import json
import os
import urllib.request
from datetime import datetime, timedelta, timezone

import clickstream
import pytest
from airflow.models import Variable
from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.postgres.hooks.postgres import PostgresHook

from include.clickstream import BUCKET, VARIABLE, key_of, load, marker_of, problem
from include.clickstream.generate import files, hours, sheet

STUB = os.environ["ASTRO_SERVICE_HTTP_STUB_URL"]
CUSTOMER = {"name": "test", "events": ["click", "order"], "wait_seconds": 1, "style": "sensors"}
HOURS = hours("2026-01-01T00", 2)


def warehouse(query: str) -> list:
    return [tuple(row) for row in PostgresHook("warehouse").get_records(query)]


@pytest.fixture(autouse=True)
def nothing_is_there_before_and_after():
    remove_all()
    yield
    remove_all()


def remove_all() -> None:
    s3 = S3Hook()
    for prefix in ("events/test/", "dead/events/test/"):
        s3.delete_objects(BUCKET, s3.list_keys(BUCKET, prefix=prefix) or [])
    tables = [
        name for (name,) in warehouse("SELECT tablename FROM pg_tables WHERE tablename ~ '^(loads|events_)'")
    ]
    PostgresHook("warehouse").run([f"DELETE FROM {table} WHERE customer = 'test'" for table in tables])


def put(made, kind: str) -> None:
    for file in made:
        if file.kind == kind:
            S3Hook().load_bytes(file.content, file.key, BUCKET, replace=True)


def load_file(content: bytes, key: str = "k", etag: str = "1", event: str = "click") -> dict:
    connection = PostgresHook("warehouse").get_conn()
    try:
        return load.load(connection, key=key, etag=etag, content=content, customer="test", event=event)
    finally:
        connection.close()


def packed(*lines) -> bytes:
    return gzip.compress(
        "\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines).encode()
    )


def event(number: int, **more) -> dict:
    return {"id": f"e{number}", "at": "2026-01-01T00:00:00", **more}


def rows() -> dict[str, int]:
    """What is in the tables, not in the books."""
    counted = {}
    for name in CUSTOMER["events"]:
        if warehouse(f"SELECT 1 FROM pg_tables WHERE tablename = 'events_{name}'"):
            counted[f"test.{name}"] = warehouse(
                f"SELECT count(*) FROM events_{name} WHERE customer = 'test'"
            )[0][0]
    return {name: count for name, count in counted.items() if count}


def test_every_dag_file_can_be_imported(dag_bag):
    assert dag_bag.import_errors == {}


def test_the_same_arguments_give_the_same_files():
    once, again = files([CUSTOMER], HOURS), files([CUSTOMER], HOURS)

    assert [one.content for one in once] == [one.content for one in again]


def test_each_event_arrives_once_and_each_bad_line_is_told():
    done = load_file(packed(event(1), event(1), event(2), "{", '{"id": "no time"}', "[]"))

    assert (done["loaded"], len(done["rejected"])) == (2, 3)
    assert rows() == {"test.click": 2}


def test_the_same_file_again_loads_nothing_and_a_changed_one_what_is_new():
    load_file(packed(event(1)), etag="1")

    assert load_file(packed(event(1)), etag="1")["loaded"] == 0
    assert load_file(packed(event(1), event(2)), etag="2")["loaded"] == 1
    assert rows() == {"test.click": 2}


def test_a_property_that_is_new_becomes_a_column_and_texts_survive_as_they_are():
    text = "tab\t backslash \\N quote ' \" é\n"
    load_file(packed(event(1), event(2, note_for_test=text)))

    found = warehouse("SELECT note_for_test FROM events_click WHERE customer = 'test' ORDER BY id")
    assert found == [(None,), (text,)]


def test_a_load_that_fails_in_the_middle_leaves_nothing():
    with pytest.raises(Exception, match="invalid input syntax"):
        load_file(packed(event(1), {"id": "e2", "at": "yesterday or so"}))

    assert rows() == {}
    assert warehouse("SELECT 1 FROM loads WHERE customer = 'test'") == []


@pytest.mark.parametrize("style", ["sensors", "listing"])
def test_two_hours_with_a_missing_and_a_late_file_and_a_rerun_arrive_to_the_row(run_dag, style):
    made = files([CUSTOMER], HOURS)
    put(made, "present")
    for hour in HOURS:
        S3Hook().load_string("", marker_of("test", hour), BUCKET, replace=True)
    Variable.set(VARIABLE, json.dumps([{**CUSTOMER, "style": style}]))
    (dag,) = clickstream.make_dags(json.loads(Variable.get(VARIABLE)))

    second = [run_hour(run_dag, dag, hour) for hour in HOURS][1]
    assert rows() == sheet(made, late=False)["rows"]
    if style == "sensors":
        assert (second.state, second.tasks["wait_order"], second.tasks["load_order"]) == (
            "success",
            "skipped",
            "skipped",
        )

    put(made, "late")
    for hour in HOURS:
        run_hour(run_dag, dag, hour)
    expected = sheet(made, late=True)
    assert rows() == expected["rows"]

    s3 = S3Hook()
    dead = [s3.read_key(key, BUCKET) for key in s3.list_keys(BUCKET, prefix="dead/events/test/")]
    assert sum(len(text.splitlines()) for text in dead) == expected["rejected"]
    assert warehouse("SELECT count(*), sum(rejected) FROM loads WHERE customer = 'test'") == [
        (expected["files"], expected["rejected"])
    ]


def run_hour(run_dag, dag, hour: str):
    """A run by hand is about the hour before it, as one by the clock is."""
    start = datetime.fromisoformat(f"{hour}:00").replace(tzinfo=timezone.utc)
    return run_dag(dag, logical_date=start + timedelta(hours=1))


def test_the_api_is_down_and_the_last_good_answer_stays(run_dag):
    assert run_dag("clickstream_config_sync").xcom("keep")["customers"] == 2
    before = Variable.get(VARIABLE)
    body = json.dumps({"path": "/clickstream", "status": 503}).encode()
    urllib.request.urlopen(urllib.request.Request(f"{STUB}/__stub__/outage", body, method="PUT"))
    try:
        assert run_dag("clickstream_config_sync").state == "failed"
    finally:
        urllib.request.urlopen(urllib.request.Request(f"{STUB}/__stub__/outage", method="DELETE"))
    assert Variable.get(VARIABLE) == before


def test_a_task_builds_no_dag_but_its_own(monkeypatch):
    many = [{**CUSTOMER, "name": f"shop_{number}"} for number in range(137)]
    monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", "clickstream_shop_7")  # as Airflow does it

    assert [dag.dag_id for dag in clickstream.make_dags(many)] == ["clickstream_shop_7"]


@pytest.mark.parametrize(
    "change",
    [{"name": "../x"}, {"events": []}, {"events": ["a b"]}, {"style": "guess"}, {"wait_seconds": "long"}],
)
def test_a_wrong_customer_is_refused_with_a_reason(change):
    assert problem(CUSTOMER) is None
    assert problem({**CUSTOMER, **change})


def test_a_key_says_customer_event_and_hour():
    assert key_of("acme", "click", "2026-01-01T00") == "events/acme/click/2026-01-01T00.jsonl.gz"
