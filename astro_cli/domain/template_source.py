"""Where a template comes from: astro itself, a folder, or one revision of a git repository.

A repository is never checked out: its files are read from `git archive`, so that no link or hook of it acts.
"""

from __future__ import annotations

import os
import re
import stat
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from astro_cli.domain.scaffold import MAX_BYTES, Entry, Template, make_template, own_template
from astro_cli.foundation import process
from astro_cli.foundation.errors import AstroError, ProjectError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_GIT = re.compile(
    r"(?P<url>(?:(?:https|ssh)://[^/\s]+|file://|[\w.-]+@[\w.-]+:)[^\s@]*)(?:@(?P<revision>.*))?"
)
_SCHEME = re.compile(r"[A-Za-z][\w+.-]*://")
_REVISION = re.compile(r"[A-Za-z0-9][\w./+-]*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SKIPPED = (".git", "__pycache__", ".venv", ".astro/checkout")


def find_template(text: str, *, folder: Path, environ: Mapping[str, str]) -> Template:
    """The template that `text` names.

    Args:
        text: a name, a path (with a `/` in it, or beginning with `.` or `~`), or `GIT_URL@REVISION`.
        folder: what a relative path starts from.
        environ: what git is given.

    Raises:
        UsageError: no such template, or a repository without a revision that stays what it is.
        ProjectError: the template holds what may not become part of a project.
        AstroError: git fails.
    """
    if _GIT.fullmatch(text):
        return _from_git(text, environ)
    if _SCHEME.match(text):
        raise UsageError(
            f"a template cannot come from {text}",
            hint="use https://, ssh:// or file:// and a revision: URL@v1.0",
        )
    if "/" in text or text.startswith((".", "~")):
        path = folder / Path(text).expanduser()
        if not path.is_dir():
            raise UsageError(
                f"{path} is not a folder", hint="`astro airflow init --list` shows what there is"
            )
        return make_template(text, _from_folder(path, text))
    return own_template(text)


def _from_folder(root: Path, name: str) -> Iterator[Entry]:
    """The files below a folder, except those that its own .gitignore leaves out."""
    import pathspec

    ignore = root / ".gitignore"
    lines = ignore.read_text(encoding="utf-8", errors="replace").splitlines() if ignore.is_file() else []
    rules = pathspec.GitIgnoreSpec.from_lines([*_SKIPPED, *lines])
    read = 0
    for folder, folders, files in os.walk(root):
        here = Path(folder).relative_to(root)
        folders[:] = sorted(one for one in folders if not rules.match_file(f"{(here / one).as_posix()}/"))
        for one in sorted((*folders, *files)):
            path, stored = Path(folder, one), (here / one).as_posix()
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode) or rules.match_file(stored):
                continue
            if stat.S_ISLNK(mode):
                raise _link(name, stored)
            if not stat.S_ISREG(mode):
                raise ProjectError(f"template {name}: {stored} is not a file", hint="nothing was written")
            read += path.stat().st_size
            content = path.read_bytes() if read <= MAX_BYTES else b"\0" * (MAX_BYTES + 1)
            yield Entry(stored, content, executable=bool(mode & stat.S_IXUSR))


def _from_git(text: str, environ: Mapping[str, str]) -> Template:
    found = _GIT.fullmatch(text)
    assert found is not None
    url, revision = found["url"], found["revision"] or ""
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise UsageError(
            f"{url} names no revision, and without one a template may change under you",
            hint=f"add a tag or a whole commit hash: `--template {url}@v1.0`",
        )
    with tempfile.TemporaryDirectory() as folder:
        git = _Git(Path(folder), environ)
        git("init", "--quiet", "--bare", folder)
        reference = revision if _COMMIT.fullmatch(revision) else f"refs/tags/{revision}"
        fetched = git(
            "fetch",
            "--quiet",
            "--depth=1",
            "--no-tags",
            "--no-recurse-submodules",
            "--",
            url,
            reference,
            check=False,
        )
        if fetched.code:
            raise _no_revision(git, url, revision, fetched)
        archive = Path(folder, "tree.tar")
        git("archive", "--format=tar", f"--output={archive}", "FETCH_HEAD")
        return make_template(text, list(_from_archive(archive, text)))


def _no_revision(git: _Git, url: str, revision: str, fetched: process.Completed) -> AstroError:
    heads = git("ls-remote", "--heads", "--", url, f"refs/heads/{revision}", check=False)
    if heads.code == 0 and heads.lines:
        commit = heads.lines[-1].split()[0]
        return UsageError(
            f"{revision} is a branch of {url}, and branches move",
            hint=f"name a tag, or the commit it is at now: `--template {url}@{commit}`",
        )
    return AstroError(
        f"cannot fetch {revision} of {url}",
        details=fetched.lines[-3:],
        hint="a revision is a tag or a whole commit hash (40 digits)",
    )


def _from_archive(archive: Path, name: str) -> Iterator[Entry]:
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isdir():
                continue
            if member.issym() or member.islnk():
                raise _link(name, member.name)
            if member.name == ".gitmodules":
                raise ProjectError(f"template {name} has submodules", hint="a template is one repository")
            file = tar.extractfile(member) if member.size <= MAX_BYTES else None
            content = file.read() if file is not None else b"\0" * (MAX_BYTES + 1)
            yield Entry(member.name, content, executable=bool(member.mode & stat.S_IXUSR))


def _link(name: str, stored: str) -> ProjectError:
    return ProjectError(
        f"template {name}: {stored} is a symbolic link, and those may lead anywhere",
        hint="put the file itself there",
    )


class _Git:
    """git in one repository, which never asks anything on a terminal that nobody looks at."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self._folder = folder
        kept = {name: value for name, value in environ.items() if not name.startswith("GIT_DIR")}
        self._environ = {**kept, "GIT_DIR": str(folder), "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}

    def __call__(self, *arguments: str, check: bool = True) -> process.Completed:
        try:
            done = process.run(["git", *arguments], env=self._environ, cwd=self._folder)
        except OSError as exc:
            raise AstroError("git cannot be run", hint="install git, or name a folder as template") from exc
        if check and done.code:
            raise AstroError(f"`git {arguments[0]}` failed", details=done.lines[-3:])
        return done
