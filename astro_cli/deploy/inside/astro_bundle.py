"""The DAGs of a deployment as a versioned bundle: a new one needs no restart, a run keeps the one it began with.

A version is an OCI artifact: a manifest that names one tar+gzip layer with `dags` and `include`. It lies in a
registry or, without one, in a folder that all services see; a tag there names the version that new runs take.
Standard library and Airflow only: this runs under Airflow's Python.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import http.client
import importlib.machinery
import json
import logging
import os
import re
import shutil
import ssl
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from airflow.dag_processing.bundles.base import BaseDagBundle, BundleVersion

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

log = logging.getLogger(__name__)

FOLDERS = ("dags", "include")
TRIES, PAUSE = 4, 1.0  # seconds; for a task, which cannot begin without its version
SECONDS = 10.0
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_FAULTS = (OSError, ValueError, LookupError, tarfile.TarError, http.client.HTTPException)
_VERSION = re.compile(r"[0-9a-f]{64}")


class Source(Protocol):
    """Where published versions lie. Whatever cannot be read is an OSError."""

    def current(self) -> str:
        """The version that new runs take: the SHA-256 of its manifest, in hexadecimal."""

    def manifest(self, version: str) -> bytes:
        """The manifest of a version."""

    def layer(self, digest: str) -> IO[bytes]:
        """A layer as it was published; `digest` is its SHA-256 in hexadecimal."""


class FolderSource:
    """A folder with `blobs/<sha256>` and, for each tag, a file `tags/<tag>` with a version."""

    def __init__(self, folder: str, tag: str) -> None:
        self._folder = Path(folder)
        self._tag = tag

    def current(self) -> str:
        """See `Source`."""
        text = (self._folder / "tags" / self._tag).read_text(encoding="ascii").strip()
        return _checked_version(text)

    def manifest(self, version: str) -> bytes:
        """See `Source`."""
        return (self._folder / "blobs" / version).read_bytes()

    def layer(self, digest: str) -> IO[bytes]:
        """See `Source`."""
        return (self._folder / "blobs" / digest).open("rb")


class RegistrySource:
    """A repository of a registry.

    Args:
        url: the registry's, such as `https://registry.example`.
        repository: its name there.
        credentials: file with `{"username": …, "password": …}`, read anew each time; empty for none.
        ca: file with the authorities to trust besides the system's; empty for none.
    """

    def __init__(self, url: str, repository: str, tag: str, *, credentials: str = "", ca: str = "") -> None:
        self._base = f"{url.rstrip('/')}/v2/{repository}"
        self._url, self._repository, self._tag = url, repository, tag
        self._credentials = credentials
        context = ssl.create_default_context()
        if ca:
            context.load_verify_locations(ca)
        self._opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
        self._authorization = ""

    def current(self) -> str:
        """See `Source`."""
        with self._open("HEAD", f"manifests/{self._tag}") as answer:
            told = answer.headers.get("Docker-Content-Digest", "")
        if not told:
            with self._open("GET", f"manifests/{self._tag}") as answer:
                told = f"sha256:{hashlib.sha256(answer.read()).hexdigest()}"
        return _checked_version(told.removeprefix("sha256:"))

    def manifest(self, version: str) -> bytes:
        """See `Source`."""
        with self._open("GET", f"manifests/sha256:{version}") as answer:
            content: bytes = answer.read()
            return content

    def layer(self, digest: str) -> IO[bytes]:
        """See `Source`."""
        opened: IO[bytes] = self._open("GET", f"blobs/sha256:{digest}")
        return opened

    def _open(self, method: str, path: str) -> Any:  # noqa: ANN401 - urllib's answer
        request = urllib.request.Request(f"{self._base}/{path}", method=method)  # noqa: S310 - a deployment's registry
        request.add_header("Accept", MANIFEST_TYPE)
        for last in (False, True):
            if self._authorization:  # not sent on to where a redirect leads
                request.add_unredirected_header("Authorization", self._authorization)
            try:
                return self._opener.open(request, timeout=SECONDS)
            except urllib.error.HTTPError as refusal:
                if refusal.code != 401 or last:
                    raise
                self._authorization = self._login(refusal.headers.get("WWW-Authenticate", ""))
        raise AssertionError("the second try returns or raises")

    def _login(self, challenge: str) -> str:
        basic = ""
        login: dict[str, str] = {}
        if self._credentials:
            login = json.loads(Path(self._credentials).read_text(encoding="utf-8"))
            basic = "Basic " + base64.b64encode(f"{login['username']}:{login['password']}".encode()).decode()
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() != "bearer":
            return basic
        asked = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        realm = asked["realm"]
        if self._url.startswith("https:") and not realm.startswith("https:"):
            raise PermissionError(f"the registry wants its login sent in the open, to {realm}")
        query = {"service": asked.get("service", ""), "scope": f"repository:{self._repository}:pull"}
        if login.get("username") == "<token>":
            form = {
                **query,
                "grant_type": "refresh_token",
                "refresh_token": login["password"],
                "client_id": "astro",
            }
            request = urllib.request.Request(realm, data=urllib.parse.urlencode(form).encode())  # noqa: S310
        else:
            request = urllib.request.Request(f"{realm}?{urllib.parse.urlencode(query)}")  # noqa: S310
            if basic:
                request.add_unredirected_header("Authorization", basic)
        with self._opener.open(request, timeout=SECONDS) as answer:
            body = json.load(answer)
        return f"Bearer {body.get('token') or body['access_token']}"


class AstroDagBundle(BaseDagBundle):
    """DAGs of a deployment. Give either `folder` or `url` and `repository`; see the two sources.

    Args:
        tag: names the version that new runs take.
    """

    supports_versioning = True

    def __init__(
        self,
        *,
        tag: str,
        folder: str = "",
        url: str = "",
        repository: str = "",
        credentials: str = "",
        ca: str = "",
        **options: Any,  # noqa: ANN401 - Airflow's own
    ) -> None:
        super().__init__(**options)
        self._source: Source = (
            FolderSource(folder, tag)
            if folder
            else RegistrySource(url, repository, tag, credentials=credentials, ca=ca)
        )
        self._remembered = self.base_dir / f"current-{tag}"
        self._version = self.version or ""
        self._failing = False
        _Folders.install()

    def initialize(self) -> None:
        """Have the version that is asked for, or the current one, on this machine's disk."""
        if self.version:
            self._fetch_for_task(self.version)
        else:
            self.refresh()
        super().initialize()

    def refresh(self) -> None:
        """Take what is current now. While that cannot be read the last version serves; without one, an error."""
        if self.version:
            return
        try:
            wanted = self._source.current()
            if wanted != self._version or not self._folder(wanted).is_dir():
                self._fetch(wanted)
            self._failing = False
        except _FAULTS as exc:
            wanted = self._version or self._last()
            if not wanted:
                raise
            if not self._failing:
                log.warning("the published DAGs cannot be read: %r; version %s serves on", exc, wanted)
            self._failing = True
        if wanted != self._version:
            if self._version or wanted != self._last():
                self._touch(wanted)
            self._remember(wanted)
            self._version = wanted

    def get_current_version(self) -> BundleVersion | None:
        """The version that this object serves."""
        return BundleVersion(self._version) if self._version else None

    @property
    def path(self) -> Path:
        """The DAGs folder of the version."""
        return self._folder(self._version) / "dags"

    def _folder(self, version: str) -> Path:
        return Path(self.versions_dir, version)

    def _fetch_for_task(self, version: str) -> None:
        _checked_version(version)
        for left in reversed(range(TRIES)):
            try:
                self._fetch(version)
                return
            except _FAULTS:
                if not left:
                    raise
                time.sleep(PAUSE)

    def _fetch(self, version: str) -> None:
        """Unpack a version that is not there yet, under another name, then rename. Several may do so at once."""
        folder = self._folder(version)
        if folder.is_dir():
            return
        manifest = self._source.manifest(version)
        if hashlib.sha256(manifest).hexdigest() != version:
            raise ValueError(f"the manifest of version {version} is damaged")
        digest = str(json.loads(manifest)["layers"][0]["digest"]).removeprefix("sha256:")
        self.versions_dir.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=self.versions_dir, prefix=".new-"))
        try:
            temporary.chmod(0o755)  # a task may run as another user
            self._unpack(digest, temporary)
            (temporary / "dags").mkdir(exist_ok=True)
            try:
                temporary.rename(folder)
            except OSError as exc:
                if exc.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _unpack(self, digest: str, folder: Path) -> None:
        with tempfile.TemporaryFile(dir=self.versions_dir) as copy:
            total = hashlib.sha256()
            with self._source.layer(digest) as layer:
                while chunk := layer.read(1 << 20):
                    total.update(chunk)
                    copy.write(chunk)
            if total.hexdigest() != digest:
                raise ValueError(f"the layer {digest} is damaged")
            copy.seek(0)
            with tarfile.open(fileobj=copy, mode="r:gz") as archive:
                # "data": nothing outside of the folder, no links out of it, no devices
                archive.extractall(folder, filter="data")

    def _touch(self, version: str) -> None:
        """Let each file look changed: an include is part of every DAG, and Airflow looks at the files' times."""
        for path in self._folder(version).rglob("*.py"):
            if not path.is_symlink():
                os.utime(path)

    def _remember(self, version: str) -> None:
        temporary = self._remembered.with_name(f".{self._remembered.name}-{os.getpid()}")
        temporary.write_text(version, encoding="ascii")
        temporary.replace(self._remembered)

    def _last(self) -> str:
        """The version that served last on this machine, if it is still there."""
        try:
            version = _checked_version(self._remembered.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return ""
        return version if self._folder(version).is_dir() else ""


class _Folders:
    """Makes `import include.x` and `import dags.x` mean the bundle that this process reads.

    Otherwise they would be the image's, whose parent is on PYTHONPATH. Airflow puts the DAGs folder of the version
    on `sys.path` in the process that parses or runs, and in no other; so that tells which version it is.
    """

    @classmethod
    def install(cls) -> None:
        if cls not in sys.meta_path:
            sys.meta_path.insert(0, cls)

    @classmethod
    def find_spec(
        cls,
        name: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,  # noqa: ARG003 - the protocol of importlib
    ) -> importlib.machinery.ModuleSpec | None:
        if path is not None or name not in FOLDERS:
            return None
        for entry in reversed(sys.path):
            dags = Path(entry)
            if dags.name == "dags" and _VERSION.fullmatch(dags.parent.name):
                spec = importlib.machinery.PathFinder.find_spec(name, [str(dags.parent)])
                if spec is None or spec.loader is not None or spec.submodule_search_locations is None:
                    return spec
                # A folder without __init__.py: as a plain list its place does not follow sys.path.
                plain = importlib.machinery.ModuleSpec(name, None, is_package=True)
                plain.submodule_search_locations = [str(dags.parent / name)]
                return plain
        return None


def _checked_version(text: str) -> str:
    if not _VERSION.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is no version of a bundle")
    return text
