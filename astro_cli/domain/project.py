"""Finds the user's project, and reads what identifies it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from astro_cli.domain.settings import PROJECT_FILE
from astro_cli.foundation import yamlfile
from astro_cli.foundation.errors import ProjectError

if TYPE_CHECKING:
    from pathlib import Path

NAME_MAX = 50
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{NAME_MAX - 1}}}", re.ASCII)
_NAME_RULE = f"up to {NAME_MAX} letters, digits, - and _, starting with a letter or digit"
_ID = re.compile(r"[a-z0-9]{6,40}")


@dataclass(frozen=True)
class Project:
    """A folder with an `.astro/config.yaml`.

    Attributes:
        root: its absolute path.
        project_id: written once by `init`; all checkouts share it.
        name: for people.
    """

    root: Path
    project_id: str
    name: str

    @property
    def dockerfile(self) -> Path:
        """What the project's image is built from."""
        return self.root / "Dockerfile"


def locate(start: Path) -> Path | None:
    """The nearest folder at or above `start` that is a project, or None."""
    return next((folder for folder in (start, *start.parents) if (folder / PROJECT_FILE).is_file()), None)


def find_project(start: Path) -> Project:
    """The project at or above `start`.

    Raises:
        ProjectError: there is none, or its configuration is invalid.
    """
    root = locate(start)
    if root is None:
        raise ProjectError(
            f"{start} is not inside an astro project",
            hint="make one with `astro airflow init`, or name one with `-C FOLDER`",
        )
    return read_project(root)


def read_project(root: Path) -> Project:
    """The project in `root`.

    Raises:
        ProjectError: its configuration is invalid; the message names file and line.
    """
    node = yamlfile.load(root / PROJECT_FILE, name=str(PROJECT_FILE))
    entries = node.entries()
    if "project" not in entries:
        raise node.error('missing key "project"', hint="write it anew with `astro airflow init --force`")
    fields = entries["project"].mapping(required=("id", "name"))
    name, project_id = fields["name"].string(), fields["id"].string()
    if not _NAME.fullmatch(name):
        raise fields["name"].error(
            f"project.name must be {_NAME_RULE}", hint=f"for example {name_from(name)}"
        )
    if not _ID.fullmatch(project_id):
        raise fields["id"].error(
            "project.id must be 6 to 40 lower-case letters and digits, as `init` wrote it"
        )
    return Project(root=root, project_id=project_id, name=name)


def check_name(name: str) -> str:
    """`name` itself, if it may name a project.

    Raises:
        ProjectError: it may not; the hint has a name that may.
    """
    if not _NAME.fullmatch(name):
        raise ProjectError(
            f'"{name}" cannot name a project: use {_NAME_RULE}',
            hint=f"for example `--name {name_from(name)}`",
        )
    return name


def name_from(folder: str) -> str:
    """A project name made from a folder's: accents dropped, everything else that is not allowed becomes `-`.

    `Café 2.0` gives `Cafe-2-0`; a folder without any usable letter gives `project`.
    """
    import unicodedata

    ascii_only = unicodedata.normalize("NFKD", folder).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^A-Za-z0-9_]+", "-", ascii_only).lstrip("-_")[:NAME_MAX].rstrip("-_")
    return slug or "project"
