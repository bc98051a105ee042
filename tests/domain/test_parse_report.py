"""The runner's lines become a report: what is an error, what a warning, and how it reads."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree

import pytest

from astro_cli.domain.parse_report import ParseReport, as_data, as_junit, as_text, read_report


def file(path: str, *dag_ids: str, **more: Any) -> str:
    dags = [{"dag_id": dag_id, "tasks": 2, "file": path} for dag_id in dag_ids]
    return json.dumps({"type": "file", "path": path, "dags": dags, "seconds": 0.1, "errors": [], **more})


def report(*lines: str) -> ParseReport:
    return read_report([*lines, '{"type": "end", "files": 1, "seconds": 0.5}'])


KEY_ERROR = {
    "kind": "import",
    "error": "KeyError",
    "message": "'price'",
    "file": "include/orders.py",
    "line": 2,
    "column": None,
    "source": [{"line": 1, "text": "def read(row):"}, {"line": 2, "text": '    return row["price"]'}],
    "frames": [
        {"file": "include/orders.py", "line": 2, "function": "read"},
        {"file": "dags/shop.py", "line": 7, "function": "<module>"},
    ],
}


def test_an_error_is_shown_at_the_users_own_line_with_its_source_and_its_callers():
    lines = list(as_text(report(file("dags/shop.py", errors=[KEY_ERROR]))))
    assert lines[0] == "error   0.10 s  dags/shop.py"
    assert lines[2:] == [
        "error: include/orders.py:2: KeyError: 'price'",
        "    1 | def read(row):",
        '  > 2 |     return row["price"]',
        "    called from dags/shop.py:7",
        "",
        "1 file, 0 DAGs, 1 error, 0 warnings in 0.50 s",
    ]


def test_a_syntax_error_points_at_its_column():
    error = {
        "kind": "import", "error": "SyntaxError", "message": "invalid syntax", "file": "dags/a.py", "line": 1,
        "column": 7, "source": [{"line": 1, "text": "def x(:"}], "frames": [],
    }  # fmt: skip
    lines = list(as_text(report(file("dags/a.py", errors=[error]))))
    assert lines[3:5] == ["  > 1 | def x(:", "      |       ^"]


def test_good_files_are_a_success():
    good = report(file("dags/b.py", "b"), file("dags/a.py", "a2", "a1"))
    assert good.ok
    assert [parsed.path for parsed in good.files] == ["dags/a.py", "dags/b.py"]
    assert good.dag_ids == ("a1", "a2", "b")


def test_no_dag_at_all_is_a_failure():
    assert not report(file("dags/helper.py")).ok
    assert not report().ok


def test_two_files_with_one_dag_id_are_both_in_error():
    both = report(file("dags/a.py", "shop"), file("dags/b.py", "shop"))
    assert [problem.message for parsed in both.files for problem in parsed.errors] == [
        "the DAG id `shop` is also used in dags/b.py",
        "the DAG id `shop` is also used in dags/a.py",
    ]


@pytest.mark.parametrize(
    ("more", "kind", "words"),
    [
        ({"seconds": 1.4}, "slow", "takes 1.4 s"),
        ({"skipped": True}, "safe-mode", "Airflow skips this file"),
        ({"missing": [{"kind": "variable", "key": "rate"}]}, "missing-variable", "the variable `rate`"),
        ({"missing": [{"kind": "connection", "key": "db"}]}, "missing-connection", "the connection `db`"),
        ({"warnings": ["dags/a.py:3: DeprecationWarning: old"]}, "python", "old"),
    ],
)
def test_what_is_worth_knowing_is_a_warning_and_no_error(more: dict[str, Any], kind: str, words: str):
    warned = report(file("dags/a.py", "a", **more))
    assert warned.ok
    (warning,) = warned.files[0].warnings
    assert warning.kind == kind
    assert words in warning.message


def test_a_file_that_ended_the_process_is_an_error():
    line = {"type": "file", "path": "dags/a.py", "errors": [{"kind": "died", "message": "ended by SIGSEGV"}]}
    dead = report(json.dumps(line))
    assert not dead.ok
    assert "error: dags/a.py: ended by SIGSEGV" in list(as_text(dead))


def test_a_report_without_its_end_is_refused():
    with pytest.raises(ValueError, match="incomplete"):
        read_report([file("dags/a.py", "a")])


def test_junit_has_a_case_for_each_file():
    xml = as_junit(report(file("dags/a.py", "a", seconds=2.0), file("dags/b.py", errors=[KEY_ERROR])))
    suite = ElementTree.fromstring(xml.split("\n", 1)[1])
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert [case.get("name") for case in suite] == ["dags/a.py", "dags/b.py"]
    failure = suite[1].find("failure")
    assert failure is not None
    assert failure.get("message") == "KeyError: 'price'"
    assert '> 2 |     return row["price"]' in (failure.text or "")


def test_junit_tells_that_there_is_no_dag():
    suite = ElementTree.fromstring(as_junit(report()).split("\n", 1)[1])
    assert (suite.get("tests"), suite.get("failures")) == ("1", "1")


def test_junit_survives_control_characters_in_a_message():
    error = {"kind": "import", "error": "ValueError", "message": "bad \x00 \x1b[31m byte"}
    ElementTree.fromstring(as_junit(report(file("dags/a.py", errors=[error]))).split("\n", 1)[1])


def test_the_json_form_says_whether_all_is_well():
    assert as_data(report(file("dags/a.py", "a")))["ok"] is True
    assert as_data(report(file("dags/b.py", errors=[KEY_ERROR])))["ok"] is False
