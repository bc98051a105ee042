"""What `init` writes: a template, turned into a project's files.

A template is a folder of files. They are copied as they are, except `*.j2`, which are rendered; a leading dot
may be stored as `dot-`, so that neither git nor a package builder takes a template's `.gitignore` for its own. What
every project has (`common/`) is added where a template has no such file of its own, and `project:` in
`.astro/config.yaml` is always ours: a template only adds what stands beside it, such as `services:`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from astro_cli.domain.project import check_name
from astro_cli.domain.settings import PROJECT_FILE
from astro_cli.foundation import yamlfile
from astro_cli.foundation.errors import ProjectError, UsageError
from astro_cli.foundation.render import File, render

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

TEMPLATES = Path(__file__).parents[1] / "templates"
COMMON = TEMPLATES / "common"
LAYOUT = TEMPLATES / "layout.md"
"""The section of a README on folders and commands, which a template's `README.md.j2` takes in as `{{ layout }}`."""
DEFAULT_TEMPLATE = "default"
ABOUT = "template.yaml"
"""A template's own description; it does not become part of the project."""

MAX_FILES = 1000
MAX_BYTES = 10 * 1024 * 1024

_CONFIG = PurePosixPath(PROJECT_FILE)
_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+(?:(?:a|b|rc)[0-9]+)?", re.ASCII)
_SECRET = {".env", "airflow_settings.yaml"}


@dataclass(frozen=True)
class Entry:
    """One file of a template as it is stored: its path there, with `/`, and what it holds."""

    path: str
    content: bytes
    executable: bool = False


@dataclass(frozen=True)
class Template:
    """Something to start a project from.

    Attributes:
        name: as it was asked for.
        summary: one line; may be empty.
        seconds: from a finished start to the first green run, as measured; None if nobody has.
        services: the names of the stand-ins that its configuration declares.
        files: by their path in the project; still to be rendered if the stored name ends in `.j2`.
    """

    name: str
    summary: str
    seconds: int | None
    services: tuple[str, ...]
    files: Mapping[PurePosixPath, Entry]


def list_templates() -> list[str]:
    """The names of the templates that come with astro, the default one first."""
    names = (folder.name for folder in TEMPLATES.iterdir() if (folder / ABOUT).is_file())
    return sorted(names, key=lambda name: (name != DEFAULT_TEMPLATE, name))


def own_template(name: str) -> Template:
    """The template of this name that comes with astro.

    Raises:
        UsageError: there is none.
    """
    known = list_templates()
    if name not in known:
        import difflib

        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"there is: {', '.join(known)}"
        raise UsageError(f'no template is called "{name}"', hint=hint)
    return make_template(name, _entries(TEMPLATES / name))


def no_template() -> Template:
    """What every project has, and no examples."""
    return Template("", "", None, (), {})


def make_template(name: str, entries: Iterable[Entry]) -> Template:
    """A template from its stored files.

    Raises:
        ProjectError: a file has a name that no project may have, or there is too much.
    """
    files: dict[PurePosixPath, Entry] = {}
    about = None
    size = 0
    for entry in entries:
        if entry.path == ABOUT:
            about = entry
            continue
        path = _project_path(name, entry.path)
        if path in files:
            raise _refused(name, entry.path, f"becomes the same file as {files[path].path}")
        files[path] = entry
        size += len(entry.content)
        if len(files) > MAX_FILES or size > MAX_BYTES:
            raise ProjectError(
                f"template {name} is too large: more than {MAX_FILES} files, or {MAX_BYTES // 1024**2} MB",
                hint="is it the folder that you meant?",
            )
    if not files:
        raise ProjectError(f"template {name} holds no files", hint="is it the folder that you meant?")
    summary, seconds = _about(about)
    return Template(name, summary, seconds, _services(files.get(_CONFIG)), files)


