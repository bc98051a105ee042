"""What an image is made of: names, labels, the build context, and the host's settings that a build may use.

Pure decisions about files and text. Building is `runtime/build.py`.
"""

from __future__ import annotations

import configparser
import hashlib
import io
import json
import os
import re
import stat
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from astro_cli.errors import ProjectError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

LABEL_VERSION = "astro.version"
LABEL_AIRFLOW_VERSION = "astro.airflow-version"
LABEL_MIGRATION_HEADS = "astro.migration-heads"
LABEL_INPUTS_HASH = "astro.inputs-hash"
LABEL_KIND = "astro.kind"

BUILD_SETTINGS_IMAGE = "localhost/astro/build-settings"
SETTINGS_FOLDER = "/run/build"
CACHE_FOLDER = "/run/build-cache"

_LARGE_FILE = 8 * 1024 * 1024  # bytes; above it a file's size and time stand for its content
_FIXED_TIME = 946684800  # 2000-01-01: a context holds what the files say, not when they were checked out


# Names and labels


def engine_image(airflow_version: str) -> str:
    """The name of the engine image for an Airflow version."""
    return f"localhost/astro/airflow:{airflow_version}"


def postgres_image(airflow_version: str) -> str:
    """The name of the metadata-database image whose cluster is migrated for an Airflow version."""
    return f"localhost/astro/postgres:17-airflow{airflow_version}"


def project_image(project_id: str, inputs_hash: str) -> str:
    """The name of a project's image: one tag for each state of its inputs."""
    return f"localhost/astro/project-{project_id.lower()}:{inputs_hash[:12]}"


def engine_labels(version: str, airflow_version: str, migrations: str) -> dict[str, str]:
    """The labels of both images of `images/Dockerfile`.

    Args:
        version: of astro.
        airflow_version: that the lock pins.
        migrations: the text of `images/migrations.json`.
    """
    return {
        LABEL_VERSION: version,
        LABEL_AIRFLOW_VERSION: airflow_version,
        LABEL_MIGRATION_HEADS: ",".join(sorted(json.loads(migrations)["heads"])),
    }


# The build context


@dataclass(frozen=True)
class ContextFile:
    """One entry of a build context, read from `path` or, without one, made of `content`."""

    name: str
    path: Path | None = None
    content: bytes = b""


class IgnoreRules:
    """The rules of a `.dockerignore` file: the last pattern that matches a path or a parent of it decides.

    Patterns are Go's `filepath.Match` with `**` for any number of folders, anchored at the context's root
    (https://docs.docker.com/build/concepts/context/#dockerignore-files).

    Raises:
        ProjectError: a pattern is malformed; the message names its line.
    """

    def __init__(self, text: str = "") -> None:
        self._rules: list[tuple[re.Pattern[str], bool]] = []
        for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
            pattern = line.strip()
            if not pattern or line.startswith("#"):
                continue
            keep = pattern.startswith("!")
            cleaned = os.path.normpath(pattern[1:].strip() if keep else pattern).lstrip("/")
            if cleaned in ("", "."):
                continue
            try:
                self._rules.append((re.compile(_ignore_expression(cleaned)), keep))
            except (re.error, ValueError) as exc:
                raise ProjectError(
                    f".dockerignore:{number}: `{pattern}` is not a valid pattern",
                    hint="correct the line; `*`, `?`, `[a-z]` and `**` are understood",
                ) from exc

    def ignores(self, name: str) -> bool:
        """Whether the path `name` (relative, with `/`) stays out of the context."""
        parts = name.split("/")
        parents = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        ignored = False
        for expression, keep in self._rules:
            if ignored == keep and any(expression.fullmatch(parent) for parent in parents):
                ignored = not keep
        return ignored

    @property
    def has_exceptions(self) -> bool:
        """Whether a `!` line may bring back something below an ignored folder."""
        return any(keep for _, keep in self._rules)


def _ignore_expression(pattern: str) -> str:
    out, index = "", 0
    while index < len(pattern):
        char = pattern[index]
        index += 1
        if pattern.startswith("**", index - 1):
            index += 1
            if pattern.startswith("/", index):
                index += 1
                out += "(?:.*/)?"
            else:
                out += ".*"
        elif char == "*":
            out += "[^/]*"
        elif char == "?":
            out += "[^/]"
        elif char == "[":
            end = pattern.find("]", index + 1)
            if end < 0:
                raise ValueError("unclosed [")
            out += "[" + pattern[index:end].replace("[", r"\[") + "]"
            index = end + 1
        elif char == "\\":
            if index == len(pattern):
                raise ValueError("nothing to escape")
            out += re.escape(pattern[index])
            index += 1
        else:
            out += re.escape(char)
    return "(?s:" + out + ")"


