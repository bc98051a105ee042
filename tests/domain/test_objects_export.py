"""The way back from Airflow's API to an objects file: exact, with no secret in it, and comparable."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astro_cli.domain.objects import (
    Connection,
    Objects,
    Pool,
    Variable,
    api_bodies,
    parse_objects,
    raw_entries,
)
from astro_cli.domain.objects_export import Exported, Template, compare, export, from_api, same, same_text

SECRETS = ("password", "secret", "token", "api_key")
FILE = """\
airflow:
  connections:
    - conn_id: warehouse
      conn_type: postgres
      conn_host: ${DB_HOST}
      conn_login: müller
      conn_password: ${DB_PASSWORD}
      conn_port: ${DB_PORT}
      conn_description: the warehouse
      conn_extra:
        sslMode: require
        apiKey: ${TOKEN}
        privateKey: |
          line 1
          line 2
        nested: {listOf: [1, 2.5, true, null, "no", "0123", "1e3", "$${literal}"]}
    - conn_id: api
      conn_uri: http://user:${TOKEN}@api.example.com/https
    - conn_id: typed
      conn_type: http
      conn_password: typed-in-the-file
      conn_extra: '{"token": "${TOKEN}", "a": "yes"}'
  pools:
    - {pool_name: small, pool_slot: 4, pool_description: one slot a query}
    - {pool_name: waiting, pool_slot: -1, pool_include_deferred: true}
  variables:
    - {variable_name: greeting, variable_value: "grüß\\n  dich \\n"}
    - {variable_name: api_key, variable_value: "${TOKEN}"}
    - {variable_name: config, variable_value: {camelCase: 1, url: "https://${DB_HOST}/x"}}
    - {variable_name: compact, variable_value: '{"a":1,"b":"é"}'}
    - {variable_name: number, variable_value: "0.10"}
    - {variable_name: empty, variable_value: ""}
"""
ENVIRONMENT = {
    "DB_HOST": "db.example",
    "DB_PASSWORD": "s3cr3t-pässword",
    "DB_PORT": "5433",
    "TOKEN": "tok-12345",
}


def redacted(value: Any, key: str = "") -> Any:
    """As Airflow's API shows a value."""
    if isinstance(value, dict):
        return {each: redacted(item, each) for each, item in value.items()}
    if isinstance(value, list):
        return [redacted(item, key) for item in value]
    return (
        "***"
        if isinstance(value, str) and any(word in key.lower() for word in (*SECRETS, "apikey"))
        else value
    )


def airflow(objects: Objects) -> Objects:
    """What the API tells after `objects` were written: secrets masked, JSON written anew."""
    bodies = api_bodies(objects)
    for body in bodies["connections"]:
        body.setdefault("description", None)
        body["password"] = "***" if body["password"] else None
        body["extra"] = json.dumps(redacted(json.loads(body["extra"]))) if body["extra"] else body["extra"]
    for body in bodies["variables"]:
        body.setdefault("description", None)
        try:
            body["value"] = json.dumps(redacted(json.loads(body["value"]), body["key"]))
        except ValueError:
            body["value"] = redacted(body["value"], body["key"])
    for body in bodies["pools"]:
        body.setdefault("include_deferred", False)
    return from_api(bodies)


def template(text: str = FILE, environment: Mapping[str, str] = ENVIRONMENT) -> Template:
    return Template(parse_objects(text, environment, name="f"), raw_entries(text, environment, name="f"))


def again(exported: Exported, environment: Mapping[str, str] = ENVIRONMENT) -> Objects:
    return parse_objects(exported.text, environment, name="exported")


def without_flags(objects: Objects) -> Objects:
    """`include_deferred` false and not said are the same."""
    pools = tuple(Pool(p.name, p.slots, p.description, p.include_deferred or None) for p in objects.pools)
    return Objects(objects.connections, objects.variables, pools)


def test_with_the_projects_own_file_the_round_trip_is_exact_but_for_secrets_typed_into_it():
    file = template()
    exported = export(airflow(file.objects), file)
    assert exported.references == ("CONN_WAREHOUSE_EXTRA_PRIVATEKEY", "CONN_TYPED_PASSWORD")
    environment = {
        **ENVIRONMENT,
        "CONN_WAREHOUSE_EXTRA_PRIVATEKEY": "line 1\nline 2\n",
        "CONN_TYPED_PASSWORD": "typed-in-the-file",
    }
    assert again(exported, environment) == file.objects


def test_no_secret_is_in_an_export_and_references_are_kept():
    file = template()
    exported = export(airflow(file.objects), file)
    for secret in ("s3cr3t", "tok-12345", "typed-in-the-file", "line 1"):
        assert secret not in exported.text
    for kept in (
        "${DB_HOST}",
        "${DB_PORT}",
        "${DB_PASSWORD}",
        "http://user:${TOKEN}@api",
        "https://${DB_HOST}/x",
    ):
        assert kept in exported.text
    assert set(exported.kept) == {"DB_PASSWORD", "TOKEN"}


def test_an_export_of_an_export_is_the_same():
    first = export(airflow(template().objects), template())
    known = {**ENVIRONMENT, **dict.fromkeys(first.references, "x-1")}
    second = export(airflow(again(first, known)), template(first.text, known))
    assert second.text.split("airflow:")[1] == first.text.split("airflow:")[1]


