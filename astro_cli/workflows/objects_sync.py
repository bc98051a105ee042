"""The workflows of `object`: the project's connections, variables and pools, to and from its sandbox over REST."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from astro_cli.domain.envfile import load_env
from astro_cli.domain.objects import Objects, api_bodies, parse_objects, raw_entries
from astro_cli.domain.objects_export import Comparison, Exported, Template, compare, export, from_api
from astro_cli.foundation.errors import ProjectError
from astro_cli.foundation.yamlfile import read_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from astro_cli.airflow_api import AirflowApi

COLLECTIONS = ("connections", "variables", "pools")
FILE = "airflow_settings.yaml"


@dataclass(frozen=True)
class ObjectsFile:
    """An objects file and the environment files whose values its references take.

    Attributes:
        path: the file itself.
        env_files: later ones win; empty means the project's `.env` if it exists, unless `dotenv` is False.
        collections: those that count.
    """

    root: Path
    path: Path
    environ: Mapping[str, str]
    env_files: Sequence[Path] = ()
    collections: tuple[str, ...] = COLLECTIONS
    dotenv: bool = True

    def environment(self) -> dict[str, str]:
        """This process's environment with that of the environment files on top, as `start` sees it."""
        usual = [path for path in [self.root / ".env"] if self.dotenv and path.exists()]
        files = self.env_files or usual
        known = dict(self.environ)
        for file in files:
            known |= load_env(file, known, name=file.name)
        return known

    def read(self) -> Objects:
        """What the file says, every reference replaced.

        Raises:
            ProjectError: missing or invalid, with the line.
        """
        return self._chosen(parse_objects(self._text(), self.environment(), name=self.path.name))

    def template(self) -> Template:
        """What the file says, with and without its references; an empty one when there is no file."""
        if not self.path.exists():
            return Template()
        environment, text, name = self.environment(), self._text(), self.path.name
        return Template(
            parse_objects(text, environment, name=name), raw_entries(text, environment, name=name)
        )

    def _chosen(self, objects: Objects) -> Objects:
        return Objects(**{name: getattr(objects, name) for name in self.collections})

    def _text(self) -> str:
        hint = (
            "write it (`astro airflow init --force` makes an empty one), or name another with --settings-file"
        )
        return read_text(self.path, name=self.path.name, hint=hint)


def import_objects(api: AirflowApi, objects: Objects) -> None:
    """Write objects to the sandbox; what only the sandbox has stays."""
    for collection, entities in api_bodies(objects).items():
        api.upsert(collection, entities)


def export_objects(
    api: AirflowApi, file: ObjectsFile, *, show_secrets: bool
) -> tuple[Exported, Objects, str | None]:
    """The sandbox's objects as a file; and why the references of the present file could not be kept, if so."""
    problem = None
    try:
        template = file.template()
    except ProjectError as exc:
        template, problem = Template(), exc.message
    found = _found(api, file)
    return export(found, template, show_secrets=show_secrets), found, problem


def compare_objects(api: AirflowApi, file: ObjectsFile) -> Comparison:
    """Where the file and the sandbox differ."""
    wanted = file.read()
    return compare(wanted, _found(api, file))


def _found(api: AirflowApi, file: ObjectsFile) -> Objects:
    return from_api({name: api.objects(name) for name in file.collections})
