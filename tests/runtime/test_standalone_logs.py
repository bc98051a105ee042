from __future__ import annotations

from pathlib import Path

from astro_cli.runtime.engine import LogQuery
from astro_cli.runtime.standalone_logs import read

FIRST = "2026-11-22T18:00:00.000001Z"
SECOND = "2026-11-22T18:00:01.000000Z"
THIRD = "2026-11-22T18:00:02.000000Z"


def texts(log: Path, query: LogQuery, running: bool = False) -> list[str]:
    return [f"{line.service}: {line.text}" for line in read(log, query, lambda: running)]


def test_lines_of_renamed_files_come_first(tmp_path: Path):
    log = tmp_path / "log"
    (tmp_path / "log.2").write_text(f"{FIRST} astro | one\n")
    (tmp_path / "log.1").write_text(f"{SECOND} astro | two\n")
    log.write_text(f"{THIRD} scheduler | three | four\n")
    assert texts(log, LogQuery()) == ["astro: one", "astro: two", "scheduler: three | four"]


def test_tail_counts_for_each_service(tmp_path: Path):
    log = tmp_path / "log"
    log.write_text(
        f"{FIRST} scheduler | a\n{FIRST} postgres | b\n{SECOND} scheduler | c\n{THIRD} scheduler | d\n"
    )
    assert texts(log, LogQuery(tail=1)) == ["postgres: b", "scheduler: d"]
    assert texts(log, LogQuery(tail=0)) == []


def test_only_lines_since_a_moment_and_of_a_service(tmp_path: Path):
    log = tmp_path / "log"
    log.write_text(f"{FIRST} scheduler | a\n{SECOND} scheduler | b\n{THIRD} postgres | c\n")
    query = LogQuery(services=("scheduler",), since=1795370401.0)
    assert texts(log, query) == ["scheduler: b"]


def test_a_line_without_a_time_is_astros_own(tmp_path: Path):
    log = tmp_path / "log"
    log.write_text(f"{FIRST} scheduler | a\nTraceback\n")
    assert texts(log, LogQuery()) == ["scheduler: a", "astro: Traceback"]


def test_a_line_that_is_not_complete_yet_is_not_shown(tmp_path: Path):
    log = tmp_path / "log"
    log.write_text(f"{FIRST} scheduler | a\n{SECOND} scheduler | hal")
    assert texts(log, LogQuery()) == ["scheduler: a"]


def test_without_a_log_there_are_no_lines(tmp_path: Path):
    assert texts(tmp_path / "log", LogQuery(follow=True)) == []


def test_follow_goes_on_in_the_file_that_took_the_logs_name(tmp_path: Path):
    log = tmp_path / "log"
    log.write_text(f"{FIRST} scheduler | a\n")
    asked = 0

    def running() -> bool:
        nonlocal asked
        asked += 1
        if asked == 1:
            with log.open("a") as stream:
                stream.write(f"{SECOND} scheduler | b\n")
            log.rename(tmp_path / "log.1")
            log.write_text(f"{THIRD} scheduler | c\n")
        return asked < 2

    lines = read(log, LogQuery(follow=True), running)
    assert [line.text for line in lines] == ["a", "b", "c"]