def test_secrets_are_shown_on_request_as_far_as_they_are_known():
    file = template()
    exported = export(airflow(file.objects), file, show_secrets=True)
    assert exported.references == ()
    assert again(exported) == file.objects
    unknown = export(airflow(file.objects), Template(), show_secrets=True)
    assert unknown.references == (
        "CONN_WAREHOUSE_PASSWORD",
        "CONN_WAREHOUSE_EXTRA_APIKEY",
        "CONN_API_PASSWORD",
        "CONN_TYPED_PASSWORD",
        "CONN_TYPED_EXTRA_TOKEN",
        "VARIABLE_API_KEY",
    )


def test_what_was_changed_in_the_sandbox_wins_over_the_file():
    file = template()
    found = Objects(connections=(Connection("warehouse", "postgres", host="new.example", port=1),))
    (connection,) = again(export(found, file)).connections
    assert connection == Connection("warehouse", "postgres", host="new.example", port=1)


def test_a_uri_with_a_password_typed_into_it_is_not_kept():
    text = "airflow: {connections: [{conn_id: a, conn_uri: 'http://u:typed1@${HOST}'}]}"
    exported = export(airflow(template(text, {"HOST": "h"}).objects), template(text, {"HOST": "h"}))
    assert "typed1" not in exported.text
    assert exported.references == ("CONN_A_PASSWORD",)


def test_names_of_new_references_never_collide():
    found = Objects(
        connections=tuple(Connection(name, "http", password="***") for name in ("a-b", "a_b", "a.b"))
    )
    exported = export(found, Template())
    assert exported.references == ("CONN_A_B_PASSWORD", "CONN_A_B_PASSWORD_2", "CONN_A_B_PASSWORD_3")


def test_the_default_pool_is_left_out_unless_it_was_changed():
    assert (
        again(export(Objects(pools=(Pool("default_pool", 128, "Default pool", False),)), Template()))
        == Objects()
    )
    changed = Objects(pools=(Pool("default_pool", 5, "Default pool", False),))
    assert again(export(changed, Template())).pools[0].slots == 5


TEXT = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufeff")
    | st.sampled_from("\n\t ${}'\"#:-"),
    max_size=30,
)
NAME = st.from_regex(r"[a-z][a-z0-9_.-]{0,10}", fullmatch=True)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
DATA = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | FINITE | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(
    st.dictionaries(NAME, st.dictionaries(TEXT, DATA, min_size=1, max_size=4), max_size=2),
    st.dictionaries(NAME, TEXT | DATA.map(json.dumps), max_size=3),
    st.dictionaries(NAME, TEXT.map(str.strip), max_size=2),
)
def test_whatever_can_be_in_airflow_comes_back_exactly(
    extras: dict[str, Any], variables: dict[str, str], texts: dict[str, str]
):
    found = Objects(
        connections=tuple(
            Connection(name, "http", host=text or None, extra=json.dumps(extra, ensure_ascii=False))
            for (name, extra), text in zip(extras.items(), [*texts.values(), ""] * 2, strict=False)
        ),
        variables=tuple(Variable(name, value) for name, value in variables.items()),
        pools=tuple(Pool(name, 3, text) for name, text in texts.items() if name != "default_pool"),
    )
    back = again(export(found, Template(), show_secrets=True), {})
    assert [each.conn_id for each in back.connections] == [each.conn_id for each in found.connections]
    for ours, theirs in zip(back.connections, found.connections, strict=True):
        assert json.loads(ours.extra or "{}") == json.loads(theirs.extra or "{}")
        assert ours.host == theirs.host
    for one, other in zip(back.variables, found.variables, strict=True):
        assert one.value == other.value or json.loads(one.value) == json.loads(other.value)
    assert back.pools == found.pools


# comparing


def test_a_file_and_the_sandbox_it_was_written_to_are_the_same():
    file = template()
    found = compare(file.objects, airflow(file.objects))
    assert found.differences == ()
    assert "warehouse.password" in found.not_compared
    assert "api_key" in found.not_compared


def test_differences_are_named_without_values_of_connections_and_variables():
    wanted = Objects(
        (Connection("a", "http", host="h", password="p1"), Connection("gone", "http")),
        (Variable("v", "one"),),
        (Pool("p", 1, "x"),),
    )
    found = Objects(
        (Connection("a", "http", host="other", password=None), Connection("new", "http")),
        (Variable("v", "two"),),
        (Pool("p", 2, "x", False), Pool("default_pool", 128, "Default pool", False)),
    )
    told = [(each.name, each.what) for each in compare(wanted, found).differences]
    assert told == [
        ("gone", "only in the file"),
        ("new", "only in the sandbox"),
        ("a", "host, password"),
        ("v", "value"),
        ("p", "slots: 1 in the file, 2 in the sandbox"),
    ]


@pytest.mark.parametrize(
    ("found", "wanted", "alike"),
    [
        ("***", "anything", True),
        ("***", None, False),
        ("http://u:***@h", "http://u:p@h", True),
        ("http://u:***@h", "http://u:p@other", False),
        (1, True, False),
        ({"a": "***", "b": [1]}, {"a": "x", "b": [1]}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
    ],
)
def test_a_mask_stands_for_any_value(found: Any, wanted: Any, alike: bool):
    assert same(found, wanted) is alike


def test_json_is_compared_as_data_and_other_text_as_it_is():
    assert same_text('{"a": 1, "b": "\\u00e9"}', '{"a":1,"b":"é"}')
    assert same_text("0.1", "0.10")
    assert not same_text("a", "a ")
    assert not same_text("1", "a")
