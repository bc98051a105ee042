"""Templates of one's own: a folder, or one revision of a git repository. What is hostile is refused whole."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from astro_cli.domain.project import read_project
from astro_cli.domain.scaffold import MAX_BYTES, MAX_FILES, Entry, make_template, project_files
from astro_cli.domain.template_source import find_template
from astro_cli.foundation.errors import AstroError, ProjectError, UsageError
from astro_cli.workflows.project_init import init_project

ENVIRON = {
    "PATH": os.environ["PATH"],
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.com",
    "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.com",
    "GIT_CONFIG_GLOBAL": "/dev/null",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A template like a user's: some files, some of which belong to one machine alone."""
    root = tmp_path / "ours"
    for name, text in {
        "dags/etl.py": "# etl\n",
        "README.md.j2": "# {{ name }}\n",
        "dot-env": "MODE=dev\n",
        ".gitignore": "*.log\n.env\n",
        "run.log": "noise",
        ".env": "PASSWORD=secret\n",
        "tool.sh": "#!/bin/sh\n",
        ".astro/config.yaml": "project:\n  id: abcdef\n  name: theirs\nsandbox:\n  parallelism: 2\n",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "tool.sh").chmod(0o755)
    (root / "logo.png").write_bytes(b"\x89PNG\xff\x00")
    return root


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=folder, env=ENVIRON, check=True, capture_output=True, text=True
    ).stdout.strip()


def repository(folder: Path) -> str:
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=first")
    git(folder, "tag", "v1.0")
    return f"file://{folder}"


def init(root: Path, text: str, folder: Path) -> list[str]:
    template = find_template(text, folder=folder, environ=ENVIRON)
    report = init_project(root, name=None, template=template, airflow_version=None, may_fill=lambda: None)
    return [str(path) for path in report.created]


def test_a_folder_becomes_a_project_with_what_every_project_has(folder: Path, tmp_path: Path):
    created = init(tmp_path / "shop", "./ours", tmp_path)

    assert {"dags/etl.py", "README.md", ".env", "Dockerfile", ".gitignore"} <= set(created)
    assert "run.log" not in created
    assert (tmp_path / "shop/README.md").read_text() == "# shop\n"
    assert (tmp_path / "shop/logo.png").read_bytes() == b"\x89PNG\xff\x00"
    assert (tmp_path / "shop/tool.sh").stat().st_mode & 0o100


def test_what_its_gitignore_leaves_out_stays_out(folder: Path, tmp_path: Path):
    init(tmp_path / "shop", "./ours", tmp_path)

    assert (tmp_path / "shop/.env").read_text() == "MODE=dev\n"


def test_the_project_gets_an_identity_of_its_own_and_the_templates_settings(folder: Path, tmp_path: Path):
    init(tmp_path / "shop", "./ours", tmp_path)
    project = read_project(tmp_path / "shop")

    assert project.name == "shop"
    assert project.project_id != "abcdef"
    assert "parallelism: 2" in (tmp_path / "shop/.astro/config.yaml").read_text()


@pytest.mark.parametrize("revision", ["v1.0", "the commit"])
def test_a_tag_and_a_commit_are_fetched(folder: Path, tmp_path: Path, revision: str):
    url = repository(folder)
    pinned = git(folder, "rev-parse", "HEAD") if revision == "the commit" else revision
    (folder / "dags/etl.py").write_text("# newer\n")
    git(folder, "commit", "--quiet", "--all", "--message=second")

    init(tmp_path / "shop", f"{url}@{pinned}", tmp_path)

    assert (tmp_path / "shop/dags/etl.py").read_text() == "# etl\n"
    assert not (tmp_path / "shop/.git").exists()


def test_a_branch_is_refused_with_the_commit_to_name_instead(folder: Path, tmp_path: Path):
    url = repository(folder)
    with pytest.raises(UsageError, match="main is a branch") as caught:
        init(tmp_path / "shop", f"{url}@main", tmp_path)
    assert f"{url}@{git(folder, 'rev-parse', 'HEAD')}" in str(caught.value.hint)
    assert not (tmp_path / "shop").exists()


