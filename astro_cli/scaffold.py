"""What `init` writes: a template from the package, turned into a project's files.

A template is a folder below `astro_cli/templates/` that holds a `dot-astro`. Its files are copied as they are,
except `*.j2`, which are rendered. A leading dot is stored as `dot-`, so that neither git nor a package builder
takes a template's `.gitignore` or `.dockerignore` for its own.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path, PurePosixPath

from astro_cli.errors import UsageError
from astro_cli.project import check_name
from astro_cli.render import File, render

TEMPLATES = Path(__file__).parent / "templates"
DEFAULT_TEMPLATE = "default"

_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+(?:(?:a|b|rc)[0-9]+)?", re.ASCII)
_SECRET = {".env", "airflow_settings.yaml"}


def list_templates() -> list[str]:
    """The names that `project_files` knows, the default one first."""
    names = (folder.name for folder in TEMPLATES.iterdir() if (folder / "dot-astro").is_dir())
    return sorted(names, key=lambda name: (name != DEFAULT_TEMPLATE, name))


def project_files(template: str, *, name: str, project_id: str, airflow_version: str) -> list[File]:
    """The files of a new project, sorted by path.

    Args:
        template: one of `list_templates()`.
        name: the project's name, see `project.check_name`.
        project_id: the identity that is written once and never changes.
        airflow_version: full version of Airflow, such as `3.3.2`.

    Raises:
        UsageError: unknown template or malformed version.
        ProjectError: a name that breaks the rule.
    """
    known = list_templates()
    if template not in known:
        near = difflib.get_close_matches(template, known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"there is: {', '.join(known)}"
        raise UsageError(f'no template is called "{template}"', hint=hint)
    if not _VERSION.fullmatch(airflow_version):
        raise UsageError(
            f'"{airflow_version}" is not a version of Airflow', hint="write it in full, such as 3.3.2"
        )
    values = {"name": check_name(name), "project_id": project_id, "airflow_version": airflow_version}
    folder = TEMPLATES / template
    return sorted(
        (_file(folder, source, values) for source in folder.rglob("*") if _is_source(source)),
        key=lambda file: file.path,
    )


def _is_source(path: Path) -> bool:
    # Installers compile every .py file they find, templates included.
    return path.is_file() and "__pycache__" not in path.parts


def _file(folder: Path, source: Path, values: dict[str, str]) -> File:
    parts = [re.sub(r"^dot-", ".", part) for part in source.relative_to(folder).parts]
    content = source.read_text(encoding="utf-8")
    if parts[-1].endswith(".j2"):
        parts[-1] = parts[-1].removesuffix(".j2")
        content = render(content, values, name=f"{folder.name}/{source.relative_to(folder).as_posix()}")
    path = PurePosixPath(*parts)
    return File(path, content, mode=0o600 if path.name in _SECRET else 0o644)
