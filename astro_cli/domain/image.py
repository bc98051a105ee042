"""What an image is called, what it is labelled with, and when it must be built. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from astro_cli.domain.airflow import DEPLOYED_CODE, POSTGRES_MAJOR
from astro_cli.domain.build_context import ContextFile, fingerprint
from astro_cli.foundation import labels
from astro_cli.foundation.hashing import digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from astro_cli.domain.host_settings import HostSettings

_PACKAGE = Path(__file__).parents[1]
_FROM_ENGINE = re.compile(r"\s*FROM\s+(?:--\S+\s+)*localhost/astro/airflow:(\S+)", re.IGNORECASE)


def images_folder() -> Path:
    """The folder of the engine's Dockerfile and lock: in the installed package, or beside it in a checkout."""
    inside = _PACKAGE / "images"
    return inside if inside.is_dir() else _PACKAGE.parent / "images"


def dockerfile_version(dockerfile: str) -> str | None:
    """The Airflow version that a Dockerfile's FROM line asks the engine image for; None with another base."""
    found = (_FROM_ENGINE.match(line) for line in dockerfile.splitlines())
    return next((match.group(1) for match in found if match), None)


def engine_image(airflow_version: str) -> str:
    """The name of the engine image for an Airflow version."""
    return f"localhost/astro/airflow:{airflow_version}"


def postgres_image(airflow_version: str) -> str:
    """The name of the metadata-database image whose cluster is migrated for an Airflow version."""
    return f"localhost/astro/postgres:{POSTGRES_MAJOR}-airflow{airflow_version}"


SERVICES_IMAGE = "localhost/astro/services:latest"
"""The name of the image behind the services that astro brings for a project's pipelines."""

BROKER_IMAGE = "localhost/astro/broker:latest"
"""The name of the image of the Redis between a sandbox's scheduler and its Celery workers."""

PROXY_IMAGE = "localhost/astro/proxy:latest"
"""The name of the image that stands in front of a deployment's api-servers."""


def project_image(project_name: str, purpose: str) -> str:
    """The name of a project's image, for people: astro finds images by their labels and ids.

    Args:
        purpose: what it is for: the id of a sandbox, or a word and the id of the project.
    """
    return f"localhost/astro/project-{project_name.lower()}:{purpose[:12]}"


@dataclass(frozen=True)
class Layer:
    """What only some deployments need: a layer on the project's image, which nobody else gets.

    Attributes:
        name: of the layer, and of its lock beside `images/Dockerfile`.
        provider: the module that is installed, unless the project brings its own.
        purpose: for whom it is.
        code: a folder of the package whose programs go into the image as well; empty for none.
    """

    name: str
    provider: str
    purpose: str
    code: str = ""

    @property
    def lock(self) -> str:
        """The file that pins what is installed."""
        return f"{self.name}.lock"


KUBERNETES_LAYER = Layer("kubernetes", "airflow.providers.cncf.kubernetes", "KubernetesExecutor")
EDGE_LAYER = Layer("edge", "airflow.providers.edge3", "edge workers", code="deploy/edge/inside")
_ENTRIES = {"airflow.plugins": "astro_edge:EdgePlugin", "airflow.policy": "astro_edge_policy"}
"""By which Airflow finds what it has to load of them."""


def layer_files(layer: Layer) -> tuple[ContextFile, ...]:
    """The build context of a layer."""
    files = [ContextFile(layer.lock, images_folder() / layer.lock)]
    if layer.code:
        found = sorted((_PACKAGE / layer.code).glob("[!_]*.py"))
        files += [ContextFile(f"code/{path.name}", path) for path in found]
        about = f"Metadata-Version: 2.1\nName: astro-{layer.name}\nVersion: 1\n"
        folder = f"code/astro_{layer.name}-1.dist-info"
        entries = "".join(f"[{group}]\nastro_edge = {place}\n" for group, place in _ENTRIES.items())
        files += [
            ContextFile(f"{folder}/METADATA", content=about.encode()),
            ContextFile(f"{folder}/entry_points.txt", content=entries.encode()),
        ]
    return tuple(files)


def layer_dockerfile(layer: Layer, base: str, user: str) -> str:
    """Builds a layer on top of another image.

    Args:
        user: the other image's.
    """
    python = "/opt/venv/bin/python"
    options = f"--python {python} --no-deps --require-hashes --compile-bytecode"
    install = f"uv pip install {options} -r /tmp/{layer.lock}"
    code = f"COPY code/ {DEPLOYED_CODE}/\n" if layer.code else ""
    return (
        f"FROM {base}\nUSER root\nCOPY {layer.lock} /tmp/{layer.lock}\n"
        f"RUN {python} -c 'import {layer.provider}' 2>/dev/null"
        f' || UV_CACHE_DIR="${{ASTRO_BUILD_CACHE:-/tmp}}/uv" UV_LINK_MODE=copy {install}\n'
        f"{code}USER {user}\n"
    )


def engine_labels(version: str, airflow_version: str, migrations: str) -> dict[str, str]:
    """The labels of the images of `images/Dockerfile`.

    Args:
        version: of astro.
        airflow_version: that the lock pins.
        migrations: the text of `images/migrations.json`.
    """
    return {
        labels.ASTRO_VERSION: version,
        labels.AIRFLOW_VERSION: airflow_version,
        labels.MIGRATION_HEADS: ",".join(sorted(json.loads(migrations)["heads"])),
    }


def inputs_hash(
    dockerfile: str,
    files: Iterable[ContextFile],
    *,
    engine_image_id: str,
    settings: HostSettings,
    arguments: Mapping[str, str] | None = None,
    mounted: Sequence[str] = (),
) -> str:
    """A hash that changes exactly when a build could give another image.

    Args:
        dockerfile: its text as the user wrote it.
        files: the context; large files count by size and time.
        engine_image_id: of the image that the project's starts from.
        settings: of the host.
        arguments: build arguments of the project.
        mounted: folders that a sandbox mounts over the image's, whose content therefore needs no build.
    """
    skipped = tuple(f"{folder.strip('/')}/" for folder in mounted)
    head = json.dumps([dockerfile, engine_image_id, settings.digest(), sorted((arguments or {}).items())])
    parts = (
        (file.name.encode(), fingerprint(file)) for file in files if not f"{file.name}/".startswith(skipped)
    )
    return digest(chain([(b"", head.encode())], parts))
