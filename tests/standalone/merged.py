"""All templates in one project: their files are disjoint, so that one sandbox serves the tests of all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from astro_cli.domain.scaffold import list_templates, no_template, own_template
from astro_cli.workflows.project_init import init_project

ROUTES = "services/stub/routes.yaml"
EACH = {"README.md", ".astro/config.yaml", "requirements.txt", "airflow_settings.yaml", ROUTES}
"""What a template may have although another one has it, too."""


def own_files(template: str) -> dict[str, bytes]:
    """A template's files by their path, without those that each may have."""
    files = own_template(template).files.items()
    return {str(path): entry.content for path, entry in files if str(path) not in EACH}


def merge(root: Path) -> None:
    """Make a project in `root` that holds every template."""
    init_project(root, name=None, template=no_template(), airflow_version=None, may_fill=lambda: True)
    services: dict[str, dict[str, Any]] = {}
    objects: dict[str, list[Any]] = {}
    requirements: set[str] = set()
    routes: list[Any] = []
    for name in list_templates():
        for path, content in own_files(name).items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
        texts = {
            str(path): entry.content.decode()
            for path, entry in own_template(name).files.items()
            if str(path) in EACH
        }
        for service, keys in (
            yaml.safe_load(texts.get(".astro/config.yaml", "{}")).get("services", {}).items()
        ):
            _add(services.setdefault(service, {}), keys)
        for kind, entries in (
            yaml.safe_load(texts.get("airflow_settings.yaml", "{}")).get("airflow", {}).items()
        ):
            objects.setdefault(kind, []).extend(entries)
        routes += yaml.safe_load(texts.get(ROUTES, "{}")).get("routes", [])
        requirements |= {
            line for line in texts.get("requirements.txt", "").splitlines() if line[:1] not in ("", "#")
        }
    config = root / ".astro/config.yaml"
    config.write_text(config.read_text() + yaml.safe_dump({"services": services}))
    (root / "airflow_settings.yaml").write_text(yaml.safe_dump({"airflow": objects}))
    (root / ROUTES).write_text(yaml.safe_dump({"routes": routes}, sort_keys=False))
    (root / "requirements.txt").write_text("\n".join(sorted(requirements)) + "\n")


def _add(service: dict[str, Any], keys: dict[str, Any]) -> None:
    for key, value in keys.items():
        if isinstance(value, dict):
            service.setdefault(key, {}).update(value)
        elif isinstance(value, list):
            service[key] = sorted({*service.get(key, []), *value})
        elif key == "seed" and service.get(key, value) != value:
            service[key] = str(Path(value).parent)  # a folder, with the files of all
        else:
            service[key] = value
