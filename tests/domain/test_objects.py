"""`airflow_settings.yaml`: what it may say, what comes out, and one sentence with the line for what is wrong."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astro_cli.domain.objects import (
    Connection,
    Objects,
    Pool,
    Variable,
    api_bodies,
    connection_body,
    load_objects,
    parse_objects,
    pool_body,
    variable_body,
)
from astro_cli.foundation.errors import ProjectError

ASTRONOMER_SCAFFOLD = """\
airflow:
  connections:
    - conn_id:
      conn_type:
      conn_host:
      conn_schema:
      conn_login:
      conn_password:
      conn_port:
      conn_uri:
      conn_extra:
        example_extra_field: example-value
  pools:
    - pool_name:
      pool_slot:
      pool_description:
  variables:
    - variable_name: ""
      variable_value:
"""

FULL = """\
airflow:
  connections:
    - conn_id: warehouse
      conn_type: postgres
      conn_host: db.example.com
      conn_schema: sales
      conn_login: 0123
      conn_password: ${PASSWORD}
      conn_port: 5432
      conn_extra:
        sslMode: require
        keepalives: 3
        privateKey: |
          line 1
          líne 2
        nested: {List: [true, null, "${PASSWORD}"]}
  pools:
    - pool_name: warehouse
      pool_slot: 4
      pool_description: one slot a query
    - {pool_name: endless, pool_slot: -1}
  variables:
    - {variable_name: greeting, variable_value: no}
    - {variable_name: empty, variable_value: ""}
    - {variable_name: price, variable_value: '$${PRICE} and $5'}
    - variable_name: customers
      variable_value: [{Name: "Zoë ${PASSWORD}"}]
