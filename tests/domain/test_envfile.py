"""The rules of `.env` files, one row a rule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astro_cli.domain.envfile import load_env, parse_env
from astro_cli.foundation.errors import ProjectError

HOST = {"USER": "ada", "EMPTY": ""}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        ("# only\n\n   # comments\n", {}),
        ("A=1\nB=two\n", {"A": "1", "B": "two"}),
        ("  export A = 1  \r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("A=\nB=''\nC=\"\"", {"A": "", "B": "", "C": ""}),
        ("A=1 # comment\nB=1#2\nC='1 # 2'", {"A": "1", "B": "1#2", "C": "1 # 2"}),
        ('A="two\nlines"\nB=3', {"A": "two\nlines", "B": "3"}),
        (r'A="tab\tline\n\"q\""', {"A": 'tab\tline\n"q"'}),
        (r"A='tab\t \'q\''", {"A": r"tab\t 'q'"}),
        ("A=1\nB=2\nA=3", {"A": "3", "B": "2"}),
        ("A=ü\nB=a=b", {"A": "ü", "B": "a=b"}),
        ("\ufeffA=1", {"A": "1"}),
        ('A=1\nB=${A}2\nC="${A}"', {"A": "1", "B": "12", "C": "1"}),
        ("A=${USER}/${EMPTY}x", {"A": "ada/x"}),
        ("USER=bob\nA=${USER}", {"USER": "bob", "A": "bob"}),
        ("A=${NOPE:-x y}\nB=${NOPE:-}", {"A": "x y", "B": ""}),
        ("A='${NOPE}'\nB=pa$$w0rd$NOPE", {"A": "${NOPE}", "B": "pa$$w0rd$NOPE"}),
        ("USER\nNOPE\nexport EMPTY\n", {"USER": "ada", "EMPTY": ""}),
        ("a.b-c=1", {"a.b-c": "1"}),
    ],
)
def test_a_file_gives_its_values_in_order(text, values):
    result = parse_env(text, HOST, name=".env")

    assert list(result.items()) == list(values.items())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A=1\njust some words\n", ".env:2: not a valid line"),
        ("A=1\n\n\n=value\n", ".env:4: not a valid line"),
        ("A='open\nB=2\n", ".env:1: not a valid line"),
        ('A="closed" and more\n', ".env:1: not a valid line"),
        ("1A=x\n", ".env:1: not a name for an environment variable"),
        ("'a b'=x\n", ".env:1: not a name for an environment variable"),
        ("A=1\nB=s3cret${NOPE}\n", ".env:2: ${NOPE} is not set"),
        ("A=${B}\nB=1\n", ".env:1: ${B} is not set"),
        ("A=${}\n", ".env:1: ${} is not set"),
    ],
)
def test_a_line_that_is_not_understood_is_an_error_with_its_number(text, message):
    with pytest.raises(ProjectError) as caught:
        parse_env(text, {}, name=".env")

    assert caught.value.message == message
    assert caught.value.hint
    assert "s3cret" not in str(caught.value.args) + caught.value.hint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"A=1\nB=\xff\n", ".env:2: not valid UTF-8"),
        (b"A=1\nB=\x00\n", ".env:2: contains a NUL byte"),
        (b"A" * (1024 * 1024 + 1), ".env is larger than 1024 KiB"),
    ],
)
def test_what_is_not_text_is_refused(tmp_path, content, message):
    path = tmp_path / ".env"
    path.write_bytes(content)

    with pytest.raises(ProjectError) as caught:
        load_env(path, {}, name=".env")

    assert caught.value.message == message


def test_a_missing_file_is_an_error_with_a_way_out(tmp_path):
    with pytest.raises(ProjectError, match=r"prod\.env does not exist") as caught:
        load_env(tmp_path / "prod.env", {}, name="prod.env")

    assert caught.value.hint == "create it, or name another file with `--env FILE`"


@given(st.text() | st.text(alphabet="AB=\"'\\$ {}:-#\r\n\x85export"))
def test_any_text_is_read_or_refused(text):
    try:
        values = parse_env(text, HOST, name="f")
    except ProjectError as error:
        assert error.message.startswith("f:")
    else:
        assert all("\0" not in value and "=" not in key for key, value in values.items())


@given(content=st.binary())
def test_any_bytes_are_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.env"
    path.write_bytes(content)
    try:
        load_env(path, HOST, name="f")
    except ProjectError as error:
        assert error.message.startswith("f:")


@given(st.text(alphabet=st.characters(exclude_characters="'\\\0", exclude_categories=["Cs"])))
def test_a_single_quoted_value_is_taken_as_it_is(value):
    assert parse_env(f"A='{value}'\nB=1", {}, name="f") == {"A": value, "B": "1"}
