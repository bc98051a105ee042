"""The build context: which files of a folder an image is built from, and how they travel to the engine."""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from astro_cli.domain import hot_objects
from astro_cli.domain.airflow import PROJECT_FOLDERS
from astro_cli.foundation.errors import ProjectError
from astro_cli.foundation.yamlfile import read_text

if TYPE_CHECKING:
    from collections.abc import Iterable

_LARGE_FILE = 8 * 1024 * 1024  # bytes; above it a file's size and time stand for its content
_FIXED_TIME = 946684800  # 2000-01-01: a context holds what the files say, not when they were checked out


@dataclass(frozen=True)
class ContextFile:
    """One entry of a build context, read from `path` or, without one, made of `content`."""

    name: str
    path: Path | None = None
    content: bytes = b""


class IgnoreRules:
    """The rules of a `.dockerignore` file: the last pattern that matches a path or a parent of it decides.

    Patterns are Go's `filepath.Match` with `**` for any number of folders, anchored at the context's root
    (https://docs.docker.com/build/concepts/context/#dockerignore-files).

    Raises:
        ProjectError: a pattern is malformed; the message names its line.
    """

    def __init__(self, text: str = "") -> None:
        self._rules: list[tuple[re.Pattern[str], bool]] = []
        for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
            pattern = line.strip()
            if not pattern or line.startswith("#"):
                continue
            keep = pattern.startswith("!")
            cleaned = os.path.normpath(pattern[1:].strip() if keep else pattern).lstrip("/")
            if cleaned in ("", "."):
                continue
            try:
                self._rules.append((re.compile(_ignore_expression(cleaned)), keep))
            except (re.error, ValueError) as exc:
                raise ProjectError(
                    f".dockerignore:{number}: `{pattern}` is not a valid pattern",
                    hint="correct the line; `*`, `?`, `[a-z]` and `**` are understood",
                ) from exc

    def ignores(self, name: str) -> bool:
        """Whether the path `name` (relative, with `/`) stays out of the context."""
        parts = name.split("/")
        parents = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        ignored = False
        for expression, keep in self._rules:
            if ignored == keep and any(expression.fullmatch(parent) for parent in parents):
                ignored = not keep
        return ignored

    @property
    def has_exceptions(self) -> bool:
        """Whether a `!` line may bring back something below an ignored folder."""
        return any(keep for _, keep in self._rules)


MAX_FOLDER_WILDCARDS = 3
"""`**` in one pattern: each of them multiplies the ways in which a long path may be tried."""


def _ignore_expression(pattern: str) -> str:
    """A regular expression for one pattern.

    What a `*` takes is settled at the first place where the text behind it fits, as in `fnmatch`: no other can lead
    further. Without that, a pattern of a few stars keeps the expression engine busy for minutes.
    """
    while "**/**/" in pattern:
        pattern = pattern.replace("**/**/", "**/")
    if pattern.count("**") > MAX_FOLDER_WILDCARDS:
        raise ValueError("too many **")
    pieces: list[str] = [""]  # wildcards `*` stand between them
    index = 0
    while index < len(pattern):
        char = pattern[index]
        index += 1
        if pattern.startswith("**", index - 1):
            index += 1
            if pattern.startswith("/", index):
                index += 1
                pieces[-1] += "(?:.*/)?"
            else:
                pieces[-1] += ".*"
        elif char == "*":
            pieces.append("")
        elif char == "?":
            pieces[-1] += "[^/]"
        elif char == "[":
            end = pattern.find("]", index + 1)
            if end < 0:
                raise ValueError("unclosed [")
            pieces[-1] += "[" + pattern[index:end].replace("[", r"\[") + "]"
            index = end + 1
        elif char == "\\":
            if index == len(pattern):
                raise ValueError("nothing to escape")
            pieces[-1] += re.escape(pattern[index])
            index += 1
        else:
            pieces[-1] += re.escape(char)
    first, *rest = pieces
    out = first
    for number, piece in enumerate(rest):
        if number + 1 < len(rest) and ".*" not in piece:
            out += f"(?=(?P<s{number}>[^/]*?{piece}))(?P=s{number})"
        else:
            out += f"[^/]*{piece}"
    return f"(?s:{out})"


