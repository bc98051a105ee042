"""The workflow of `init`: decide what may be written where, then write what is missing."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from astro_cli.domain.airflow import DEFAULT_VERSION, PROJECT_FOLDERS, SUPPORTED_VERSIONS
from astro_cli.domain.project import check_name, locate, name_from, read_project
from astro_cli.domain.scaffold import DEFAULT_TEMPLATE, no_template, own_template, project_files
from astro_cli.domain.settings import PROJECT_FILE
from astro_cli.foundation.errors import AstroError, ProjectError, UsageError
from astro_cli.foundation.render import write_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path, PurePosixPath

    from astro_cli.domain.scaffold import Template

ID_BYTES = 5


@dataclass(frozen=True)
class InitReport:
    """What `init` did: paths below the project's folder."""

    name: str
    created: tuple[PurePosixPath, ...]
    kept: tuple[PurePosixPath, ...]


def init_project(
    root: Path,
    *,
    name: str | None,
    template: Template | None,
    airflow_version: str | None,
    may_fill: Callable[[], bool | None],
) -> InitReport:
    """Write the files of a new project that are not there yet. A project keeps its name and identity.

    Args:
        root: the project's folder; made if missing.
        name: the project's name; None takes the folder's.
        template: what to start from; None takes the default for a new project, and for one that is there already
            no examples: it gets back what every project has.
        airflow_version: None takes the default.
        may_fill: asked whether to go on in a folder that holds other files; None means nobody can be asked.

    Raises:
        ProjectError: the folder may not become a project; nothing was written.
    """
    version = DEFAULT_VERSION if airflow_version is None else airflow_version
    if version not in SUPPORTED_VERSIONS:
        raise UsageError(
            f"this astro has no engine for Airflow {version}",
            hint=f"choose from: {', '.join(SUPPORTED_VERSIONS)}",
        )
    if root.exists() and not root.is_dir():
        raise ProjectError(f"{root} is not a folder", hint="choose another name")
    if (root / PROJECT_FILE).exists():
        known = read_project(root)
        if name is not None and name != known.name:
            raise ProjectError(
                f"this project is called `{known.name}`; init never renames one",
                hint=f"change project.name in {PROJECT_FILE} yourself, or leave --name out",
            )
        if template is not None:
            _check_same(root, template)
        template = template or no_template()
        project_id, project_name = known.project_id, known.name
    else:
        _check_folder(root, may_fill)
        project_id = secrets.token_hex(ID_BYTES)
        project_name = check_name(name) if name is not None else name_from(root.absolute().name)
    files = project_files(
        template or own_template(DEFAULT_TEMPLATE),
        name=project_name,
        project_id=project_id,
        airflow_version=version,
    )
    # What makes the folder a project comes last: even a killed init leaves nothing that passes for a whole one.
    files.sort(key=lambda file: str(file.path) == str(PROJECT_FILE))
    written = write_files(root, files)
    if os.geteuid() == 0:
        _open_to_group(root)
    return InitReport(project_name, written.created, written.kept)


def _open_to_group(root: Path) -> None:
    """Let group 0 write: Airflow never runs as root, so root's tasks run as a user of root's group."""
    for name in PROJECT_FOLDERS:
        folder = root / name
        if folder.is_dir() and not folder.is_symlink():
            folder.chmod(folder.stat().st_mode | 0o070)


def _check_same(root: Path, template: Template) -> None:
    """Two templates in one project would be two halves: its configuration is written once."""
    dags = [path for path in template.files if path.parts[0] == "dags"]
    if dags and not any((root / path).exists() for path in dags):
        raise ProjectError(
            f"{root} is a project already, and not one of the template {template.name}",
            hint=f"`astro airflow init NAME --template {template.name}` makes a new folder",
        )


def _check_folder(root: Path, may_fill: Callable[[], bool | None]) -> None:
    surrounding = locate(root.absolute().parent)
    if surrounding is not None:
        reason = f"{root} is inside the project {surrounding}"
    elif root.exists() and any(entry.name != ".git" for entry in root.iterdir()):
        reason = f"{root} is not empty"
    else:
        return
    answer = may_fill()
    if answer is None:
        raise ProjectError(reason, hint="add `--force` to go on; existing files are never overwritten")
    if not answer:
        raise AstroError("nothing was written", hint="`astro airflow init NAME` makes a new folder")