"""


def read(text, **environment):
    return parse_objects(text, environment, name="f.yaml")


def connection(lines, **environment):
    """The one connection of a file with these flow-style entries."""
    return read(f"airflow: {{connections: [{{conn_id: c, {lines}}}]}}", **environment).connections[0]


def test_a_full_file_comes_out_exactly():
    objects = read(FULL, PASSWORD='p"w\n')
    first = objects.connections[0]

    assert first == Connection(
        "warehouse", "postgres", "db.example.com", "sales", "0123", 'p"w\n', 5432, extra=first.extra
    )
    assert json.loads(first.extra) == {
        "sslMode": "require",
        "keepalives": 3,
        "privateKey": "line 1\nlíne 2\n",
        "nested": {"List": [True, None, 'p"w\n']},
    }
    assert objects.pools == (Pool("warehouse", 4, "one slot a query"), Pool("endless", -1))
    assert objects.variables == (
        Variable("greeting", "no"),
        Variable("empty", ""),
        Variable("price", "${PRICE} and $5"),
        Variable("customers", '[{"Name": "Zoë p\\"w\\n"}]'),
    )


@pytest.mark.parametrize(
    "text", ["", "airflow:\n", "airflow: {connections: [], pools: }", ASTRONOMER_SCAFFOLD]
)
def test_an_empty_file_or_a_fresh_scaffold_holds_nothing(text):
    assert read(text) == Objects()


def test_secrets_stay_out_of_the_repr():
    shown = repr(read(FULL, PASSWORD="s3cret"))

    assert "s3cret" not in shown


@pytest.mark.parametrize("extra", ['\'{"Key": "a\\nb", "n": 1}\'', '{Key: "a\\nb", n: 1}'])
def test_extra_is_json_text_or_a_mapping(extra):
    assert json.loads(connection(f"conn_type: http, conn_extra: {extra}").extra) == {"Key": "a\nb", "n": 1}


def test_a_secret_with_quotes_cannot_break_out_of_json_text():
    extra = connection('conn_type: http, conn_extra: \'{"token": "${T}"}\'', T='", "admin": "1').extra

    assert json.loads(extra) == {"token": '", "admin": "1'}


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("postgres://u:p@h:5432/db", Connection("c", "postgres", "h", "db", "u", "p", 5432)),
        ("postgresql://H", Connection("c", "postgres", "h")),
        ("google-cloud-platform://", Connection("c", "google_cloud_platform")),
        (
            "http://https://api.example.com:8443",
            Connection("c", "http", "https://api.example.com", port=8443),
        ),
        ("http://u%40x:p%2Fw%3A%23@h/a%2Fb", Connection("c", "http", "h", "a/b", "u@x", "p/w:#")),
        ("mysql://%2Fvar%2FRun%2Fdb.sock/x", Connection("c", "mysql", "/var/Run/db.sock", "x")),
        ("x://h/?a=1&b=t%20u&c=", Connection("c", "x", "h", extra='{"a": 1, "b": "t u", "c": ""}')),
        ('x://h?__extra__=%7B"k"%3A+%5B1%5D%7D', Connection("c", "x", "h", extra='{"k": [1]}')),
        (
            "x://h/s?endpoint=http://y:1/z",
            Connection("c", "x", "h", "s", extra='{"endpoint": "http://y:1/z"}'),
        ),
    ],
)
def test_a_uri_is_read_as_airflow_reads_it(uri, expected):
    assert connection(f"conn_uri: {json.dumps(uri)}") == expected


def test_a_whole_uri_may_come_from_the_environment():
    assert connection("conn_uri: '${DB}'", DB="mysql://h:1") == Connection("c", "mysql", "h", port=1)


def test_a_port_may_come_from_the_environment():
    assert connection("conn_type: x, conn_port: '${P}'", P="99").port == 99


def block(kind, *entries):
    return f"airflow:\n  {kind}:\n" + "".join(f"  - {entry}\n" for entry in entries)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("airfow: {}", 'f.yaml:1: unknown key "airfow"', "did you mean `airflow`?"),
        ("airflow: {pool: []}", 'f.yaml:1: unknown key "pool" in airflow', "did you mean `pools`?"),
        (
            block("connections", "conn_id: a\n    conn_hst: s3cret"),
            'f.yaml:4: unknown key "conn_hst" in airflow.connections[0]',
            "did you mean `conn_host`?",
        ),
        (block("connections", "text"), "f.yaml:3: airflow.connections[0] must be a mapping", None),
        ("airflow: {connections: {}}", "f.yaml:1: airflow.connections must be a list", None),
        (block("connections", "{conn_type: x}"), "f.yaml:3: airflow.connections[0] has no conn_id", None),
        (block("connections", "{conn_id: x}"), "f.yaml:3: airflow.connections[0] has no conn_type", None),
        (
            block("connections", "{conn_id: x, conn_type: y}", "{conn_id: x, conn_type: z}"),
            'f.yaml:4: conn_id "x" is already on line 3',
            None,
        ),
        (
            block("connections", "{conn_id: a b, conn_type: x}"),
            "conn_id is not an id Airflow accepts",
            "up to 200",
        ),
        (
            block("connections", f"{{conn_id: {'x' * 201}, conn_type: x}}"),
            "is not an id Airflow accepts",
            None,
        ),
        (
            block("connections", "{conn_id: a, conn_type: x, conn_port: 0}"),
            "must be a port, 1 to 65535",
            None,
        ),
        (block("connections", "{conn_id: a, conn_type: x, conn_port: 65536}"), "must be a port", None),
        (block("connections", "{conn_id: a, conn_type: x, conn_port: s3cret}"), "must be a port", None),
        (block("connections", "{conn_id: a, conn_type: x, conn_port: 1.5}"), "must be a port", None),
        (
            block("connections", "{conn_id: a, conn_type: x, conn_host: [s3cret]}"),
            "conn_host must be text",
            None,
        ),
        (
            block("connections", "{conn_id: a, conn_type: x, conn_extra: [1]}"),
            "must be a mapping or a JSON",
            None,
        ),
        (
            block("connections", "{conn_id: a, conn_type: x, conn_extra: '[1]'}"),
            "must be a mapping or a JSON",
            None,
        ),
        (
            block("connections", "{conn_id: a, conn_type: x, conn_extra: '{s3cret'}"),
            "is not valid JSON",
            "${TOKEN}",
        ),
        (block("connections", "{conn_id: a, conn_type: x, conn_extra: {n: .nan}}"), "JSON cannot hold", None),
        (
            block("connections", f"{{conn_id: a, conn_type: x, conn_extra: '{'[' * 90000}'}}"),
            "conn_extra is not valid JSON",
            None,
        ),
        (
            block(
                "connections",
                f"{{conn_id: a, conn_type: x, conn_extra: '{{\"k\": {'[' * 2000 + ']' * 2000}}}'}}",
            ),
            "conn_extra",
            None,
        ),
        (
            block("connections", "conn_id: a\n    conn_uri: x://h\n    conn_host: h"),
            "f.yaml:5: airflow.connections[0].conn_host and conn_uri are both set",
            "keep the URI or the parts, not both",
        ),
        (
            block("connections", "{conn_id: a, conn_uri: s3cret}"),
            "conn_uri is not a connection URI",
            "type://",
        ),
        (block("connections", "{conn_id: a, conn_uri: 'x://u:s3cret'}"), "is not a connection URI", None),
        (block("connections", "{conn_id: a, conn_uri: 'x://[s3cret'}"), "is not a connection URI", None),
        (block("connections", "{conn_id: a, conn_uri: 'x://h:99999'}"), "is not a connection URI", None),
        (
            block("connections", "{conn_id: a, conn_uri: 'x://h?__extra__=[1]'}"),
            "must be a JSON object",
            None,
        ),
        (block("pools", "{pool_slot: 1}"), "f.yaml:3: airflow.pools[0] has no pool_name", None),
        (block("pools", "{pool_name: p}"), "f.yaml:3: airflow.pools[0] has no pool_slot", None),
        (block("pools", "{pool_name: p, pool_slot: -2}"), "must be a whole number, or -1", None),
        (block("pools", "{pool_name: p, pool_slot: many}"), "must be a whole number, or -1", None),
        (block("pools", f"{{pool_name: {'p' * 257}, pool_slot: 1}}"), "has over 256 characters", None),
        (
            block("pools", "{pool_name: p, pool_slot: 1}", "{pool_name: p, pool_slot: 2}"),
            "already on line 3",
            None,
        ),
        (
            block("variables", "{variable_value: s3cret}"),
            "f.yaml:3: airflow.variables[0] has no variable_name",
            None,
        ),
        (
            block("variables", "variable_name: v\n    variable_value:"),
            "f.yaml:3: airflow.variables[0] has no",
            '""',
        ),
        (
            block("variables", f"{{variable_name: {'v' * 251}, variable_value: 1}}"),
            "has over 250 characters",
            None,
        ),
        (
            block("variables", "variable_name: v\n    variable_value: s3cret${NOPE}"),
            "f.yaml:4: airflow.variables[0].variable_value: ${NOPE} is not set",
            "add NOPE=… to .env",
        ),
        (block("variables", "{variable_name: v, variable_value: ['${NOPE}']}"), "${NOPE} is not set", None),
        (block("variables", "{variable_name: v, variable_value: '${not-one}'}"), "is no reference", "$${"),
        (block("variables", "{variable_name: v, variable_value: '${OPEN'}"), "is no reference", None),
        (block("variables", "{variable_name: v, variable_value: '${}'}"), "is no reference", None),
    ],
)
def test_what_is_wrong_is_said_with_its_line_and_without_values(text, message, hint):
    with pytest.raises(ProjectError) as caught:
        read(text)

    error = caught.value
    assert error.message.startswith("f.yaml:")
    assert message in error.message
    assert (hint or "") in (error.hint or "")
    cause = f"{error.__cause__} {'' if error.__suppress_context__ else error.__context__}"
    assert "s3cret" not in f"{error.message} {error.hint} {cause}"


def test_a_missing_file_is_an_error_with_a_way_out(tmp_path):
    with pytest.raises(ProjectError, match=r"airflow_settings\.yaml does not exist") as caught:
        load_objects(tmp_path / "x", {}, name="airflow_settings.yaml")

    assert "--settings-file" in caught.value.hint


def test_the_bodies_have_the_fields_of_airflows_rest_api():
    whole = Connection("c", "http", "h", "s", "l", "p", 1, "{}")

    assert connection_body(whole) == {
        "connection_id": "c", "conn_type": "http", "host": "h", "schema": "s", "login": "l", "password": "p",
        "port": 1, "extra": "{}",
    }  # fmt: skip
    assert variable_body(Variable("k", "v")) == {"key": "k", "value": "v"}
    assert pool_body(Pool("p", -1)) == {"name": "p", "slots": -1, "description": ""}


def test_the_bodies_come_by_collection():
    objects = read(FULL, PASSWORD="x")

    assert {name: len(bodies) for name, bodies in api_bodies(objects).items()} == {
        "pools": 2,
        "variables": 4,
        "connections": 1,
    }
    assert api_bodies(Objects()) == {"pools": [], "variables": [], "connections": []}


KEYS = st.sampled_from(["conn_id", "conn_type", "conn_port", "conn_extra", "conn_uri", "conn_host", "pool_name",
                        "pool_slot", "variable_name", "variable_value"])  # fmt: skip
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(
    ["${A}", "$${A}", "x://h", "{}", "[]", "x://https://h", "://", "?", "@"]
)  # fmt: skip
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)
ENTRIES = st.lists(st.dictionaries(KEYS, VALUES) | VALUES, max_size=3)


@given(st.dictionaries(st.sampled_from(["connections", "pools", "variables"]), ENTRIES))
def test_any_data_is_read_or_refused(data):
    try:
        objects = read(json.dumps({"airflow": data}), A="1")
    except ProjectError as error:
        assert error.message.startswith("f.yaml:")
    else:
        assert all(json.loads(item.extra or "{}") is not None for item in objects.connections)


@given(st.text())
def test_any_text_from_the_environment_arrives_unchanged(value):
    assert connection("conn_type: x, conn_password: '${P}'", P=value).password == (value or None)


@given(
    st.text(),
    st.lists(st.sampled_from([":", "/", "@", "?", "#", "[", "]", "%", "://", "a", "1"])).map("".join),
)
def test_any_uri_is_read_or_refused(text, marks):
    for uri in (text, f"x://{text}", f"x://{marks}", f"x://{marks}{text}"):
        try:
            connection("conn_uri: '${U}'", U=uri)
        except ProjectError as error:
            assert error.message.startswith("f.yaml:")
