"""Snapshots without a database: names, what fits, what is kept, the file, and the way to and from a command."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
import zipfile
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

import pytest

from astro_cli.domain.services import ServiceStatus
from astro_cli.domain.snapshots import (
    BEFORE_IMPORT,
    BEFORE_KILL,
    BEFORE_MIGRATION,
    BEFORE_RESTORE,
    BY_HAND,
    KEPT_AUTOMATIC,
    Present,
    Snapshot,
    check_fits,
    check_free,
    check_name,
    find,
    imported,
    key_id,
    new_name,
    read_about,
    surplus,
    taken,
)
from astro_cli.domain.state import SandboxState
from astro_cli.foundation.errors import AstroError, UsageError
from astro_cli.runtime import snapshot_file
from astro_cli.runtime.database import Database
from astro_cli.runtime.inside import migrations
from astro_cli.workflows.snapshot_workflow import Snapshots
from tests.fakes import FakeEngine, SilentReport, healthy_services

NOW = datetime(2026, 11, 22, 20, 53, 12, tzinfo=timezone.utc)
PRESENT = Present(
    airflow="3.3.2", key="k1", heads=("head2",), known_heads=frozenset({"head1", "head2"}), objects="o1"
)
FITS = taken(PRESENT, "good", NOW)


# names


@pytest.mark.parametrize("name", ["good", "2026-11-22_v1.2", "a" * 40])
def test_a_usual_name_is_taken(name: str):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", " ", "a b", "a/b", "..", "../x", "-rf", ".hidden", 'a"; DROP DATABASE airflow; --', "a'b", "é", "a\n",
     "a" * 41, "$(id)", "a%b"],
)  # fmt: skip
def test_a_name_that_could_mean_something_else_is_refused(name: str):
    with pytest.raises(UsageError):
        check_name(name)


def test_a_name_that_is_not_given_is_the_time_and_never_one_in_use():
    first = new_name(NOW, BY_HAND, [])
    assert first == "20261122-205312"
    assert new_name(NOW, BY_HAND, [Snapshot(first)]) == "20261122-205312-2"
    assert new_name(NOW, BEFORE_IMPORT, []) == check_name("before-object-import-20261122-205312")


def test_an_unknown_name_is_told_with_the_most_similar_one():
    with pytest.raises(AstroError) as caught:
        find("frist", [Snapshot("first"), Snapshot("other")])
    assert caught.value.hint == "did you mean `first`?"


def test_a_name_in_use_is_refused():
    with pytest.raises(AstroError, match="already"):
        check_free("first", [Snapshot("first")])


# what is known of one


def test_what_is_written_of_a_snapshot_is_what_is_read():
    assert read_about("good", FITS.about()) == FITS


@pytest.mark.parametrize("text", [None, "", "not JSON", "[]", '"x"', '{"heads": 5, "key": [], "created": 1}'])
def test_a_comment_of_somebody_else_is_no_knowledge(text: str | None):
    assert read_about("x", text) == Snapshot("x")


def test_the_keys_id_tells_keys_apart_and_does_not_tell_the_key():
    assert key_id("secret-one") != key_id("secret-two")
    assert "secret" not in key_id("secret-one")


def test_the_supervisor_writes_what_is_read_here(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "the key")
    name, about = migrations.about_migration({"head1"}, NOW.timestamp())
    snapshot = read_about(name, json.dumps(about))
    assert snapshot == Snapshot(
        new_name(NOW, BEFORE_MIGRATION, []), created="2026-11-22T20:53:12Z", reason=BEFORE_MIGRATION,
        automatic=True, key=key_id("the key"), heads=("head1",),
    )  # fmt: skip


# what fits


def test_a_snapshot_of_this_airflow_and_key_fits():
    assert check_fits(FITS, PRESENT, force=False) == ()


def test_one_of_which_nothing_is_known_is_not_refused():
    assert check_fits(Snapshot("x"), PRESENT, force=False) == ()


def test_another_key_is_refused_and_force_says_what_is_lost():
    other = replace(FITS, key="k2")
    with pytest.raises(AstroError, match="another Fernet key: passwords of its connections") as caught:
        check_fits(other, PRESENT, force=False)
    assert "--force" in str(caught.value.hint)
    (said,) = check_fits(other, PRESENT, force=True)
    assert "cannot be read" in said


def test_an_older_airflow_is_refused_and_force_says_that_it_has_to_be_migrated():
    older = replace(FITS, airflow="3.2.0", heads=("head1",))
    with pytest.raises(AstroError, match=r"is of Airflow 3\.2\.0, the sandbox runs Airflow 3\.3\.2"):
        check_fits(older, PRESENT, force=False)
    (said,) = check_fits(older, PRESENT, force=True)
    assert "migrates it" in said


def test_a_newer_airflow_is_refused_even_with_force():
    newer = replace(FITS, airflow="3.9.0", heads=("head3",))
    with pytest.raises(AstroError, match="cannot read it"):
        check_fits(newer, PRESENT, force=True)


# what is kept


def test_of_automatic_ones_the_newest_of_each_reason_are_kept():
    def made(minute: int, reason: str) -> Snapshot:
        return taken(PRESENT, f"{reason.replace(' ', '-')}-{minute}", NOW.replace(minute=minute), reason)

    restores = [made(minute, BEFORE_RESTORE) for minute in range(KEPT_AUTOMATIC + 1)]
    others = [made(minute, BY_HAND) for minute in range(9)] + [made(0, BEFORE_IMPORT)]
    assert surplus([*others, *reversed(restores)], BEFORE_RESTORE) == tuple(restores[:2])
    assert surplus(others, BEFORE_RESTORE) == ()


def test_an_imported_one_is_the_users():
    taken_over = imported(replace(FITS, automatic=True, reason=BEFORE_KILL, file="/x"), "mine")
    assert (taken_over.name, taken_over.automatic, taken_over.file) == ("mine", False, None)


# the file

DUMP = os.urandom(300_000)


def dump(into: IO[bytes]) -> None:
    into.write(DUMP)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "good.astro"
    snapshot_file.write(path, FITS, dump)
    return path


def test_a_file_holds_the_database_and_what_is_known_of_it(file: Path):
    assert snapshot_file.read(file) == replace(FITS, bytes=file.stat().st_size, file=str(file))
    with snapshot_file.opened(file) as stream:
        assert stream.read() == DUMP


def test_a_file_is_for_its_user_alone(file: Path, tmp_path: Path):
    snapshot_file.copy(file, tmp_path / "copy")
    assert [path.stat().st_mode & 0o777 for path in (file, tmp_path / "copy")] == [0o600, 0o600]


def refused(path: Path) -> str:
    with pytest.raises(AstroError) as caught, snapshot_file.opened(path):
        pass
    return caught.value.message


@pytest.mark.parametrize("size", [0, 1, 200, 150_000, 300_000])
def test_a_part_of_a_file_is_refused(file: Path, size: int):
    file.write_bytes(file.read_bytes()[:size])
    assert "not a snapshot, or not all of one" in refused(file)


@pytest.mark.parametrize("place", [100, 5000, 150_000, -3000])
def test_a_damaged_byte_is_found(file: Path, place: int):
    data = bytearray(file.read_bytes())
    data[place] ^= 0xFF
    file.write_bytes(data)
    assert "not a snapshot, or not all of one" in refused(file)


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"hello.txt": "hello"},
        {"snapshot.json": "{}", "database.dump": ""},
        {"snapshot.json": "no JSON", "database.dump": ""},
        {"snapshot.json": "[]", "database.dump": ""},
        {"snapshot.json": '{"format": "astro snapshot", "version": 1}', "database.dump": ""},
        {"snapshot.json": '{"format": "astro snapshot", "version": 1, "name": "../x"}', "database.dump": ""},
        {"snapshot.json": '{"format": "astro snapshot", "version": 1, "name": 5}', "database.dump": ""},
    ],
)
def test_an_archive_of_something_else_is_refused(tmp_path: Path, members: dict[str, str]):
    path = tmp_path / "other.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    assert refused(path)


def test_a_file_of_a_newer_astro_is_refused(tmp_path: Path):
    path = tmp_path / "newer.astro"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("snapshot.json", '{"format": "astro snapshot", "version": 2, "name": "x"}')
        archive.writestr("database.dump", "")
    assert "newer astro" in refused(path)


def test_a_full_disk_leaves_no_half_file_and_the_old_one_as_it_was(file: Path):
    before = file.read_bytes()

    def full(into: IO[bytes]) -> None:
        into.write(DUMP)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left"):
        snapshot_file.write(file, FITS, full)
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == [file.name]


# to and from a command


@dataclass
class ProgramEngine(FakeEngine):
    """Runs a Python program in the place of every command, with this process's streams."""

    program: str = ""
    commands: list[list[str]] = field(default_factory=list)

    def exec(self, sandbox_id: str, request: object) -> int:
        import subprocess

        self.commands.append(list(request.command))  # type: ignore[attr-defined]
        return subprocess.run([sys.executable, "-c", self.program], check=False).returncode


