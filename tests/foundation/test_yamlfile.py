"""Strict YAML reading: what is understood, and one sentence with file and line for what is not."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astro_cli.foundation import yamlfile
from astro_cli.foundation.errors import ProjectError
from astro_cli.foundation.yamlfile import load, parse

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefg", "bcdefgh", strict=True)
)
TOWER = "a: &a " + "[" * 40 + "]" * 40 + "\nb: " + "[" * 20 + "*a" + "]" * 20


def test_values_have_the_types_of_the_core_schema():
    text = (
        "{t: true, n: ~, e: , i: -12, o: 0o17, x: 0xff, f: 1.5, g: .5e3, s: x, q: '1', no: no, d: 2026-01-01}"
    )

    assert parse(text, name="f").plain() == {
        "t": True, "n": None, "e": None, "i": -12, "o": 15, "x": 255, "f": 1.5, "g": 500.0,
        "s": "x", "q": "1", "no": "no", "d": "2026-01-01",
    }  # fmt: skip


def test_every_value_knows_its_line_and_path():
    root = parse("a:\n  - b: 1\n    c:\n      d: x\n\n  - 2\n", name="f.yaml")
    first, second = root.entries()["a"].items()
    deep = first.entries()["c"].entries()["d"]

    assert (deep.line, deep.path) == (4, "a[0].c.d")
    assert (second.line, second.path) == (6, "a[1]")


@pytest.mark.parametrize("written", ["0123", "1.10", "no", "1e5", "true", "0x10", "22:30", "2026-01-01"])
def test_text_keeps_every_character(written):
    assert parse(f"a: {written}", name="f").entries()["a"].string() == written


@pytest.mark.parametrize("text", ["", "\n", "# only a comment\n", "---\n", "\ufeff"])
def test_an_empty_file_is_an_empty_mapping(text, tmp_path):
    path = tmp_path / "f.yaml"
    path.write_text(text, encoding="utf-8")

    assert load(path).mapping(optional=("a",)) == {}


def test_aliases_and_merge_keys_bring_their_values_and_own_keys_win():
    anchors = "base: &base {a: 1, b: 2}\nother: &other {b: 3, c: 4}\n"
    text = anchors + "x: {b: 9, <<: [*base, *other]}\ny: {<<: *base}\nz: *base\n"
    data = parse(text, name="f").plain()

    assert data["x"] == {"a": 1, "b": 9, "c": 4}
    assert data["y"] == data["z"] == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", 'f.yaml:3: key "a" is already on line 1'),
        ("a: [1\n", "f.yaml:2: not valid YAML"),
        ("a: b: c\n", "f.yaml:1: not valid YAML"),
        ("a:\n\t- b\n", "f.yaml:2: not valid YAML"),
        ("a: 1\n--- \nb: 1\n", "f.yaml:2: a second document"),
        ("a: *nobody\n", "f.yaml:1: alias *nobody has no anchor"),
        ("a: &a [*a]\n", "f.yaml:1: alias *a has no anchor"),
        ("a: 1\nb: !!python/object:os.system x\n", "f.yaml:2: tag tag:yaml.org,2002:python/object:os.system"),
        ("a: !Mine [1]\n", "f.yaml:1: tag !Mine is not supported"),
        ("? [a, b]\n: 1\n", "f.yaml:1: a key must be plain text"),
        ("a: {<<: 1}\n", "f.yaml:1: `<<` needs a mapping"),
        ("[" * 60, "f.yaml:1: nested deeper than 50 levels"),
        ("[" * 500_000, "f.yaml:1: nested deeper than 50 levels"),
        (TOWER, "f.yaml:2: nested deeper than 50 levels"),
        (LAUGHS, "more than 100000 values"),
        ("- 1\n" * 100_001, "more than 100000 values"),
        ("a: \x01\n", "f.yaml: not valid YAML: contains a control character"),
        ("a: \ud800", "f.yaml: not valid UTF-8"),
    ],
)
def test_what_is_not_understood_is_an_error_with_its_line(text, message):
    with pytest.raises(ProjectError) as caught:
        parse(text, name="f.yaml")

    assert message in caught.value.message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1\nb: \xff\n", "f.yaml:2: not valid UTF-8"),
        (b"a: 1\n\nb: \x00\n", "f.yaml:3: contains a NUL byte"),
        (b"#" * (yamlfile.MAX_BYTES + 1), "f.yaml is larger than 1024 KiB"),
    ],
)
def test_what_is_not_text_is_refused(tmp_path, content, message):
    path = tmp_path / "f.yaml"
    path.write_bytes(content)

    with pytest.raises(ProjectError) as caught:
        load(path, name="f.yaml")

    assert caught.value.message == message


def test_a_missing_file_says_so_with_the_callers_hint(tmp_path):
    with pytest.raises(ProjectError, match=r"config\.yaml does not exist") as caught:
        load(tmp_path / "x", name="config.yaml", hint="run `astro airflow init`")

    assert caught.value.hint == "run `astro airflow init`"


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(ProjectError, match="cannot read f: Is a directory"):
        load(tmp_path, name="f")


SCHEMA = {"required": ("id",), "optional": ("port", "name", "wait")}


def test_a_mapping_gives_its_values_and_drops_what_is_not_set():
    entries = parse("id: x\nport: 8080\nwait: false\nname:\n", name="f").mapping(**SCHEMA)

    assert entries["id"].string() == "x"
    assert entries["port"].integer(1, 65535) == 8080
    assert entries["wait"].boolean() is False
    assert "name" not in entries


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("id: x\nprot: 1\n", 'f:2: unknown key "prot"', "did you mean `port`?"),
        ("id: x\nzzzzz: 1\n", 'f:2: unknown key "zzzzz"', "known here: id, port, name, wait"),
        ("port: 1\n", 'f:1: missing key "id"', None),
        ("port: 1\nid:\n", "f:2: id needs a value", None),
        ("- id\n", "f:1: the file must be a mapping (`key: value` lines), but is a list", None),
        ("just text\n", "f:1: the file must be a mapping (`key: value` lines), but is text", None),
    ],
)
def test_a_mapping_is_strict_about_its_keys(text, message, hint):
    with pytest.raises(ProjectError) as caught:
        parse(text, name="f").mapping(**SCHEMA)

    assert (caught.value.message, caught.value.hint) == (message, hint)


def test_an_unknown_key_deep_inside_says_where():
    item = parse("connections:\n  - conn_hst: db\n", name="f").entries()["connections"].items()[0]

    with pytest.raises(ProjectError, match=r'^f:2: unknown key "conn_hst" in connections\[0\]$') as caught:
        item.mapping(optional=("conn_id", "conn_host"))
    assert caught.value.hint == "did you mean `conn_host`?"


@pytest.mark.parametrize(
    ("written", "read", "message"),
    [
        ("s3cret", lambda node: node.integer(), "f:1: a must be a whole number, but is text"),
        ("true", lambda node: node.integer(), "f:1: a must be a whole number, but is true or false"),
        ("1.5", lambda node: node.integer(), "f:1: a must be a whole number, but is a number"),
        ("0", lambda node: node.integer(1, 65535), "f:1: a must be at least 1, not 0"),
        ("65536", lambda node: node.integer(1, 65535), "f:1: a must be at most 65535, not 65536"),
        ("9", lambda node: node.integer(maximum=5), "f:1: a must be at most 5, not 9"),
        ("yes", lambda node: node.boolean(), "f:1: a must be true or false, but is text"),
        ("[x]", lambda node: node.string(), "f:1: a must be text, but is a list"),
        (
            "{x: 1}",
            lambda node: node.items(),
            "f:1: a must be a list (lines that start with `- `), but is a mapping",
        ),
        (
            "dokcer",
            lambda node: node.choice("docker", "standalone"),
            "f:1: a must be one of docker, standalone",
        ),
    ],
)
def test_a_value_of_the_wrong_type_is_named_but_not_shown(written, read, message):
    with pytest.raises(ProjectError) as caught:
        read(parse(f"a: {written}", name="f").entries()["a"])

    assert caught.value.message == message


def walk(node):
    """Use everything a node offers; only ProjectError may come out."""
    node.plain()
    for use in (node.string, node.integer, node.boolean, node.items, node.entries, node.mapping):
        try:
            use()
        except ProjectError as error:
            assert error.message.startswith("f:")


@given(st.text() | st.text(alphabet="ab:&*<-?[]{}!|>'\"#, \n\t0.~%@`\\"))
def test_any_text_is_read_or_refused(text):
    try:
        node = parse(text, name="f")
    except ProjectError as error:
        assert error.message.startswith("f:")
    else:
        walk(node)


@given(content=st.binary())
def test_any_bytes_are_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    try:
        walk(load(path, name="f"))
    except ProjectError as error:
        assert error.message.startswith("f:")


def test_importing_the_module_does_not_import_the_yaml_library():
    code = "import sys, astro_cli.foundation.yamlfile; sys.exit('yaml' in sys.modules or 'difflib' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
