"""Finds the container engine the way the docker client does, then where engines usually listen.

The Docker SDK looks at `DOCKER_HOST` only, which misses Colima, OrbStack, Rancher Desktop, rootless Docker and
Podman. Contexts are read from `$DOCKER_CONFIG/contexts/meta/<sha256 of the name>/meta.json`, the documented
layout of the docker client's context store.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from astro_cli.foundation.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Endpoint:
    """An engine's address.

    Attributes:
        url: `unix://`, `tcp://` or `ssh://` address.
        source: where the address comes from, for messages.
        tls_folder: folder with ca.pem, cert.pem and key.pem, or None for a plain connection.
    """

    url: str
    source: str
    tls_folder: Path | None = None

    @property
    def socket(self) -> Path | None:
        """The socket's path, if this is a local socket."""
        return Path(self.url.removeprefix("unix://")) if self.url.startswith("unix://") else None


class EngineInfo(NamedTuple):
    """What answers at an endpoint: for example `Docker`, `20.10.24`, `linux/amd64`."""

    name: str
    version: str
    platform: str
    address: str


def find_endpoint(environ: Mapping[str, str], *, home: Path, uid: int) -> Endpoint | None:
    """The engine to use, or None when nothing points to one.

    Order: `DOCKER_HOST`, `DOCKER_CONTEXT`, the config's current context, then the first usual socket that
    exists. Only files are looked at; nothing is connected to.

    Raises:
        EngineError: the named context does not exist or cannot be read.
    """
    if host := environ.get("DOCKER_HOST"):
        tls = Path(environ.get("DOCKER_CERT_PATH") or home / ".docker")
        return Endpoint(host, "DOCKER_HOST", tls if environ.get("DOCKER_TLS_VERIFY") else None)
    config_dir = Path(environ.get("DOCKER_CONFIG") or home / ".docker")
    if name := environ.get("DOCKER_CONTEXT"):
        source = "DOCKER_CONTEXT"
    else:
        name, source = _current_context(config_dir), f"the current context of {config_dir / 'config.json'}"
    if name and name != "default":
        return _read_context(config_dir, name, source)
    for socket in usual_sockets(environ, home=home, uid=uid):
        if os.path.exists(socket):  # noqa: PTH110 - False, not an error, below a folder we may not look into
            return Endpoint(f"unix://{socket}", "the usual sockets")
    return None


def usual_sockets(environ: Mapping[str, str], *, home: Path, uid: int) -> tuple[Path, ...]:
    """Where Docker, Docker Desktop, OrbStack, Colima, Rancher Desktop, rootless Docker and Podman listen."""
    run = Path(environ.get("XDG_RUNTIME_DIR") or f"/run/user/{uid}")
    return (
        Path("/var/run/docker.sock"),
        run / "docker.sock",
        home / ".docker/run/docker.sock",
        home / ".docker/desktop/docker.sock",
        home / ".orbstack/run/docker.sock",
        home / ".colima/default/docker.sock",
        home / ".config/colima/default/docker.sock",
        home / ".rd/docker.sock",
        run / "podman/podman.sock",
        Path("/run/podman/podman.sock"),
    )


def _current_context(config_dir: Path) -> str | None:
    try:
        config = json.loads((config_dir / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    name = config.get("currentContext") if isinstance(config, dict) else None
    return name if isinstance(name, str) else None


def _read_context(config_dir: Path, name: str, source: str) -> Endpoint:
    digest = hashlib.sha256(name.encode()).hexdigest()
    try:
        meta = json.loads((config_dir / "contexts/meta" / digest / "meta.json").read_text(encoding="utf-8"))
        url = meta["Endpoints"]["docker"]["Host"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise EngineError(
            f"the Docker context `{name}`, named by {source}, does not exist or cannot be read",
            hint="see `docker context ls`, or set DOCKER_HOST to the engine's address",
        ) from exc
    tls = config_dir / "contexts/tls" / digest / "docker"
    return Endpoint(str(url), f"the context `{name}`", tls if tls.is_dir() else None)