def test_a_dump_of_any_size_is_streamed():
    into = io.BytesIO()
    program = "import sys; sys.stdout.write('x' * 5_000_000)"
    Database(ProgramEngine(program=program), "id").dump("airflow", into)
    assert into.getvalue() == b"x" * 5_000_000


def test_a_disk_that_is_full_ends_a_dump_with_its_error_and_does_not_hang():
    program = "import sys; sys.stdout.write('x' * 5_000_000)"
    with pytest.raises(OSError, match="No space left"), open("/dev/full", "wb", buffering=0) as full:
        Database(ProgramEngine(program=program), "id").dump("airflow", full)


def test_a_program_that_does_not_read_its_input_ends_a_load_and_does_not_hang():
    program = "import sys; sys.stderr.write('pg_restore: error: ERROR:  no such thing'); sys.exit(1)"
    with pytest.raises(AstroError, match="no such thing"):
        Database(ProgramEngine(program=program), "id").load(io.BytesIO(b"x" * 5_000_000), "draft")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("psql: error: connection to server on socket failed", "does not answer"),
        ("ERROR:  could not extend file: No space left on device", "disk of the metadata database is full"),
        ('ERROR:  source database "airflow" is being accessed by other users', "somebody else works on"),
        ("ERROR:  permission denied", "refused: permission denied"),
        ("", "psql failed"),
    ],
)
def test_what_postgres_refuses_is_told_in_our_words(said: str, message: str):
    program = f"import sys; sys.stderr.write({said!r}); sys.exit(1)"
    with pytest.raises(AstroError, match=message):
        Database(ProgramEngine(program=program), "id").run("SELECT 1")