def project_context(folder: Path, dockerfile: str = "Dockerfile") -> tuple[ContextFile, ...]:
    """The files a build of `folder` may copy, sorted by name; symbolic links stay links.

    The Dockerfile and `.dockerignore` are always part of it. Sockets, pipes and devices never are.

    Raises:
        ProjectError: `.dockerignore` is malformed, or a file cannot be read.
    """
    ignore_file = folder / ".dockerignore"
    rules = IgnoreRules(ignore_file.read_text(encoding="utf-8") if ignore_file.is_file() else "")
    always = {dockerfile, ".dockerignore"}

    def refuse(error: OSError) -> None:
        raise ProjectError(f"`{error.filename}` cannot be read: {error.strerror}") from error

    found: list[str] = []
    for parent, folders, files in os.walk(folder, onerror=refuse):
        relative = Path(parent).relative_to(folder)
        kept = []
        for name in folders:
            path = (relative / name).as_posix()
            ignored = rules.ignores(path)
            if not ignored:
                found.append(path)
            if (not ignored or rules.has_exceptions) and not (folder / path).is_symlink():
                kept.append(name)
        folders[:] = kept
        for name in files:
            path = (relative / name).as_posix()
            if path in always or not rules.ignores(path):
                found.append(path)
    usable = (name for name in sorted(found) if _is_usable(folder / name))
    return tuple(ContextFile(name, folder / name) for name in usable)


def _is_usable(path: Path) -> bool:
    mode = path.lstat().st_mode
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)


def engine_context(images: Path, supervisor: Path) -> tuple[ContextFile, ...]:
    """The context of `images/Dockerfile`: the files beside it, and the supervisor."""
    files = [ContextFile(path.name, path) for path in sorted(images.iterdir()) if path.is_file()]
    return (*files, ContextFile("supervisor.py", supervisor))


def write_context(files: Iterable[ContextFile], stream: IO[bytes]) -> None:
    """Writes the context as a tar archive that depends on names, content and executable bits alone.

    Raises:
        ProjectError: a file vanished or cannot be read.
    """
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for file in files:
            try:
                _add(archive, file)
            except OSError as exc:
                if exc.filename is None:
                    raise
                raise ProjectError(f"`{exc.filename}` cannot be read: {exc.strerror}") from exc


def _add(archive: tarfile.TarFile, file: ContextFile) -> None:
    info = tarfile.TarInfo(file.name)
    info.mtime = _FIXED_TIME
    info.mode = 0o644
    if file.path is None:
        info.size = len(file.content)
        archive.addfile(info, io.BytesIO(file.content))
        return
    status = file.path.lstat()
    if stat.S_ISLNK(status.st_mode):
        info.type, info.mode = tarfile.SYMTYPE, 0o777
        info.linkname = str(file.path.readlink())
        archive.addfile(info)
    elif stat.S_ISDIR(status.st_mode):
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(info)
    else:
        with file.path.open("rb") as content:
            info.size = os.fstat(content.fileno()).st_size
            if status.st_mode & 0o111:
                info.mode = 0o755
            archive.addfile(info, content)


# What a build of the host knows: certificates, indexes, mirrors, proxies


@dataclass(frozen=True)
class HostSettings:
    """What the host's environment says about reaching the world; every field may be empty.

    `proxies` go as build arguments that Docker predefines and keeps out of the history. The rest are files
    that exist during a RUN only, under `SETTINGS_FOLDER`.
    """

    ca_bundle: bytes = b""
    pip_conf: str = ""
    uv_toml: str = ""
    apt_mirror: str = ""
    proxies: tuple[tuple[str, str], ...] = ()

    def files(self) -> dict[str, bytes]:
        """Name under `SETTINGS_FOLDER` to content."""
        apt = f'Acquire::https::CaInfo "{SETTINGS_FOLDER}/ca.crt";\n' if self.ca_bundle else ""
        contents = {
            "ca.crt": self.ca_bundle,
            "apt.conf": apt.encode(),
            "pip.conf": self.pip_conf.encode(),
            "uv.toml": self.uv_toml.encode(),
            "apt-mirror": self.apt_mirror.encode(),
        }
        return {name: content for name, content in contents.items() if content}

    def arguments(self) -> dict[str, str]:
        """The environment of every RUN: where the files are. Only paths, so they may show in the history."""
        readers = {
            "ca.crt": ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO",
                       "NODE_EXTRA_CA_CERTS"),
            "apt.conf": ("APT_CONFIG",),
            "pip.conf": ("PIP_CONFIG_FILE",),
            "uv.toml": ("UV_CONFIG_FILE",),
        }  # fmt: skip
        found = self.files()
        paths = {
            name: f"{SETTINGS_FOLDER}/{file}"
            for file, names in readers.items()
            if file in found
            for name in names
        }
        return {**paths, "ASTRO_BUILD_CACHE": CACHE_FOLDER}

    def digest(self) -> str:
        """A hash of the files; the proxies do not change what is built."""
        return _digest((name.encode(), content) for name, content in sorted(self.files().items()))

    def image(self) -> str | None:
        """The short-lived image that carries the files to the builder; None when there are none."""
        return f"{BUILD_SETTINGS_IMAGE}:{self.digest()[:12]}" if self.files() else None

    def mounts(self) -> tuple[str, ...]:
        """The `--mount` values of every RUN.

        The files come from an image of their own, not from the context, where `COPY . .` would bake them in.
        """
        cache = f"type=cache,id=astro-build,target={CACHE_FOLDER},mode=0777"
        image = self.image()
        return (cache,) if image is None else (f"type=bind,from={image},target={SETTINGS_FOLDER}", cache)


