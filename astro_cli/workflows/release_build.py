"""What a release is made of on this machine: the image, the DAG files, and the commit they come from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from astro_cli.deploy.dag_bundle import pack_image
from astro_cli.domain.build_context import project_context
from astro_cli.domain.image import EDGE_LAYER, KUBERNETES_LAYER, project_image
from astro_cli.foundation import labels, process
from astro_cli.foundation.errors import GateError
from astro_cli.runtime.docker_images import ImageBuilder
from astro_cli.runtime.engine import PrepareOptions
from astro_cli.workflows.deployment import Built

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from astro_cli.domain.image import Layer
    from astro_cli.domain.project import Project
    from astro_cli.domain.releases import Release
    from astro_cli.domain.settings import Settings
    from astro_cli.runtime.docker import DockerEngine
    from astro_cli.runtime.engine import Report


_LAYER_TAGS = {KUBERNETES_LAYER: "tasks", EDGE_LAYER: "edge"}
ENVIRONMENT = ("Dockerfile", "packages.txt", "requirements.txt")


@dataclass(frozen=True)
class Revision:
    """The git commit of a project; empty outside a repository. `dirty` lists changed files."""

    commit: str = ""
    dirty: tuple[str, ...] = ()


def git_revision(root: Path) -> Revision:
    """The commit that the project stands on, and what differs from it."""
    try:
        head = process.run(["git", "-C", str(root), "rev-parse", "HEAD"])
        changed = process.run(
            ["git", "-C", str(root), "status", "--porcelain", "--untracked-files=normal", "."]
        )
    except OSError:  # no git here
        return Revision()
    if head.code or changed.code:
        return Revision()
    return Revision(head.lines[-1].strip(), tuple(line[3:] for line in changed.lines))


def require_clean(revision: Revision) -> None:
    """Refuse to deploy what is in no commit.

    Raises:
        GateError: the project is in no repository, or differs from its commit.
    """
    if not revision.commit:
        raise GateError(
            "the project is in no git repository", hint="commit it, or deploy without --require-clean"
        )
    if revision.dirty:
        raise GateError(
            "the project has changes that are not committed",
            hint="commit them, or deploy without --require-clean",
            details=revision.dirty[:20],
        )


def build(
    project: Project,
    engine: DockerEngine,
    settings: Settings,
    environ: Mapping[str, str],
    image: str | None,
    companions: Sequence[str],
    report: Report,
    *,
    layers: Sequence[Layer] = (),
) -> Built:
    """The project's image, whole: built if anything in it has changed.

    Args:
        image: a ready one on this machine's engine, instead of building.
        companions: which images the target needs besides.
        layers: what it gets on top.
    """
    builder = ImageBuilder(engine.reader, lambda: engine.api, environ, settings)
    options = PrepareOptions(image_name=image, whole=True)
    made = builder.prepare(project, f"deploy-{project.project_id}", options, report)
    for layer in layers:
        tag = project_image(project.name, f"{_LAYER_TAGS[layer]}-{project.project_id}")
        made = builder.with_layer(made, layer, tag, report)
    inspected = engine.reader.json(f"/images/{made.reference}/json")
    marks = inspected["Config"]["Labels"] or {}
    revision = git_revision(project.root)
    return Built(
        image_id=made.reference,
        # A ready image has been built elsewhere, from we do not know what.
        content=made.reference.removeprefix("sha256:") if image else marks[labels.INPUTS_HASH],
        airflow_version=made.airflow_version,
        heads=marks.get(labels.MIGRATION_HEADS, ""),
        companions=builder.companions(made.airflow_version, companions, report),
        files={} if image else dag_files(project.root),
        environment={} if image else environment_files(project.root),
        dags=pack_image(engine.api, made.reference, project.root, revision=revision.commit),
        revision=revision.commit,
        dirty=bool(revision.dirty),
        platform=f"{inspected['Os']}/{inspected['Architecture']}",
    )


def require_same_environment(current: Release, environment: Mapping[str, str]) -> None:
    """Refuse DAGs alone where what they stand on has changed since the running release.

    Args:
        environment: see `environment_files`; empty where it is not known.

    Raises:
        GateError: it has changed.
    """
    before = current.environment
    if not environment or not before:
        return
    changed = sorted(name for name in {*before, *environment} if before.get(name) != environment.get(name))
    if changed:
        raise GateError(
            f"`--dags` does not bring what changed since release {current.id}: {', '.join(changed)}",
            hint="`astro deploy` brings everything; `--skip-checks` deploys the DAGs all the same",
        )


def environment_files(root: Path) -> dict[str, str]:
    """The files that DAGs stand on, each with a hash of its content: they reach a host in an image only."""
    return _hashes(root, lambda name: name in ENVIRONMENT or name.startswith("plugins/"))


def dag_files(root: Path) -> dict[str, str]:
    """The files below `dags` that go into the image, each with a hash of its content."""
    return _hashes(root, lambda name: name.startswith("dags/"))


def _hashes(root: Path, wanted: Callable[[str], bool]) -> dict[str, str]:
    return {
        file.name: hashlib.sha256(file.path.read_bytes()).hexdigest()[:12]
        for file in project_context(root)
        if wanted(file.name) and file.path is not None and file.path.is_file()
    }