# the workflow where there is nothing to work on


@pytest.fixture
def state(tmp_path: Path) -> SandboxState:
    (tmp_path / "shop/.astro").mkdir(parents=True)
    return SandboxState(tmp_path / "shop")


def snapshots_of(state: SandboxState, services: tuple[ServiceStatus, ...], program: str = "") -> Snapshots:
    return Snapshots(ProgramEngine(services=services, program=program), state, clock=lambda: NOW)


STOPPED = tuple(replace(service, state="stopped") for service in healthy_services())


@pytest.mark.parametrize(
    ("services", "message"),
    [
        ((), "no sandbox yet"),
        (STOPPED, "database does not run"),
        (healthy_services()[1:], "database of your own"),
    ],
)
def test_without_a_database_of_ours_that_runs_nothing_is_tried(
    state: SandboxState, services: tuple[ServiceStatus, ...], message: str, tmp_path: Path, file: Path
):
    snapshots = snapshots_of(state, services, "raise SystemExit('must not run')")
    for attempt in (
        snapshots.save,
        lambda: snapshots.restore("x", force=True, report=SilentReport()),
        lambda: snapshots.delete("x"),
        lambda: snapshots.export("x", tmp_path / "x"),
        lambda: snapshots.import_file(file, None, force=True),
    ):
        with pytest.raises(AstroError, match=message):
            attempt()
    assert not (tmp_path / "x").exists()


def test_a_database_of_the_users_own_is_left_alone_by_what_is_automatic(state: SandboxState):
    snapshots = snapshots_of(state, healthy_services()[1:], "raise SystemExit('must not run')")
    report = SilentReport()
    assert snapshots.save_before_import() is None
    assert snapshots.keep_before_kill(report) is None
    assert report.warnings == []


@pytest.mark.parametrize("services", [STOPPED, healthy_services()])
def test_a_dead_database_is_a_word_at_a_kill_and_no_failure(
    state: SandboxState, services: tuple[ServiceStatus, ...]
):
    report = SilentReport()
    dead = "import sys; sys.stderr.write('connection to server failed'); sys.exit(2)"
    assert snapshots_of(state, services, dead).keep_before_kill(report) is None
    assert len(report.warnings) == 1
    assert "no snapshot was kept" in report.warnings[0]


def test_files_that_outlived_a_kill_are_listed_exported_and_deleted_without_a_sandbox(
    state: SandboxState, file: Path, tmp_path: Path
):
    folder = state.folder / "snapshots"
    folder.mkdir(parents=True)
    file.rename(folder / "good.astro")
    (folder / "broken.astro").write_text("not one")
    snapshots = snapshots_of(state, ())
    known, complete = snapshots.list()
    assert [snapshot.name for snapshot in known] == ["good"]
    assert complete
    snapshots.export("good", tmp_path / "copy.astro")
    assert snapshot_file.read(tmp_path / "copy.astro").name == "good"
    snapshots.delete("good")
    assert snapshots.list() == ((), True)


def test_the_fernet_key_outlives_a_kill_only_if_it_is_asked_to(state: SandboxState):
    before = state.secrets()
    state.forget(keep_key=True)
    after = state.secrets()
    assert after["fernet"] == before["fernet"]
    assert after["database"] != before["database"]
    state.forget()
    assert state.secrets()["fernet"] != before["fernet"]