def project_files(template: Template, *, name: str, project_id: str, airflow_version: str) -> list[File]:
    """The files of a new project, sorted by path.

    Args:
        template: what to start from.
        name: the project's name, see `project.check_name`.
        project_id: the identity that is written once and never changes.
        airflow_version: full version of Airflow, such as `3.3.2`.

    Raises:
        UsageError: malformed version.
        ProjectError: a name that breaks the rule.
        AstroError: a file of the template cannot be rendered.
    """
    if not _VERSION.fullmatch(airflow_version):
        raise UsageError(
            f'"{airflow_version}" is not a version of Airflow', hint="write it in full, such as 3.3.2"
        )
    values = {"name": check_name(name), "project_id": project_id, "airflow_version": airflow_version}
    values["layout"] = LAYOUT.read_text(encoding="utf-8")
    common = {_project_path("common", entry.path): entry for entry in _entries(COMMON)}
    files = {
        path: _file(path, entry, values, template.name)
        for path, entry in (common | dict(template.files)).items()
    }
    if _CONFIG in template.files:
        header = _file(_CONFIG, common[_CONFIG], values, "common").text
        files[_CONFIG] = File(_CONFIG, f"{header}\n{_without_project(_text(template.files[_CONFIG]))}")
    return sorted(files.values(), key=lambda file: file.path)


def _entries(folder: Path) -> Iterator[Entry]:
    for path in sorted(folder.rglob("*")):
        # Installers compile every .py file they find, templates included.
        if path.is_file() and "__pycache__" not in path.parts:
            yield Entry(path.relative_to(folder).as_posix(), path.read_bytes())


def _project_path(template: str, stored: str) -> PurePosixPath:
    """Where a stored file belongs in a project.

    Raises:
        ProjectError: nowhere.
    """
    parts = [re.sub(r"^dot-", ".", part) for part in stored.split("/")]
    parts[-1] = parts[-1].removesuffix(".j2")
    path = PurePosixPath(*parts)
    if any(part in ("", ".", "..") for part in parts):
        raise _refused(template, stored, "leads out of the template")
    if not stored.isprintable() or "\\" in stored:
        raise _refused(template, stored, "has a name with characters that no file should have")
    if any(part.lower() == ".git" for part in parts):
        raise _refused(template, stored, "belongs to git")
    if parts[0] == ".astro" and path != _CONFIG:
        raise _refused(template, stored, "belongs to one project alone")
    return path


def _refused(template: str, stored: str, reason: str) -> ProjectError:
    shown = stored.encode("unicode_escape").decode()
    return ProjectError(f"template {template}: {shown} {reason}", hint="nothing was written")


def _about(entry: Entry | None) -> tuple[str, int | None]:
    if entry is None:
        return "", None
    fields = yamlfile.parse(_text(entry), name=ABOUT).mapping(optional=("summary", "seconds"))
    summary = " ".join(fields["summary"].string().split()) if "summary" in fields else ""
    return summary, fields["seconds"].integer(0, 3600) if "seconds" in fields else None


def _services(config: Entry | None) -> tuple[str, ...]:
    if config is None or config.path.endswith(".j2"):
        return ()
    entries = yamlfile.parse(_text(config), name=str(_CONFIG)).entries()
    return tuple(entries["services"].entries()) if "services" in entries else ()


def _without_project(config: str) -> str:
    """A configuration without the section that says which project it is."""
    kept = []
    inside = False
    for line in config.splitlines(keepends=True):
        if line.startswith("project:"):
            inside = True
        elif line.strip() and not line[0].isspace():
            inside = False
        if not inside:
            kept.append(line)
    return "".join(kept).lstrip("\n")


def _file(path: PurePosixPath, entry: Entry, values: Mapping[str, str], template: str) -> File:
    content: str | bytes = entry.content
    if entry.path.endswith(".j2"):
        content = render(_text(entry), values, name=f"{template}/{entry.path}")
    mode = 0o600 if path.name in _SECRET else 0o755 if entry.executable else 0o644
    return File(path, content, mode)


def _text(entry: Entry) -> str:
    try:
        return entry.content.decode()
    except UnicodeDecodeError as exc:
        raise ProjectError(f"{entry.path} of the template is no UTF-8 text: {exc.reason}") from exc
