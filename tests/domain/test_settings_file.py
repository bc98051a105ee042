"""`config set` and `unset` change one setting, and not a character besides."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astro_cli.domain.settings_file import change_file, with_setting, without_setting
from astro_cli.foundation import yamlfile
from astro_cli.foundation.errors import ProjectError

FILE = """\
# who we are
project:
  id: abcdef0123   # do not change
  name: shop

sandbox:
    # the old one was taken
    port: 8080   # mine
deployments: {}
"""


def put(text, value=99, key="sandbox.port"):
    return with_setting(text, key, value, name="f")


def take(text, key="sandbox.port"):
    return without_setting(text, key, name="f")


def test_a_value_is_replaced_where_it_stands():
    assert put(FILE) == FILE.replace("8080", "99")


def test_a_new_one_joins_its_section_as_that_is_indented():
    after = put(FILE, "docker", "sandbox.engine")
    assert after == FILE.replace("# mine\n", "# mine\n    engine: docker\n")


def test_a_new_section_goes_to_the_end():
    assert put(FILE, "debian:13", "image.base") == f"{FILE}image:\n  base: debian:13\n"


def test_a_section_goes_with_its_last_setting_unless_there_is_a_comment_in_it():
    assert take("a: 1\nsandbox:\n  port: 1\nb: 2\n") == "a: 1\nb: 2\n"
    assert "# the old one was taken" in take(FILE)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "sandbox:\n  port: 99\n"),
        ("# nothing yet", "# nothing yet\nsandbox:\n  port: 99\n"),
        ("sandbox:\nx: 1", "sandbox:\n  port: 99\nx: 1"),
        ("sandbox:\n  port:\n", "sandbox:\n  port: 99\n"),
        ("sandbox: {}\n", "sandbox: {port: 99}\n"),
        ("sandbox: {engine: docker} # why\n", "sandbox: {engine: docker, port: 99} # why\n"),
        ("sandbox:\r\n  port: 1\r\n", "sandbox:\r\n  port: 99\r\n"),
    ],
)
def test_files_are_written_in_many_ways(before: str, after: str):
    assert put(before) == after


@pytest.mark.parametrize(
    "text", ["{project: {id: a}}", "a: &x {port: 1}\nsandbox:\n  <<: *x\n", "sandbox: [1]\n", "sandbox: 7\n"]
)
def test_what_cannot_be_spliced_is_refused(text: str):
    with pytest.raises(ProjectError, match="not written as a program can change it"):
        put(text)


def test_the_users_file_is_private_and_a_link_stays_one(tmp_path):
    real, link = tmp_path / "real.yaml", tmp_path / "config.yaml"
    real.write_text("")
    link.symlink_to(real)
    change_file(link, put, private=True)
    assert link.is_symlink()
    assert real.read_text() == "sandbox:\n  port: 99\n"
    assert real.stat().st_mode & 0o777 == 0o600


TEXT = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), min_size=1)


@given(TEXT | st.integers(0, 99999))
def test_any_value_reads_back(value):
    after = put(FILE, value)
    node = yamlfile.parse(after, name="f").entries()["sandbox"].entries()["port"]
    assert (node.value if isinstance(value, int) else node.string()) == value
    assert after.replace("port: ", "").startswith(FILE[: FILE.index("port: ")])


LINES = st.sampled_from(
    [
        "a: 1\n",
        "sandbox:\n",
        "  port: 1\n",
        "    port: 2",
        "# x\n",
        "sandbox: {port: 1}",
        "  engine: |\n",
        "\n",
        "  - 1\n",
        "'sandbox':\n",
        "---\n",
        "&a ",
        "*a",
        "\t",
        "{",
        "}",
        "? ",
    ]
)


@settings(max_examples=300)
@given(st.lists(LINES, max_size=8).map("".join) | st.text())
def test_any_text_is_changed_in_that_one_setting_or_refused(text):
    for change in (put, take):
        try:
            before = yamlfile.parse(text, name="f").plain() or {}
            after = yamlfile.parse(change(text), name="f").plain() or {}
        except ProjectError:
            continue
        section = after.get("sandbox") or {}
        assert section.get("port") == (99 if change is put else None)
        others = [{key: value for key, value in data.items() if key != "sandbox"} for data in (before, after)]
        assert others[0] == others[1]
