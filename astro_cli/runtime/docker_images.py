"""Decides which images a project needs, and has those built whose inputs have changed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import astro_cli
from astro_cli.domain import image
from astro_cli.domain.airflow import PROJECT_FOLDERS, SUPPORTED_VERSIONS
from astro_cli.domain.build_context import engine_context, project_context
from astro_cli.domain.host_settings import HostSettings, host_settings
from astro_cli.foundation import labels
from astro_cli.foundation.errors import AstroError, ProjectError
from astro_cli.foundation.paths import log_dir, make_private_dir
from astro_cli.runtime.build import BuildEvent, BuildRequest, build
from astro_cli.runtime.engine import Environment
from astro_cli.runtime.engine_http import NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from astro_cli.domain.image import Layer
    from astro_cli.domain.project import Project
    from astro_cli.domain.settings import Settings
    from astro_cli.runtime.build import BuildClient
    from astro_cli.runtime.docker_api import DockerApi
    from astro_cli.runtime.engine import PrepareOptions, Report
    from astro_cli.runtime.engine_http import EngineReader

PACKAGE = Path(astro_cli.__file__).parent
_FROM = re.compile(r"^\s*FROM\s+\S", re.IGNORECASE | re.MULTILINE)


class ImageBuilder:
    """Prepares images for one engine; the SDK is connected to only if something must be built."""

    def __init__(
        self,
        reader: EngineReader,
        api: Callable[[], DockerApi],
        environ: Mapping[str, str],
        settings: Settings,
    ) -> None:
        self._reader = reader
        self._api = api
        self._settings = settings
        self._host = host_settings(environ, apt_mirror=settings.text("build.apt_mirror"))

    def prepare(
        self, project: Project, sandbox_id: str, options: PrepareOptions, report: Report
    ) -> Environment:
        """The project's image, and the database image for its Airflow; built if their inputs changed.

        Raises:
            ProjectError: something of the user's is at fault: Dockerfile, requirement, package, base image.
        """
        if options.image_name is not None:
            return self._ready_image(options.image_name, report)
        dockerfile = _read_dockerfile(project)
        version = image.dockerfile_version(dockerfile)
        engine_id = self._engine_images(version, report) if version else ""
        files = project_context(project.root)
        inputs = image.inputs_hash(
            dockerfile,
            files,
            engine_image_id=engine_id,
            settings=self._host,
            mounted=() if options.whole else PROJECT_FOLDERS,
        )
        found = None if options.force else self._find(sandbox_id, inputs)
        if found is not None:
            return Environment(found["Id"], _airflow_version(found, project.dockerfile.name), created=False)
        request = BuildRequest(
            dockerfile=dockerfile,
            files=files,
            tags=(image.project_image(project.name, sandbox_id),),
            labels={
                labels.SANDBOX: sandbox_id,
                labels.PROJECT: project.project_id,
                labels.NAME: project.name,
                labels.PATH: str(project.root),
                labels.INPUTS_HASH: inputs,
            },
            settings=self._host,
            no_cache=options.no_cache,
        )
        image_id = self._build(request, f"project-{sandbox_id}", "the project's image", report)
        return self._environment(image_id, project.dockerfile.name, report, created=True)

    def _ready_image(self, name: str, report: Report) -> Environment:
        try:
            image_id = str(self._reader.json(f"/images/{name}/json")["Id"])
        except NotFound as exc:
            raise ProjectError(
                f"there is no image `{name}` on this engine",
                hint="build or pull it first, or name none to build the project's own",
            ) from exc
        return self._environment(image_id, name, report, created=False)

    def _environment(self, image_id: str, name: str, report: Report, *, created: bool) -> Environment:
        version = _airflow_version(self._reader.json(f"/images/{image_id}/json"), name)
        self._engine_images(version, report)
        return Environment(image_id, version, created=created)

    def with_layer(self, made: Environment, layer: Layer, tag: str, report: Report) -> Environment:
        """An image with a layer on top.

        Args:
            tag: name of the new one.
        """
        base = self._reader.json(f"/images/{made.reference}/json")
        below = f"{tag}-base"
        dockerfile = image.layer_dockerfile(layer, below, base["Config"].get("User") or "root")
        files = image.layer_files(layer)
        origin = _labels(base).get(labels.INPUTS_HASH) or made.reference
        inputs = image.inputs_hash(dockerfile, files, engine_image_id=origin, settings=self._host)
        known = self._inspect(tag)
        if known is not None and _labels(known).get(labels.INPUTS_HASH) == inputs:
            return Environment(str(known["Id"]), made.airflow_version, created=False)
        request = BuildRequest(
            dockerfile, files, (tag,), labels={labels.INPUTS_HASH: inputs}, settings=self._host
        )
        self._api().tag(made.reference, below)
        try:
            image_id = self._build(request, layer.name, f"the layer for {layer.purpose}", report)
        finally:
            self._api().untag(below)
        return Environment(image_id, made.airflow_version, created=True)

    def companions(self, version: str, names: Sequence[str], report: Report) -> dict[str, str]:
        """Ids of the images that stand beside Airflow's in a deployment, such as `postgres` and `proxy`."""
        return {name: self._engine_image(name, version, report) for name in names}

    def stand_ins(self, version: str, report: Report) -> str:
        """The id of the image behind the services that astro brings."""
        return self._engine_image("services", version, report)

    def broker(self, version: str, report: Report) -> str:
        """The id of the image of Celery's broker."""
        return self._engine_image("broker", version, report)

    def pulled(self, name: str, report: Report) -> str:
        """The id of somebody else's image, pulled if this engine does not have it.

        Raises:
            ProjectError: there is none of that name, or its registry refuses it.
        """
        known = self._inspect(name)
        if known is None:
            report.step(f"pull {name}")
            repository, _, tag = (
                name.rpartition(":") if ":" in name.rpartition("/")[2] else (name, "", "latest")
            )
            reference = name if "@" in name else f"{repository}:{tag}"
            try:
                for told in self._api().pull(reference):
                    if "error" in told:
                        raise ProjectError(str(told["error"]))
                    report.detail(f"{told.get('status', '')} {told.get('id', '')}".strip())
            except AstroError as exc:
                raise ProjectError(
                    f"the image {name} cannot be had: {exc.message}",
                    hint=f"correct its name in .astro/config.yaml, or see what `docker pull {name}` says",
                ) from exc
            known = self._inspect(name)
        if known is None:
            raise ProjectError(f"the image {name} was pulled and is not there")
        return str(known["Id"])

    def _engine_images(self, version: str, report: Report) -> str:
        """Have the images of `images/Dockerfile` that a sandbox needs; returns the engine image's id."""
        engine_id = self._engine_image("airflow", version, report)
        self._engine_image("postgres", version, report)
        return engine_id

    def _engine_image(self, target: str, version: str, report: Report) -> str:
        """Have one image of `images/Dockerfile` for a version of Airflow; returns its id."""
        if version not in SUPPORTED_VERSIONS:
            raise ProjectError(
                f"this astro has no engine for Airflow {version}",
                hint=f"write one of {', '.join(SUPPORTED_VERSIONS)} into the Dockerfile's FROM line",
            )
        folder = image.images_folder()
        dockerfile = (folder / "Dockerfile").read_text(encoding="utf-8")
        files = engine_context(folder, PACKAGE)
        base = self._settings.text("image.base") or ""
        arguments = {"BASE_IMAGE": base, "AIRFLOW_VERSION": version}
        inputs = image.inputs_hash(
            dockerfile, files, engine_image_id="", settings=HostSettings(), arguments=arguments
        )
        marks = image.engine_labels(
            astro_cli.__version__, version, (folder / "migrations.json").read_text(encoding="utf-8")
        )
        name, what = {
            "airflow": (image.engine_image(version), f"the engine image for Airflow {version} (once)"),
            "postgres": (image.postgres_image(version), "the database image (once)"),
            "proxy": (image.PROXY_IMAGE, "the image of the proxy (once)"),
            "broker": (image.BROKER_IMAGE, "the image of Celery's broker (once)"),
            "services": (image.SERVICES_IMAGE, "the image of the project's services (once)"),
        }[target]
        known = self._inspect(name)
        if known is not None and _labels(known).get(labels.INPUTS_HASH) == inputs:
            return str(known["Id"])
        request = BuildRequest(
            dockerfile=dockerfile,
            files=files,
            tags=(name,),
            target=target,
            labels={**marks, labels.INPUTS_HASH: inputs},
            arguments=arguments,
            settings=self._host,
        )
        try:
            return self._build(request, f"engine-{target}", what, report)
        except ProjectError as exc:
            if "base image" in exc.message:
                origin = self._settings.origin_of("image.base").origin
                exc.hint = f"check the setting image.base ({origin}), and that `docker pull {base}` works"
            raise

    def _build(self, request: BuildRequest, log_name: str, what: str, report: Report) -> str:
        """Build one image; the whole log is kept beside the others in the log folder."""
        report.step(f"build {what}")
        path = make_private_dir(log_dir()) / f"build-{log_name}.log"

        def show(event: BuildEvent) -> None:
            if event.kind == "started" and not event.step.startswith("[internal]"):
                report.step(f"build: {event.step}")
            elif event.kind == "line":
                report.detail(event.text)

        try:
            with path.open("w", encoding="utf-8") as log:
                client = cast("BuildClient", self._api().client)
                return build(client, request, log=log, on_event=show).image_id
        except AstroError as exc:
            exc.details = (*exc.details, f"the whole log: {path}")
            raise

    def _find(self, sandbox_id: str, inputs: str) -> dict[str, Any] | None:
        # One label only: Podman finds nothing by two.
        filters = json.dumps({"label": [f"{labels.SANDBOX}={sandbox_id}"]})
        found = self._reader.json("/images/json", filters=filters)
        return next((dict(each) for each in found if _labels(each).get(labels.INPUTS_HASH) == inputs), None)

    def _inspect(self, name: str) -> dict[str, Any] | None:
        try:
            return dict(self._reader.json(f"/images/{name}/json"))
        except NotFound:
            return None


