"""What a saved file means, and when Airflow is up to date."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from astro_cli.domain.dagrun import DagFile
from astro_cli.domain.parse_report import ParseReport, read_report
from astro_cli.workflows.watch import PLUGIN_SERVICES, Reaction, Refresh, changes, react


@pytest.mark.parametrize(
    ("saved", "gone", "expected"),
    [
        (["dags/a.py"], [], Reaction(parse=("dags/a.py",))),
        (["dags/b.py", "dags/sub/a.py"], [], Reaction(parse=("dags/b.py", "dags/sub/a.py"))),
        (["dags/new.py"], ["dags/old.py"], Reaction(parse=("dags/new.py",), removed=("dags/old.py",))),
        ([], ["dags/old.py"], Reaction(removed=("dags/old.py",))),
        (["include/sql/a.sql"], [], Reaction(parse=("dags",))),
        (["dags/config.yaml"], [], Reaction(parse=("dags",))),
        (["plugins/timetable.py"], [], Reaction(parse=("dags",), restart=PLUGIN_SERVICES)),
        (["plugins/README.md"], [], Reaction()),
        ([], [], Reaction()),
    ],
)
def test_a_saved_file_concerns_itself_and_a_shared_one_concerns_all(
    saved: list[str], gone: list[str], expected: Reaction
):
    assert react(saved, gone) == expected


SAVED_AT = 100.0


class FakeApi:
    """An Airflow with these files, each last parsed at its time."""

    def __init__(self, **files: float) -> None:
        self.files = files
        self.asked: list[str] = []

    def dag_files(self) -> dict[str, DagFile]:
        return {f"{name}.py": DagFile(f"token-{name}", time) for name, time in self.files.items()}

    def reparse(self, token: str) -> None:
        self.asked.append(token)


def parsed(*names: str, broken: bool = False) -> ParseReport:
    errors = [{"kind": "import", "message": "no"}] if broken else []
    lines = [
        json.dumps(
            {
                "type": "file",
                "path": f"dags/{name}.py",
                "dags": [] if broken else [{"dag_id": name, "tasks": 1, "file": ""}],
                "errors": errors,
            }
        )
        for name in names
    ]
    return read_report([*lines, '{"type": "end", "files": 1, "seconds": 0.1}'])


def test_an_edited_file_is_parsed_again_and_awaited():
    api = FakeApi(a=50, b=50)
    refresh = Refresh(api, parsed("a"), Reaction(parse=("dags/a.py",)), SAVED_AT)
    assert api.asked == ["token-a"]
    assert not refresh.done()
    api.files["a"] = 99.9
    assert not refresh.done(), "that parse began before the save"
    api.files["a"] = 100.1
    assert refresh.done()


def test_a_file_that_airflow_has_read_before_it_was_asked_is_up_to_date():
    api = FakeApi(a=100.1)
    assert Refresh(api, parsed("a"), Reaction(parse=("dags/a.py",)), SAVED_AT).done()


def test_a_request_that_was_lost_is_made_again():
    api = FakeApi(a=50)
    refresh = Refresh(api, parsed("a"), Reaction(parse=("dags/a.py",)), SAVED_AT, ask_again_seconds=0.0)
    assert not refresh.done()
    assert api.asked == ["token-a", "token-a"]


def test_that_it_takes_long_is_told_once_and_it_is_awaited_on():
    refresh = Refresh(FakeApi(a=50), parsed("a"), Reaction(parse=("dags/a.py",)), SAVED_AT, late_seconds=0.0)
    assert [refresh.is_late(), refresh.is_late()] == [True, False]
    assert not refresh.overdue


def test_a_new_file_has_no_token_so_another_one_makes_airflow_look():
    api = FakeApi(a=50)
    refresh = Refresh(api, parsed("new"), Reaction(parse=("dags/new.py",)), SAVED_AT)
    assert api.asked == ["token-a"]
    assert not refresh.done()
    api.files["new"] = 101
    assert refresh.done()


def test_a_removed_file_is_awaited_until_it_is_gone():
    api = FakeApi(a=50, old=50)
    refresh = Refresh(api, ParseReport((), 0.0), Reaction(removed=("dags/old.py",)), SAVED_AT)
    assert api.asked
    assert not refresh.done()
    del api.files["old"]
    assert refresh.done()


def test_a_broken_file_is_reparsed_so_that_the_ui_shows_it_but_nothing_is_awaited():
    api = FakeApi(a=50)
    refresh = Refresh(api, parsed("a", broken=True), Reaction(parse=("dags/a.py",)), SAVED_AT)
    assert api.asked == ["token-a"]
    assert not refresh.tells


def test_saved_added_and_removed_files_of_a_real_folder_are_seen(tmp_path: Path):
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags/old.py").write_text("old")
    seen: list[Reaction] = []
    watching = threading.Event()

    def look() -> None:
        end = time.monotonic() + 60
        for reaction in changes(tmp_path):
            watching.set()
            if reaction:
                seen.append(reaction)
            done = {path for each in seen for path in each.removed} == {"dags/old.py"}
            if done or time.monotonic() > end:
                return

    thread = threading.Thread(target=look)
    thread.start()
    assert watching.wait(60)
    (tmp_path / "dags/new.py").write_text("new")
    (tmp_path / "dags/4913~").write_text("an editor's own")
    (tmp_path / "dags/4913~").unlink()
    end = time.monotonic() + 60
    while not seen and time.monotonic() < end:
        time.sleep(0.05)
    (tmp_path / "dags/old.py").unlink()
    thread.join(90)
    assert {path for each in seen for path in each.parse} == {"dags/new.py"}
    assert {path for each in seen for path in each.removed} == {"dags/old.py"}
