"""DAG-only deploys: packs a project's DAGs into a small OCI artifact and says which one new runs take.

Its other half is `inside/astro_bundle.py`, which Airflow runs. A version's name is the digest of its manifest;
the same files always make the same layer.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol, cast

from astro_cli.domain.airflow import HOME, UID
from astro_cli.domain.build_context import project_context, write_context
from astro_cli.domain.repository import parse_repository
from astro_cli.foundation.errors import AstroError, ProjectError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager

    import pathspec

    from astro_cli.deploy.registry import Registry
    from astro_cli.domain.build_context import ContextFile
    from astro_cli.runtime.docker_api import DockerApi, VolumeDoor

FOLDERS = ("dags", "include")
IGNORE_FILE = ".deployignore"
ALWAYS_IGNORED = ("__pycache__/", "*.py[cod]", ".git/")
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT_TYPE = "application/vnd.astro.dags.v1"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
REVISION = "org.opencontainers.image.revision"
CLASSPATH = "astro_bundle.AstroDagBundle"
BUNDLE = "dags"
STORAGE = "/tmp/astro-dags"  # noqa: S108 - of a container, which unpacks its versions there
LOOK_SECONDS = 2
KEEP = "keep.json"
"""In the volume: the versions and tags that releases need, for `inside/janitor.py`."""
_EMPTY = b"{}"
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"


@dataclass(frozen=True)
class Bundle:
    """One version of a project's DAGs.

    Attributes:
        manifest: the OCI manifest, whose digest names the version.
        layer: the files, as tar+gzip.
    """

    manifest: bytes
    layer: bytes

    @property
    def digest(self) -> str:
        """Names the version: `sha256:…`."""
        return _digest(self.manifest)

    @property
    def content(self) -> str:
        """Stands for the files alone, whatever commit they come from: `sha256:…`."""
        return _digest(self.layer)


@dataclass(frozen=True)
class Published:
    """A version that was published: its digest, the digest of its files, and the git revision or nothing."""

    digest: str
    content: str
    revision: str


class BundleStore(Protocol):
    """Where the versions of one deployment lie, and which one new runs take."""

    def current(self) -> Published | None:
        """What new runs take; None before anything was published."""

    def publish(self, bundle: Bundle) -> None:
        """Bring a version there, then point to it: whoever looks meanwhile sees the one before."""

    def point(self, digest: str) -> None:
        """Let new runs take a version that was published before.

        Raises:
            AstroError: there is no such version.
        """


def pack(folder: Path, *, revision: str = "", ignore_file: Path | None = None) -> Bundle:
    """Pack `dags` and `include` of a folder, without what `.dockerignore` or `.deployignore` names.

    Args:
        folder: a project, or what an image has of it.
        revision: git commit to note in the manifest.
        ignore_file: the project's `.deployignore`, in gitignore's syntax, if it is not in `folder`.

    Raises:
        ProjectError: a file cannot be read, or a link leads out of the two folders.
    """
    files = tuple(_files(folder, _rules(ignore_file or folder / IGNORE_FILE)))
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb", filename="", mtime=0) as compressed:
        write_context(files, cast("IO[bytes]", compressed))
    layer = stream.getvalue()
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": {"mediaType": _EMPTY_TYPE, "digest": _digest(_EMPTY), "size": len(_EMPTY)},
        "layers": [{"mediaType": LAYER_TYPE, "digest": _digest(layer), "size": len(layer)}],
        **({"annotations": {REVISION: revision}} if revision else {}),
    }
    return Bundle(json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode(), layer)


def pack_image(api: DockerApi, image: str, project: Path, *, revision: str = "") -> Bundle:
    """Pack the DAGs that an image has, which may hold more or less than the project's folder.

    Args:
        project: the project's folder, for its `.deployignore`.
    """
    with tempfile.TemporaryDirectory() as name:
        api.copy_from_image(image, [f"{HOME}/{folder}" for folder in FOLDERS], Path(name))
        return pack(Path(name), revision=revision, ignore_file=project / IGNORE_FILE)


def ignored(project: Path) -> Callable[[str], bool]:
    """Tells of a file, by its path in the project, whether `.deployignore` keeps it from being deployed."""
    return _rules(project / IGNORE_FILE).match_file


def _files(folder: Path, rules: pathspec.GitIgnoreSpec) -> Iterator[ContextFile]:
    for file in project_context(folder):
        top = file.name.partition("/")[0]
        if top not in FOLDERS or file.path is None:
            continue
        is_folder = file.path.is_dir() and not file.path.is_symlink()
        if rules.match_file(f"{file.name}/" if is_folder else file.name):
            continue
        if file.path.is_symlink():
            target = file.path.readlink()
            if target.is_absolute() or not file.path.resolve().is_relative_to((folder / top).resolve()):
                raise ProjectError(
                    f"`{file.name}` is a link to `{target}`, which is not deployed with it",
                    hint=f"copy the file into `{top}`, or name the link in {IGNORE_FILE}",
                )
        yield file


def _rules(path: Path) -> pathspec.GitIgnoreSpec:
    import pathspec

    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        return pathspec.GitIgnoreSpec.from_lines([*ALWAYS_IGNORED, *lines])
    except ValueError as exc:
        raise ProjectError(f"{IGNORE_FILE}: {exc}", hint="its syntax is that of .gitignore") from exc


class RegistryStore:
    """Versions in a repository of a registry. `tag` names the current one; each has a tag of its own besides.

    Without that a registry that removes untagged manifests would remove what running DAGs began with.
    """

    def __init__(self, registry: Registry, repository: str, tag: str) -> None:
        self._registry = registry
        self._repository = repository
        self._tag = tag

    def current(self) -> Published | None:
        """See `BundleStore`."""
        found = self._registry.manifest(self._repository, self._tag)
        return None if found is None else _published(found.content)

    def publish(self, bundle: Bundle) -> None:
        """See `BundleStore`."""
        for content in (_EMPTY, bundle.layer):
            self._registry.put_blob(self._repository, content)
        self._registry.put_manifest(
            self._repository, f"{self._tag}-{_hexadecimal(bundle.digest)}", bundle.manifest
        )
        self._registry.put_manifest(self._repository, self._tag, bundle.manifest)

    def point(self, digest: str) -> None:
        """See `BundleStore`."""
        found = self._registry.manifest(self._repository, digest)
        if found is None:
            raise _unknown(digest)
        self._registry.put_manifest(self._repository, self._tag, found.content)


class VolumeStore:
    """Versions in a volume of one engine, which the deployment's services see read-only; needs no registry.

    Files are put there through a container that is made for it and never started.

    Args:
        image: an image that the engine has; nothing of it runs.
        tag: names the current version.
        labels: of that container.
    """

    def __init__(self, api: DockerApi, volume: str, image: str, tag: str, labels: Mapping[str, str]) -> None:
        self._api = api
        self._volume = volume
        self._image = image
        self._tag = tag
        self._labels = labels

    def _door(self) -> AbstractContextManager[VolumeDoor]:
        return self._api.volume_door(self._volume, self._image, self._labels)

    def current(self) -> Published | None:
        """See `BundleStore`."""
        with self._door() as door:
            version = door.read(f"tags/{self._tag}")
            content = door.read(f"blobs/{version.decode().strip()}") if version else None
        return _published(content) if content else None

    def publish(self, bundle: Bundle) -> None:
        """See `BundleStore`."""
        layer = json.loads(bundle.manifest)["layers"][0]["digest"]
        files = {_hexadecimal(layer): bundle.layer, _hexadecimal(bundle.digest): bundle.manifest}
        with self._door() as door:
            door.write({f"blobs/{name}": content for name, content in files.items()}, owner=UID)
            self._point(door, bundle.digest)

    def keep(self, digests: Iterable[str], tags: Iterable[str]) -> None:
        """Write down what releases still need; of the rest the janitor removes what no run needs either."""
        needed = {"versions": sorted(map(_hexadecimal, digests)), "tags": sorted(tags)}
        with self._door() as door:
            door.write({KEEP: json.dumps(needed).encode()}, owner=UID)

    def point(self, digest: str) -> None:
        """See `BundleStore`."""
        with self._door() as door:
            if door.read(f"blobs/{_hexadecimal(digest)}") is None:
                raise _unknown(digest)
            self._point(door, digest)

    def _point(self, door: VolumeDoor, digest: str) -> None:
        door.write({f"tags/{self._tag}": f"{_hexadecimal(digest)}\n".encode()}, owner=UID)


def bundle_environment(tag: str, *, classpath: str = CLASSPATH, **source: str) -> dict[str, str]:
    """Settings of Airflow by which every service of a deployment takes its DAGs from the bundle.

    Args:
        tag: names the current version.
        classpath: of the bundle's class.
        source: `folder`, or `url` and `repository` with `credentials` and `ca`; see `inside/astro_bundle.py`.
    """
    options = {"tag": tag, **source, "refresh_interval": LOOK_SECONDS}
    bundles = [{"name": BUNDLE, "classpath": classpath, "kwargs": options}]
    return {
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles),
        "AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "1",
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH": STORAGE,
        # Otherwise a DAG that was read within the last half minute is not written again.
        "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "0",
    }


def registry_source(repository: str, *, credentials: str = "", ca: str = "") -> dict[str, str]:
    """The `source` of `bundle_environment` for versions in a repository (`HOST/NAME`) of a registry.

    Args:
        credentials: file in the containers with the login, as `inside/astro_bundle.py` reads it.
        ca: file in the containers with the authority of the registry's certificate.
    """
    where = parse_repository(repository)
    files = {"credentials": credentials, "ca": ca}
    return {
        "url": where.url,
        "repository": where.name,
        **{option: file for option, file in files.items() if file},
    }


def _published(manifest: bytes) -> Published:
    body = json.loads(manifest)
    revision = (body.get("annotations") or {}).get(REVISION, "")
    return Published(_digest(manifest), body["layers"][0]["digest"], revision)


def _unknown(digest: str) -> AstroError:
    return AstroError(
        f"the DAGs {digest} are not there any more", hint="deploy them again from their git revision"
    )


def _hexadecimal(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
