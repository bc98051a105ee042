"""How the API's structured task logs read as lines."""

from __future__ import annotations

from typing import Any

from astro_cli.domain.dagrun import log_lines

AIRFLOW = "/opt/venv/lib/python3.13/site-packages/airflow/sdk/task_runner.py"


def error(kind: str, value: str, *frames: str, **more: Any) -> dict[str, Any]:
    found = [{"filename": name, "lineno": number, "name": "f"} for number, name in enumerate(frames, 1)]
    return {"exc_type": kind, "exc_value": value, "frames": found, "is_cause": False, "exc_notes": [], **more}


MESSAGES: list[Any] = [
    {"event": "::group::Log message source details"},
    {"event": "/opt/airflow/logs/attempt=1.log"},
    {"event": "::endgroup::"},
    {"event": "::group::Pre Execute", "level": "info"},
    {"event": "Filling up the DagBag", "level": "info", "timestamp": "T0"},
    {"event": "::endgroup::", "level": "info"},
    {"event": "one\ntwo", "level": "info", "timestamp": "T1"},
    {
        "event": "Task failed",
        "level": "error",
        "timestamp": "T2",
        "error_detail": [error("ValueError", "bad\nvalue", AIRFLOW, "/opt/airflow/dags/a.py")],
    },
]


def texts(messages: list[Any], **options: bool) -> list[str]:
    return [line.text for line in log_lines(messages, **options)]


def test_a_log_has_everything_but_the_note_where_it_lies():
    assert texts(MESSAGES) == [
        "Filling up the DagBag",
        "one",
        "two",
        "ERROR - Task failed",
        "Traceback (most recent call last):",
        f'  File "{AIRFLOW}", line 1, in f',
        '  File "/opt/airflow/dags/a.py", line 2, in f',
        "ValueError: bad",
        "value",
    ]


def test_a_brief_log_has_only_what_the_users_code_led_to():
    assert texts(MESSAGES, brief=True) == [
        "one",
        "two",
        "ERROR - Task failed",
        "Traceback (most recent call last):",
        "  … 1 frame inside Airflow",
        '  File "/opt/airflow/dags/a.py", line 2, in f',
        "ValueError: bad",
        "value",
    ]


def test_frames_stay_when_all_of_them_are_inside_airflow():
    message = {"event": "x", "error_detail": [error("E", "", AIRFLOW)]}
    assert texts([message], brief=True)[-2:] == [f'  File "{AIRFLOW}", line 1, in f', "E"]


def test_a_cause_comes_before_what_it_caused():
    chain = [error("Outer", "o", "b.py"), error("Inner", "i", "a.py", is_cause=True)]
    lines = texts([{"event": "x", "error_detail": chain}])
    assert lines.index("Inner: i") < lines.index("Outer: o")
    assert any("was the direct cause of" in line for line in lines)


def test_plain_texts_and_empty_lines_are_lines_too():
    assert texts(["plain", {"event": ""}]) == ["plain", ""]