def project_context(folder: Path, dockerfile: str = "Dockerfile") -> tuple[ContextFile, ...]:
    """The files a build of `folder` may copy, sorted by name; symbolic links stay links.

    Only a link in the place of `dags`, `plugins`, `include` or `tests` is followed: it stands for that folder.
    The Dockerfile and `.dockerignore` are always part of it. Sockets, pipes and devices never are, nor the files of
    `hot_objects`.

    Raises:
        ProjectError: `.dockerignore` is malformed, or a file cannot be read.
    """
    ignore_file = folder / ".dockerignore"
    rules = IgnoreRules(read_text(ignore_file, name=ignore_file.name) if ignore_file.is_file() else "")
    always = {dockerfile, ".dockerignore"}
    never = hot_objects.FILES.values()

    def refuse(error: OSError) -> None:
        raise ProjectError(f"`{error.filename}` cannot be read: {error.strerror}") from error

    found: list[str] = []
    linked = {name for name in PROJECT_FOLDERS if (folder / name).is_symlink() and (folder / name).is_dir()}
    for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        relative = Path(parent).relative_to(folder)
        kept = []
        for name in folders:
            path = (relative / name).as_posix()
            ignored = rules.ignores(path)
            if not ignored:
                found.append(path)
            if (not ignored or rules.has_exceptions) and (path in linked or not (folder / path).is_symlink()):
                kept.append(name)
        folders[:] = kept
        for name in files:
            path = (relative / name).as_posix()
            if path in always or not (path in never or rules.ignores(path)):
                found.append(path)
    usable = (name for name in sorted(found) if _is_usable(folder / name))
    return tuple(
        ContextFile(name, (folder / name).resolve() if name in linked else folder / name) for name in usable
    )


def _is_usable(path: Path) -> bool:
    mode = path.lstat().st_mode
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)


CODE_INSIDE = {"": "runtime/inside", "standins/": "runtime/inside/standins", "inside/": "deploy/inside"}
"""What of astro runs in containers: where in the context, and the folder of the package that it is from."""


def engine_context(images: Path, package: Path) -> tuple[ContextFile, ...]:
    """The context of `images/Dockerfile`: the files beside it, and those of astro that run in there."""
    files = [ContextFile(path.name, path) for path in sorted(images.iterdir()) if path.is_file()]
    code = [
        ContextFile(f"{place}{path.name}", path)
        for place, folder in CODE_INSIDE.items()
        for path in sorted((package / folder).glob("*.py"))
    ]
    return (*files, *code)


def write_context(files: Iterable[ContextFile], stream: IO[bytes]) -> None:
    """Writes the context as a tar archive that depends on names, content and executable bits alone.

    Raises:
        ProjectError: a file vanished or cannot be read.
    """
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for file in files:
            try:
                _add(archive, file)
            except OSError as exc:
                if exc.filename is None:
                    raise
                raise ProjectError(f"`{exc.filename}` cannot be read: {exc.strerror}") from exc


def _add(archive: tarfile.TarFile, file: ContextFile) -> None:
    info = tarfile.TarInfo(file.name)
    info.mtime = _FIXED_TIME
    info.mode = 0o644
    if file.path is None:
        info.size = len(file.content)
        archive.addfile(info, io.BytesIO(file.content))
        return
    status = file.path.lstat()
    if stat.S_ISLNK(status.st_mode):
        info.type, info.mode = tarfile.SYMTYPE, 0o777
        info.linkname = str(file.path.readlink())
        archive.addfile(info)
    elif stat.S_ISDIR(status.st_mode):
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(info)
    else:
        with file.path.open("rb") as content:
            info.size = os.fstat(content.fileno()).st_size
            if status.st_mode & 0o111:
                info.mode = 0o755
            archive.addfile(info, content)


def fingerprint(file: ContextFile) -> bytes:
    """What stands for a file's content in a hash."""
    if file.path is None:
        return hashlib.sha256(file.content).digest()
    try:
        status = file.path.lstat()
        if stat.S_ISLNK(status.st_mode):
            return b"link " + os.fsencode(file.path.readlink())
        if stat.S_ISDIR(status.st_mode):
            return b"folder"
        kind = b"program " if status.st_mode & 0o111 else b"file "
        if status.st_size > _LARGE_FILE:
            return kind + f"{status.st_size} {status.st_mtime_ns}".encode()
        return kind + hashlib.sha256(file.path.read_bytes()).digest()
    except OSError as exc:
        raise ProjectError(f"`{exc.filename}` cannot be read: {exc.strerror}") from exc
