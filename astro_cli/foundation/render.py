"""Files from templates, written so that nothing of the user's is ever replaced, and none of it half.

Rendering gives `File`s (plain values, easy to compare in tests); `write_files` puts them on disk.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from astro_cli.foundation.errors import AstroError, ProjectError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class File:
    """One file to write: its path below the root, its content, its permission bits before the umask."""

    path: PurePosixPath
    content: str | bytes
    mode: int = 0o644

    @property
    def text(self) -> str:
        """The content of a file that is known to be text."""
        return self.content if isinstance(self.content, str) else self.content.decode()


@dataclass(frozen=True)
class WriteReport:
    """What `write_files` did: paths below the root, in the order given."""

    created: tuple[PurePosixPath, ...]
    kept: tuple[PurePosixPath, ...]


def render(source: str, values: Mapping[str, object], *, name: str) -> str:
    """A Jinja template with its values filled in; final line ends are kept.

    Args:
        source: the template.
        values: what it may name.
        name: what messages call the template.

    Raises:
        AstroError: invalid template, or a name in it that has no value.
    """
    import jinja2
    import jinja2.sandbox

    # Sandboxed: templates may be a stranger's. Autoescape is for HTML; these are source and configuration files.
    environment = jinja2.sandbox.SandboxedEnvironment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    try:
        return environment.from_string(source).render(values)
    except (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as exc:
        line = getattr(exc, "lineno", None)
        raise AstroError(f"template {name}{f':{line}' if line else ''}: {exc}") from exc


def write_files(root: Path, files: Iterable[File]) -> WriteReport:
    """Write the files that are not there yet, all or none, each complete; existing ones are left alone.

    All paths are checked before the first byte is written. If it fails or is interrupted, what was made is removed.

    Args:
        root: the folder to write below; made if missing.
        files: what to write; missing folders are made.

    Raises:
        ProjectError: a path that leaves the root (by `..` or through a symbolic link), or a folder and a file
            in each other's place.
        AstroError: the disk refuses.
    """
    files = tuple(files)
    made = _Made()
    try:
        for file in files:
            _check(root, file.path)
        created = tuple(file.path for file in files if _create(root / file.path, file, made))
    except OSError as exc:
        made.remove()
        where = exc.filename or root
        raise AstroError(
            f"cannot write {where}: {exc.strerror or exc}", hint="check its owner and the free space"
        ) from exc
    except UnicodeEncodeError as exc:
        made.remove()
        raise ProjectError(f"cannot write below {root}: a lone surrogate in a name or a text") from exc
    except BaseException:
        made.remove()
        raise
    return WriteReport(created, tuple(file.path for file in files if file.path not in created))


class _Made:
    """What one call has made, so that it can be taken back."""

    def __init__(self) -> None:
        self.files: list[Path] = []
        self.folders: list[Path] = []

    def folder(self, path: Path) -> None:
        """Make a folder with those above it."""
        missing = []
        while not path.exists():
            missing.append(path)
            path = path.parent
        for one in reversed(missing):
            with contextlib.suppress(FileExistsError):  # another one made it meanwhile
                one.mkdir()
                self.folders.append(one)

    def remove(self) -> None:
        """Remove the files, and the folders that are empty then."""
        for file in self.files:
            with contextlib.suppress(OSError):
                file.unlink()
        for folder in reversed(self.folders):
            with contextlib.suppress(OSError):
                folder.rmdir()


def _check(root: Path, path: PurePosixPath) -> None:
    """Refuse what would land outside the root or cannot be made."""
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in str(path):
        raise ProjectError(f"{path} is not a path inside the project")
    for folder in (root, *(root / parent for parent in reversed(path.parents[:-1]))):
        if os.path.lexists(folder) and not folder.is_dir():
            raise ProjectError(f"{folder} is not a folder, so {path} cannot be created", hint="move it away")
    if not (root / path).parent.resolve().is_relative_to(root.resolve()):
        raise ProjectError(f"{path} would leave {root} through a symbolic link", hint="remove the link")
    if (root / path).is_dir():
        raise ProjectError(f"{root / path} is a folder where a file belongs", hint="move it away")


def _create(target: Path, file: File, made: _Made) -> bool:
    """Make the file unless something has its name; False if so. Of two at once, one makes it."""
    if os.path.lexists(target):
        return False
    made.folder(target.parent)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        _write_new(temporary, file)
        try:
            target.hardlink_to(temporary)  # unlike a rename, never replaces
        except FileExistsError:
            return False
        except OSError:  # a filesystem without hard links: new-only still holds, complete-or-nothing does not
            try:
                _write_new(target, file)
            except FileExistsError:
                return False
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    made.files.append(target)
    return True


def _write_new(path: Path, file: File) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, file.mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(file.content.encode() if isinstance(file.content, str) else file.content)
