"""The workflow of `upgrade-check`: read a project's files, and say what is from another time."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from astro_cli.domain.image import images_folder
from astro_cli.domain.old_idioms import SETTINGS_FILES, Place, in_python, in_settings
from astro_cli.domain.upgrade_report import read_findings
from astro_cli.foundation.errors import AstroError, UsageError
from astro_cli.runtime.venv import Workshop

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from astro_cli.runtime.engine import Report

_SKIPPED = {"__pycache__", "node_modules", "site-packages", "venv", "logs"}
_OWN = "astro"
_STYLE = "AIR311"
"""Ruff's rules from here on are about what still works, and so is `AIR0…`."""


@dataclass(frozen=True)
class Old:
    """One finding.

    Attributes:
        file: as it was named, or below the folder that was.
        rule: ruff's, or `astro`.
        breaks: it fails in Airflow 3, or says nothing there.
        instead: the modern way; may be empty.
    """

    file: str
    line: int
    rule: str
    message: str
    instead: str
    breaks: bool


@dataclass(frozen=True)
class OldReport:
    """What was found.

    Attributes:
        files: how many were read.
        found: by file and line.
        ruff_missing: why ruff could not be asked, or "".
    """

    files: int
    found: tuple[Old, ...]
    ruff_missing: str

    @property
    def breaks(self) -> bool:
        """Whether anything was found that does not work in Airflow 3."""
        return any(one.breaks for one in self.found)


def check(root: Path, paths: Iterable[Path], environ: Mapping[str, str], report: Report) -> OldReport:
    """Look through files and folders.

    Args:
        root: what file names are told below of.
        paths: absolute.
        environ: for uv, which brings ruff.
        report: is told the steps.

    Raises:
        UsageError: one of the paths is not there, or there is nothing to read.
    """
    files = sorted({file for path in paths for file in _files(path)})
    if not files:
        raise UsageError("there is no Python file to check", hint="name a file or a folder")
    report.step(f"read {len(files)} files")
    own: dict[tuple[str, int], list[Place]] = {}
    for file in files:
        text = file.read_text(encoding="utf-8", errors="replace")
        for place in in_settings(text) if file.name in SETTINGS_FILES else in_python(text):
            own.setdefault((_name(file, root), place.line), []).append(place)
    found = [
        Old(name, line, _OWN, one.idiom.message, one.idiom.instead, one.idiom.breaks)
        for (name, line), places in own.items()
        for one in places
    ]
    report.step("ask ruff")
    missing = ""
    try:
        for old in _ruff(root, [file for file in files if file.suffix == ".py"], environ, report):
            if not any(_same(old, place) for place in own.get((old.file, old.line), ())):
                found.append(old)
    except AstroError as exc:
        missing = exc.message
    return OldReport(
        len(files), tuple(sorted(found, key=lambda one: (one.file, one.line, one.rule))), missing
    )


def _same(old: Old, place: Place) -> bool:
    """Whether ruff says what we say already."""
    word = place.idiom.word.rpartition(".")[2]
    return bool(word) and f"{word}`" in old.message


def _ruff(root: Path, files: list[Path], environ: Mapping[str, str], report: Report) -> Iterator[Old]:
    workshop = Workshop(environ, images_folder())
    for one in read_findings(workshop.ruff("AIR003,AIR3", files, report), str(root)):
        if one.rule.startswith("AIR"):  # a syntax error is told already
            breaks = one.rule.startswith("AIR3") and one.rule < _STYLE
            yield Old(one.file, one.line, one.rule, one.message, one.fix, breaks)


def _name(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    if not path.is_dir():
        raise UsageError(f"{path} is not there", hint="name a file or a folder")
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(one for one in folders if one not in _SKIPPED and not one.startswith("."))
        for name in sorted(names):
            if name.endswith(".py") or name in SETTINGS_FILES:
                yield Path(folder, name)
