"""`astro airflow pytest` runs these in the sandbox, on a database of their own, against stand-ins."""

from airflow.providers.postgres.hooks.postgres import PostgresHook

from include.salesforce import columns, drift


def test_every_dag_file_can_be_imported(dag_bag):
    assert dag_bag.import_errors == {}


def test_a_run_brings_every_record_once_however_often_it_runs(run_dag):
    first = run_dag("salesforce")
    again = run_dag("salesforce")

    assert (first.state, again.state) == ("success", "success")
    assert (again.xcom("account.load"), again.xcom("contact.load")) == (3, 2)
    assert again.xcom("account.sync_schema") == {"add": [], "gone": [], "changed": []}
    rows = PostgresHook("warehouse").get_records(
        "SELECT id, name, annualrevenue::text FROM sf_account ORDER BY id"
    )
    assert [tuple(row) for row in rows] == [
        ("001A", "Acme", "1250000.5"),
        ("001B", 'Globex "West", Inc.', None),
        ("001C", "Initech", "90000"),
    ]


def test_a_fields_type_becomes_a_columns_type():
    fields = [
        {"name": "Size__c", "type": "double"},
        {"name": "Notes", "type": "textarea"},
        {"name": "x;y", "type": "id"},
    ]

    assert columns({"fields": fields}) == {"notes": "text", "size__c": "double precision"}


def test_a_new_field_is_added_and_one_that_is_gone_or_changed_is_told():
    wanted = {"id": "text", "new": "bigint", "at": "timestamptz", "size": "bigint"}
    present = {"id": "text", "old": "text", "at": "timestamp with time zone", "size": "text"}

    assert drift(wanted, present) == {"add": ["new"], "gone": ["old"], "changed": ["size"]}
