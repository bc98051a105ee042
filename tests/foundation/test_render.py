"""Rendering is strict, and writing never touches what is already there."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astro_cli.foundation.errors import AstroError, ProjectError
from astro_cli.foundation.render import File, render, write_files


def file(path, content="new\n", mode=0o644):
    return File(PurePosixPath(path), content, mode)


def test_values_are_filled_in_and_the_last_line_end_stays():
    assert render("FROM {{ image }}\n", {"image": "a<b"}, name="t") == "FROM a<b\n"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ missing }}", "template t: 'missing' is undefined"),
        ("ok\n{% if %}", "template t:2: "),
        ("{{ open", "template t:1: "),
    ],
)
def test_a_template_that_does_not_work_is_named(source, message):
    with pytest.raises(AstroError) as caught:
        render(source, {}, name="t")

    assert caught.value.message.startswith(message)


def test_importing_the_module_does_not_import_jinja():
    code = "import sys, astro_cli.foundation.render; sys.exit('jinja2' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_files_are_written_with_their_folders_content_and_mode(tmp_path):
    root = tmp_path / "new" / "project"

    report = write_files(root, [file("a/b/c.txt", "ü\r\n"), file(".env", "", 0o600)])

    assert report.created == (PurePosixPath("a/b/c.txt"), PurePosixPath(".env"))
    assert (root / "a/b/c.txt").read_bytes() == "ü\r\n".encode()
    assert stat.S_IMODE((root / ".env").stat().st_mode) == 0o600
    assert sorted(path.name for path in root.rglob("*")) == [".env", "a", "b", "c.txt"]


def test_what_exists_is_kept_byte_for_byte(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")

    report = write_files(tmp_path, [file("mine"), file("dangling"), file("fresh")])

    assert report.created == (PurePosixPath("fresh"),)
    assert report.kept == (PurePosixPath("mine"), PurePosixPath("dangling"))
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/x", ".", "a/..", "a\0b"])
def test_a_path_that_leaves_the_root_is_refused_before_anything_is_written(tmp_path, path):
    root = tmp_path / "root"

    with pytest.raises(ProjectError, match="is not a path inside the project"):
        write_files(root, [file("first"), file(path)])

    assert not root.exists()


def test_a_linked_folder_that_leaves_the_root_is_refused(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root/dags").symlink_to(tmp_path / "outside")

    with pytest.raises(ProjectError, match="through a symbolic link"):
        write_files(tmp_path / "root", [file("first"), file("dags/deep/x.py")])

    assert list((tmp_path / "outside").iterdir()) == []
    assert not (tmp_path / "root/first").exists()


def test_a_linked_folder_that_stays_inside_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "dags").symlink_to("real")

    write_files(tmp_path, [file("dags/x.py")])

    assert (tmp_path / "real/x.py").exists()


def test_the_root_itself_may_be_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")

    assert write_files(tmp_path / "link", [file("a/x")]).kept == ()


@pytest.mark.parametrize("blocked", ["root", "root/dags", "root/dags/deep"])
def test_a_file_where_a_folder_belongs_is_an_error(tmp_path, blocked):
    (tmp_path / blocked).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / blocked).write_text("in the way")

    with pytest.raises(ProjectError, match="is not a folder"):
        write_files(tmp_path / "root", [file("first"), file("dags/deep/x.py")])

    assert not (tmp_path / "root/first").exists()


def test_a_folder_where_a_file_belongs_is_an_error(tmp_path):
    (tmp_path / "Dockerfile").mkdir()

    with pytest.raises(ProjectError, match="is a folder where a file belongs"):
        write_files(tmp_path, [file("first"), file("Dockerfile")])

    assert not (tmp_path / "first").exists()


def test_a_name_the_disk_refuses_is_an_error_and_leaves_nothing_half_made(tmp_path):
    with pytest.raises(AstroError, match="cannot write"):
        write_files(tmp_path, [file("x" * 300)])

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("path", "content"), [("x", "\ud800"), ("\ud800", "x")])
def test_what_cannot_be_encoded_is_an_error_and_leaves_nothing(tmp_path, path, content):
    with pytest.raises(ProjectError, match="lone surrogate"):
        write_files(tmp_path, [file(path, content)])

    assert list(tmp_path.iterdir()) == []


def test_a_read_only_folder_is_an_error(tmp_path):
    if os.geteuid() == 0:
        root = "/proc/self"  # root may write everywhere else
        with pytest.raises(AstroError, match="cannot write"):
            write_files(tmp_path.__class__(root), [file("astro-test/x")])
    else:
        tmp_path.chmod(0o500)
        with pytest.raises(AstroError, match="Permission denied"):
            write_files(tmp_path, [file("x")])


def test_a_failure_in_the_middle_takes_back_what_was_made(tmp_path):
    (tmp_path / "root/mine").mkdir(parents=True)

    with pytest.raises(AstroError, match="cannot write"):
        write_files(tmp_path / "root", [file("mine/a"), file("new/deep/b"), file("x" * 300)])

    assert [path.relative_to(tmp_path / "root").as_posix() for path in (tmp_path / "root").rglob("*")] == [
        "mine"
    ]


def test_of_many_writers_at_once_exactly_one_creates_each_file(tmp_path):
    def write(writer):
        return write_files(tmp_path, [file(f"d/{number}", f"{writer}\n" * 1000) for number in range(20)])

    with ThreadPoolExecutor(8) as pool:
        reports = list(pool.map(write, range(8)))

    created = [path for report in reports for path in report.created]
    assert len(created) == len(set(created)) == 20
    for path in (tmp_path / "d").iterdir():
        assert len(set(path.read_text().splitlines())) == 1
    assert len(list((tmp_path / "d").iterdir())) == 20


@given(st.text(max_size=30) | st.lists(st.sampled_from([".", "..", "", "a", "/"]), max_size=5).map("/".join))
def test_no_path_ever_writes_outside_the_root(tmp_path_factory, path):
    base = tmp_path_factory.mktemp("base")
    with contextlib.suppress(AstroError):
        write_files(base / "root", [file(path)])
    assert {entry.name for entry in base.iterdir()} <= {"root"}