@pytest.mark.parametrize(
    "text",
    ["https://example.com/a.git", "https://me@example.com/a", "git@example.com:a/b.git", "ssh://h/a@", "file:///a@-x",
     "file:///a@v1..v2"],
)  # fmt: skip
def test_a_repository_without_a_revision_is_refused(tmp_path: Path, text: str):
    with pytest.raises(UsageError, match="names no revision"):
        find_template(text, folder=tmp_path, environ=ENVIRON)


def test_a_revision_that_is_not_there_is_refused_with_gits_own_words(folder: Path, tmp_path: Path):
    url = repository(folder)
    with pytest.raises(AstroError, match="cannot fetch v9") as caught:
        find_template(f"{url}@v9", folder=tmp_path, environ=ENVIRON)
    assert "v9" in " ".join(caught.value.details)


@pytest.mark.parametrize("text", ["http://example.com/a@v1", "ext::sh -c id@v1", "git://example.com/a@v1"])
def test_other_ways_to_a_repository_are_refused(tmp_path: Path, text: str):
    with pytest.raises(UsageError):
        find_template(text, folder=tmp_path, environ=ENVIRON)


@pytest.mark.parametrize("target", ["/etc/passwd", "../secret", "dags/etl.py", "."])
def test_a_link_is_refused_in_a_folder_and_in_a_repository(folder: Path, tmp_path: Path, target: str):
    (folder / "link").symlink_to(target)
    url = repository(folder)
    for text in ("./ours", f"{url}@v1.0"):
        with pytest.raises(ProjectError, match="link is a symbolic link"):
            init(tmp_path / "shop", text, tmp_path)
    assert not (tmp_path / "shop").exists()


def test_what_is_no_file_is_refused(folder: Path, tmp_path: Path):
    os.mkfifo(folder / "pipe")
    with pytest.raises(ProjectError, match="pipe is not a file"):
        find_template("./ours", folder=tmp_path, environ=ENVIRON)


@pytest.mark.parametrize(
    "stored",
    ["../x", "a/../../x", "/etc/x", "a//x", "dot-./x", "a/.", "dot-git/hooks/x", ".GIT/config", "a\nb", "a\x1b[2Jb",
     "a\\b", "\udcff", ".astro/checkout", "dot-astro/checkout", "x.j2/../../y"],
)  # fmt: skip
def test_a_hostile_name_is_refused_in_one_printable_sentence(stored: str):
    with pytest.raises(ProjectError) as caught:
        make_template("t", [Entry("dags/a.py", b""), Entry(stored, b"")])
    assert caught.value.message.isprintable()


def test_two_files_in_one_place_are_refused():
    with pytest.raises(ProjectError, match="same file"):
        make_template("t", [Entry("dot-env", b""), Entry(".env", b"")])


@pytest.mark.parametrize(
    "entries",
    [[Entry(f"{number}", b"") for number in range(MAX_FILES + 1)], [Entry("a", b"x" * (MAX_BYTES + 1))]],
    ids=["files", "bytes"],
)
def test_too_much_is_refused(entries: list[Entry]):
    with pytest.raises(ProjectError, match="too large"):
        make_template("t", entries)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ nothing }}",
        "{{ 1 / 0 }}",
        "{% include '/etc/passwd' %}",
        "{{ name.x.y }}",
    ],
)
def test_a_template_cannot_reach_out_of_its_text(source: str):
    template = make_template("t", [Entry("x.j2", source.encode())])
    with pytest.raises(AstroError, match=r"t/x\.j2"):
        project_files(template, name="shop", project_id="abcdef", airflow_version="3.3.2")


def test_a_template_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="is not a folder"):
        find_template("./nothing", folder=tmp_path, environ=ENVIRON)


def test_without_git_it_says_so(tmp_path: Path):
    with pytest.raises(AstroError, match="git cannot be run"):
        find_template("https://example.com/a@v1", folder=tmp_path, environ={"PATH": "/nowhere"})