def host_settings(
    environ: Mapping[str, str],
    *,
    apt_mirror: str | None = None,
    pip_configs: Sequence[Path] | None = None,
    certificates: Path = Path("/usr/local/share/ca-certificates"),
    system_bundle: Path = Path("/etc/ssl/certs/ca-certificates.crt"),
) -> HostSettings:
    """Reads what a build needs of the host.

    Args:
        environ: the environment; proxies, certificates and indexes are named as curl, pip and uv name them.
        apt_mirror: takes the place of `http://deb.debian.org`; default `ASTRO_APT_MIRROR`.
        pip_configs: pip's files, the weakest first; default pip's own places.
        certificates: extra ones of this machine (`*.crt`), used where the environment names no bundle.
        system_bundle: the bundle that these are added to.
    """
    return HostSettings(
        ca_bundle=_ca_bundle(environ, certificates, system_bundle),
        **_indexes(environ, _pip_places(environ) if pip_configs is None else pip_configs),
        apt_mirror=(environ.get("ASTRO_APT_MIRROR", "") if apt_mirror is None else apt_mirror).strip(),
        proxies=tuple(
            (name, environ[name])
            for upper in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
            for name in (upper, upper.lower())
            if environ.get(name)
        ),
    )


def _ca_bundle(environ: Mapping[str, str], certificates: Path, system_bundle: Path) -> bytes:
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT"):
        path = environ.get(name)
        if path and Path(path).is_file():
            return Path(path).read_bytes()
    extra = [path.read_bytes().strip() for path in sorted(certificates.rglob("*.crt")) if path.is_file()]
    if not extra:
        return b""
    system = system_bundle.read_bytes() if system_bundle.is_file() else b""
    return b"\n".join([system.strip(), *(one for one in extra if one not in system)]) + b"\n"


def _pip_places(environ: Mapping[str, str]) -> list[Path]:
    named = environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return []
    home = Path(environ.get("HOME", "/nonexistent"))
    user = Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip/pip.conf"
    mac = home / "Library/Application Support/pip/pip.conf"
    return [Path("/etc/pip.conf"), home / ".pip/pip.conf", user, mac, *([Path(named)] if named else [])]


def _indexes(environ: Mapping[str, str], pip_configs: Sequence[Path]) -> dict[str, str]:
    configured: dict[str, str] = {}
    for path in pip_configs:
        parser = configparser.RawConfigParser(strict=False)
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError):
            continue  # pip says what is wrong with its file; a build may not need it
        for section in ("global", "install"):
            if parser.has_section(section):
                configured.update({key.replace("_", "-"): value for key, value in parser.items(section)})

    def urls(*sources: str | None) -> list[str]:
        words = " ".join(source or "" for source in sources).split()
        # uv allows NAME=URL; an index of the host's disk means nothing inside a container
        plain = [re.sub(r"^[\w.-]+=(?=\w+://)", "", word) for word in words]
        return list(dict.fromkeys(url for url in plain if url.startswith(("http://", "https://"))))

    default = urls(
        environ.get("UV_DEFAULT_INDEX"),
        environ.get("UV_INDEX_URL"),
        environ.get("PIP_INDEX_URL"),
        configured.get("index-url"),
    )[:1]
    extra = urls(
        environ.get("UV_INDEX"),
        environ.get("UV_EXTRA_INDEX_URL"),
        environ.get("PIP_EXTRA_INDEX_URL") or configured.get("extra-index-url"),
    )
    trusted = (environ.get("PIP_TRUSTED_HOST") or configured.get("trusted-host") or "").split()
    if not (default or extra or trusted):
        return {"pip_conf": "", "uv_toml": ""}
    pip = ["[global]"]
    pip += [f"index-url = {url}" for url in default]
    pip += [f"extra-index-url = {' '.join(extra)}"] if extra else []
    pip += [f"trusted-host = {' '.join(trusted)}"] if trusted else []
    # A JSON string is a TOML string.
    uv = [f"allow-insecure-host = {json.dumps(trusted)}"] if trusted else []
    uv += [f"[[index]]\nurl = {json.dumps(url)}" for url in extra]
    uv += [f"[[index]]\nurl = {json.dumps(url)}\ndefault = true" for url in default]
    return {"pip_conf": "\n".join(pip) + "\n", "uv_toml": "\n".join(uv) + "\n"}


