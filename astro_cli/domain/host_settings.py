"""What a build must know of this host to reach the world: certificates, indexes, mirrors, proxies.

They reach every RUN of a build, and never a layer, an argument list or the image's history.
"""

from __future__ import annotations

import configparser
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from astro_cli.foundation.hashing import digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

BUILD_SETTINGS_IMAGE = "localhost/astro/build-settings"
SETTINGS_FOLDER = "/run/build"
CACHE_FOLDER = "/run/build-cache"


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
        return digest((name.encode(), content) for name, content in sorted(self.files().items()))

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
        apt_mirror: takes the place of the address before `/debian` in apt's sources; default `ASTRO_APT_MIRROR`.
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