def _read_dockerfile(project: Project) -> str:
    try:
        text = project.dockerfile.read_text(encoding="utf-8")
    except FileNotFoundError as exc:
        raise ProjectError(
            "the project has no Dockerfile", hint="write the missing files with `astro airflow init`"
        ) from exc
    except UnicodeDecodeError as exc:
        raise ProjectError("the Dockerfile cannot be read: it is not UTF-8 text") from exc
    except OSError as exc:
        raise ProjectError(f"the Dockerfile cannot be read: {exc.strerror}") from exc
    if not _FROM.search(text):
        raise ProjectError(
            "the Dockerfile has no FROM line",
            hint=f"begin it with `FROM {image.engine_image(SUPPORTED_VERSIONS[0])}`",
        )
    return text


def _labels(inspected: Mapping[str, Any]) -> Mapping[str, str]:
    """The labels of an image, from either of the engine's two ways to describe one."""
    found: Mapping[str, str] = inspected.get("Labels") or (inspected.get("Config") or {}).get("Labels") or {}
    return found


def _airflow_version(inspected: Mapping[str, Any], name: str) -> str:
    version = _labels(inspected).get(labels.AIRFLOW_VERSION)
    if not version:
        raise ProjectError(
            f"the image of `{name}` is not built on astro's engine image",
            hint=f"begin the Dockerfile with `FROM {image.engine_image(SUPPORTED_VERSIONS[0])}`",
        )
    return version