_HEREDOC = re.compile(r"(?:^|\s)\d*<<(-?)([\"']?)([A-Za-z_][\w.]*)\2(?=\s|$)")


def with_host_settings(dockerfile: str, mounts: Sequence[str], arguments: Mapping[str, str]) -> str:
    """The Dockerfile with `mounts` on every RUN and `arguments` declared in every stage.

    Done in memory for one build: the user's file stays as it is, and builds without astro too.

    Args:
        dockerfile: its text, with any continuations, here-documents, comments and `escape` directive.
        mounts: values for `--mount=`.
        arguments: become `ARG` lines after each FROM: a RUN sees them and the image does not keep them.
    """
    flags = "".join(f" --mount={mount}" for mount in mounts)
    declared = [f"ARG {name}={value}\n" for name, value in arguments.items()]
    out: list[str] = []
    for lines, body in _instructions(dockerfile):
        keyword = re.match(r"\s*(RUN|FROM)(?=\s|$)", lines[0], re.IGNORECASE) if lines else None
        if keyword and keyword[1].upper() == "RUN":
            lines[0] = lines[0][: keyword.end()] + flags + lines[0][keyword.end() :]
        out += lines + body
        if keyword and keyword[1].upper() == "FROM":
            if not out[-1].endswith("\n"):
                out[-1] += "\n"
            out += declared
    return "".join(out)


def _instructions(dockerfile: str) -> Iterator[tuple[list[str], list[str]]]:
    """The logical lines, each with the here-documents it opens; comments and empty lines are their own."""
    escape = "\\"
    for line in dockerfile.splitlines():
        directive = re.fullmatch(r"\s*#\s*(\w+)\s*=\s*(\S+)\s*", line)
        if directive is None:
            break
        if directive[1].lower() == "escape":
            escape = directive[2]

    rest = iter(dockerfile.splitlines(keepends=True))
    for line in rest:
        lines = [line]
        body: list[str] = []
        logical = line
        if not line.strip() or line.lstrip().startswith("#"):
            yield lines, body
            continue
        while logical.rstrip().endswith(escape):
            following = next(rest, None)
            if following is None:
                break
            lines.append(following)
            if following.strip() and not following.lstrip().startswith("#"):
                logical = logical.rstrip()[: -len(escape)] + following
        if re.match(r"\s*(RUN|COPY|ADD)\s", logical, re.IGNORECASE):
            for dash, _, delimiter in _HEREDOC.findall(logical):
                for text in rest:
                    body.append(text)
                    if (text.lstrip("\t") if dash else text).rstrip("\r\n") == delimiter:
                        break
        yield lines, body


# When to build


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
    parts: Iterator[tuple[bytes, bytes]] = (
        (file.name.encode(), _fingerprint(file)) for file in files if not f"{file.name}/".startswith(skipped)
    )
    return _digest(_chain((b"", head.encode()), parts))


def _chain(first: tuple[bytes, bytes], rest: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    yield first
    yield from rest


def _fingerprint(file: ContextFile) -> bytes:
    if file.path is None:
        return hashlib.sha256(file.content).digest()
    try:
        status = file.path.lstat()
        if stat.S_ISLNK(status.st_mode):
            return b"link " + os.fsencode(file.path.readlink())
        if stat.S_ISDIR(status.st_mode):
            return b"folder"
        kind = b"program " if status.st_mode & 0o111 else b"file "
        if status.st_size > _LARGE_FILE:
            return kind + f"{status.st_size} {status.st_mtime_ns}".encode()
        return kind + hashlib.sha256(file.path.read_bytes()).digest()
    except OSError as exc:
        raise ProjectError(f"`{exc.filename}` cannot be read: {exc.strerror}") from exc


def _digest(parts: Iterable[tuple[bytes, bytes]]) -> str:
    total = hashlib.sha256()
    for name, content in parts:
        total.update(b"%d:%s%d:%s" % (len(name), name, len(content), content))
    return total.hexdigest()
