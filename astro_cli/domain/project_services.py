"""The services a project adds to its sandbox: what the file may say, and what tasks see of them.

They are stand-ins for what a pipeline talks to: an object store, a warehouse, somebody's API. A deployment has the
real ones, so nothing here is ever a part of an image or of a deployment.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from astro_cli.domain.services import ONE_SHOT, SERVICES
from astro_cli.domain.settings import PROJECT_FILE
from astro_cli.foundation import yamlfile
from astro_cli.foundation.errors import ProjectError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from astro_cli.domain.airflow import Site
    from astro_cli.foundation.yamlfile import Node

WAREHOUSE = "warehouse"
PORTS = {
    "s3": (4566,),
    WAREHOUSE: (5442,),
    "http-stub": (8180,),
    "mail": (1025, 8025),
    "redis": (6379,),
}
"""The kinds that astro brings, and their ports: in the container, and if they are free on this host."""

METRICS, METRICS_PORT = "metrics", 9102
"""What takes Airflow's metrics: a service that a project does not declare but asks for with `start --metrics`."""

HOSTED = {WAREHOUSE: "postgres", METRICS: "airflow"}
"""Kinds that have no container of their own, and the one they are in."""

PAGE = 1
"""Which of the ports of `mail` shows what was caught."""

_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
_CONNECTION = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,199}")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLACEHOLDER = re.compile(r"\{([a-z_0-9]*)\}")
NAMES_TAKEN = {
    *(word for service in SERVICES for word in (service.name, *service.aliases)),
    *ONE_SHOT,
    "airflow",
    "broker",
    "janitor",
    "log-server",
    "proxy",
    "worker",
    METRICS,
}
"""No service of a project can be called so."""


@dataclass(frozen=True)
class Health:
    """How to see that a service is well: `kind` is `http` (an answer below 500 at `path`), `tcp`, `smtp`, `redis`
    or `process` (it runs)."""

    kind: str
    port: int = 0
    path: str = "/"


@dataclass(frozen=True)
class ProjectService:
    """One service as the project declares it.

    Attributes:
        kind: one of `PORTS`, `metrics`, or `own`.
        ports: on which it listens in its container; the first is what connections lead to.
        fixed: of these, the ports of this host that the project insists on.
        connections: id of an Airflow connection to what it says beyond the address: a path, or a URI.
        folder: what the service reads, relative to the project: seeds or fixtures; None for nothing.
        data: where the service of one's own keeps data in its container, or None.
        environment: for a service of one's own.
    """

    name: str
    kind: str
    ports: tuple[int, ...]
    fixed: Mapping[int, int] = field(default_factory=dict)
    connections: Mapping[str, str] = field(default_factory=dict)
    folder: str | None = None
    buckets: tuple[str, ...] = ()
    image: str | None = None
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    data: str | None = None
    health: Health = Health("process")
    line: int = 0

    def error(self, message: str, *, hint: str | None = None) -> ProjectError:
        """An error about it, with its line."""
        return ProjectError(f"{PROJECT_FILE}:{self.line}: {message}", hint=hint)


@dataclass(frozen=True)
class PlacedService:
    """A declared service and where it listens on this host.

    Attributes:
        ports: port in the container to port on this host's loopback.
        seed: hash of what its folder holds, where a change must reach it; else empty.
    """

    service: ProjectService
    ports: Mapping[int, int]
    seed: str = ""

    @property
    def name(self) -> str:
        """The service's name."""
        return self.service.name

    def address(self, site: Site, index: int = 0) -> tuple[str, int]:
        """Host and port as tasks reach them."""
        inside = self.service.ports[index]
        if site.services_on_loopback:
            return "127.0.0.1", self.ports[inside]
        host = HOSTED.get(self.service.kind, self.name)
        return host, 5432 if self.service.kind == WAREHOUSE else inside


METRICS_SERVICE = ProjectService(
    METRICS, METRICS, (METRICS_PORT,), health=Health("http", METRICS_PORT, "/health")
)


def read_services(root: Path) -> tuple[ProjectService, ...]:
    """The services that the project in `root` declares, in the order of the file.

    Raises:
        ProjectError: an entry is wrong; the message names its line.
    """
    declared = yamlfile.load(root / PROJECT_FILE, name=str(PROJECT_FILE)).entries().get("services")
    if declared is None:
        return ()
    services = tuple(_service(name, node) for name, node in declared.entries().items())
    owners: dict[str, ProjectService] = {}
    ports: dict[int, ProjectService] = {}
    for service in services:
        for connection in service.connections:
            other = owners.setdefault(connection_variable(connection), service)
            if other is not service:
                raise service.error(
                    f"the connection {connection} is that of the service {other.name} already"
                )
        for port in service.fixed.values():
            if ports.setdefault(port, service) is not service:
                raise service.error(f"port {port} is that of the service {ports[port].name} already")
        if service.folder is not None and not (root / service.folder).exists():
            raise service.error(f"services.{service.name}: {service.folder} does not exist in the project")
    return services


# what tasks see


def connection_variable(connection: str) -> str:
    """The environment variable in which Airflow looks for a connection."""
    return f"AIRFLOW_CONN_{connection.upper()}"


def task_environment(
    placed: Iterable[PlacedService], site: Site, secrets: Mapping[str, str]
) -> dict[str, str]:
    """The variables through which tasks find the services: one for each connection, and the plain addresses.

    Args:
        secrets: the sandbox's own; of these `warehouse` is the password of that database's role.
    """
    variables: dict[str, str] = {}
    for each in placed:
        service = each.service
        for connection, extra in service.connections.items():
            variables[connection_variable(connection)] = _connection_value(each, extra, site, secrets)
        prefix = f"ASTRO_SERVICE_{service.name.upper().replace('-', '_')}"
        if service.ports:
            variables[f"{prefix}_URL"] = address_url(each, site, secrets[WAREHOUSE])
        if service.kind == "mail":
            host, port = each.address(site, PAGE)
            variables[f"{prefix}_PAGE_URL"] = f"http://{host}:{port}"
    return variables


def address_url(each: PlacedService, site: Site, password: str) -> str:
    """The address of a service as a URL, for programs that know nothing of Airflow's connections."""
    host, port = each.address(site)
    if each.service.kind == WAREHOUSE:
        return f"postgresql://{WAREHOUSE}:{quote(password)}@{host}:{port}/{WAREHOUSE}"
    scheme = {"mail": "smtp", "redis": "redis"}.get(each.service.kind)
    if each.service.kind == "own" and each.service.health.kind != "http":
        scheme = "tcp"
    return f"{scheme or 'http'}://{host}:{port}"


def _connection_value(each: PlacedService, extra: str, site: Site, secrets: Mapping[str, str]) -> str:
    host, port = each.address(site)
    kind = each.service.kind
    if kind == "own":
        return fill(extra, {**own_words(each, site.services_on_loopback), "host": host, "port": str(port)})
    value: dict[str, Any]
    if kind == "s3":
        value = {
            "conn_type": "aws",
            "login": "test",
            "password": "test",
            "extra": {
                "endpoint_url": f"http://{host}:{port}",
                "region_name": "us-east-1",
                "config_kwargs": {"s3": {"addressing_style": "path"}},
            },
        }
    elif kind == WAREHOUSE:
        value = {
            "conn_type": "postgres",
            "host": host,
            "port": port,
            "login": WAREHOUSE,
            "password": secrets[WAREHOUSE],
            "schema": WAREHOUSE,
        }
    elif kind == "http-stub":
        value = {"conn_type": "http", "host": f"http://{host}:{port}{extra}"}
    elif kind == "mail":
        value = {
            "conn_type": "smtp",
            "host": host,
            "port": port,
            "extra": {"disable_ssl": True, "disable_tls": True, "from_email": "airflow@localhost"},
        }
    else:
        value = {"conn_type": "redis", "host": host, "port": port, "extra": {"db": 0}}
    return json.dumps(value)


def warehouse_login(secrets: Mapping[str, str]) -> dict[str, str]:
    """What Postgres' programs read to reach the warehouse as its owner, where the server's socket is known."""
    return {"PGUSER": WAREHOUSE, "PGDATABASE": WAREHOUSE, "PGPASSWORD": secrets[WAREHOUSE]}


def own_words(each: PlacedService, on_loopback: bool) -> dict[str, str]:
    """What `{port}` and `{port_9000}` mean in the command and connections of a service of one's own."""
    chosen = {inside: each.ports[inside] if on_loopback else inside for inside in each.service.ports}
    words = {f"port_{inside}": str(port) for inside, port in chosen.items()}
    return {**words, "port": str(next(iter(chosen.values())))} if chosen else words


def fill(text: str, words: Mapping[str, str]) -> str:
    """`text` with its `{words}` replaced; braces around anything else stay."""
    return _PLACEHOLDER.sub(lambda found: words.get(found[1], found[0]), text)


def seed_hash(root: Path, service: ProjectService) -> str:
    """A hash of the files that a service is seeded from; empty where there are none, or edits apply at once."""
    if service.folder is None or service.kind == "http-stub":
        return ""
    digest = hashlib.sha256(json.dumps(service.buckets).encode())
    for path in seed_files(root / service.folder):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(root).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()[:16]


def seed_files(path: Path) -> list[Path]:
    """The files of a seed, in order of their names: itself, or all below a folder."""
    return [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())


# reading


def _service(name: str, node: Node) -> ProjectService:
    if not _NAME.fullmatch(name):
        raise node.error(
            f'"{name}" cannot name a service', hint="use up to 31 small letters, digits and -, first a letter"
        )
    if name in NAMES_TAKEN:
        raise node.error(f'"{name}" is the name of one of the sandbox\'s own services', hint="choose another")
    if name not in PORTS:
        return _own(name, node)
    keys = {
        "s3": ("buckets", "seed"),
        WAREHOUSE: ("seed",),
        "http-stub": (),
        "mail": ("page_port",),
        "redis": (),
    }[name]
    required = ("fixtures",) if name == "http-stub" else ()
    entries = node.mapping(required=required, optional=(*keys, "connections", "port"))
    ports = PORTS[name]
    fixed = {}
    for key, inside in zip(("port", "page_port"), ports, strict=False):
        if key in entries:
            fixed[inside] = entries[key].integer(1, 65535)
    if len(set(fixed.values())) < len(fixed):
        raise entries["page_port"].error("port and page_port are the same")
    default = {
        "s3": "aws_default",
        "http-stub": "http_stub",
        "mail": "smtp_default",
        "redis": "redis_default",
    }
    folder = entries.get("fixtures") or entries.get("seed")
    health = {
        "s3": Health("http", ports[0], "/"),
        "http-stub": Health("http", ports[0], "/__stub__/health"),
        "mail": Health("smtp", ports[0]),
        "redis": Health("redis", ports[0]),
    }.get(name, Health("process"))
    return ProjectService(
        name=name,
        kind=name,
        ports=ports,
        fixed=fixed,
        connections=_connections(
            entries.get("connections"), default.get(name, name), paths=name == "http-stub"
        ),
        folder=_path(folder) if folder else None,
        buckets=_buckets(entries["buckets"]) if "buckets" in entries else (),
        health=health,
        line=node.line,
    )


def _own(name: str, node: Node) -> ProjectService:
    entries = node.mapping(
        optional=("image", "command", "ports", "environment", "data", "health", "connections", "port")
    )
    image = entries["image"].string() if "image" in entries else None
    command = _command(entries["command"]) if "command" in entries else ()
    if image is None and not command:
        from difflib import get_close_matches

        near = get_close_matches(name, PORTS, n=1)
        raise node.error(
            f"services.{name} needs an image or a command",
            hint=f"did you mean `{near[0]}`?" if near else f"astro brings these: {', '.join(PORTS)}",
        )
    listed = entries["ports"].items() if "ports" in entries else []
    ports = tuple(item.integer(1, 65535) for item in listed)
    if len(set(ports)) < len(ports):
        raise entries["ports"].error(f"services.{name}.ports names a port twice")
    fixed = {}
    if "port" in entries:
        if not ports:
            raise entries["port"].error(
                "port is where the first of `ports` is on this machine", hint="add ports"
            )
        fixed[ports[0]] = entries["port"].integer(1, 65535)
    environment = {}
    for key, value in entries["environment"].entries().items() if "environment" in entries else ():
        if not _VARIABLE.fullmatch(key):
            raise value.error(f'"{key}" is not a name for an environment variable')
        environment[key] = value.string()
    data = entries["data"].string() if "data" in entries else None
    if data is not None and (not data.startswith("/") or ".." in PurePosixPath(data).parts or data == "/"):
        raise entries["data"].error(f"services.{name}.data must be a folder in the container, such as /data")
    connections = {}
    for connection, uri in entries["connections"].entries().items() if "connections" in entries else ():
        connections[_connection_id(connection, uri)] = uri.string()
        if not ports and "{port" in uri.string():
            raise uri.error(f"services.{name} has no ports that {{port}} could mean", hint="add ports")
    return ProjectService(
        name=name,
        kind="own",
        ports=ports,
        fixed=fixed,
        connections=connections,
        image=image,
        command=command,
        environment=environment,
        data=data,
        health=_health(name, entries.get("health"), ports),
        line=node.line,
    )


def _health(name: str, node: Node | None, ports: tuple[int, ...]) -> Health:
    if node is None:
        return Health("tcp", ports[0]) if ports else Health("process")
    entries = node.mapping(optional=("http", "port"))
    port = entries["port"].integer(1, 65535) if "port" in entries else next(iter(ports), 0)
    if port not in ports:
        raise node.error(
            f"services.{name}.health asks a port that is not among its ports", hint="add it to ports"
        )
    if "http" not in entries:
        return Health("tcp", port)
    path = entries["http"].string()
    if not path.startswith("/"):
        raise entries["http"].error("health.http is a path, such as /health")
    return Health("http", port, path)


def _command(node: Node) -> tuple[str, ...]:
    words = tuple(item.string() for item in node.items())
    if not words:
        raise node.error(
            "a command needs at least the program", hint="for example `command: [python, server.py]`"
        )
    return words


def _buckets(node: Node) -> tuple[str, ...]:
    names = []
    for item in node.items():
        if not _BUCKET.fullmatch(item.string()):
            raise item.error(
                f'"{item.string()}" cannot name a bucket', hint="use 3 to 63 small letters, digits, - and ."
            )
        names.append(item.string())
    return tuple(names)


def _connections(node: Node | None, default: str, *, paths: bool) -> dict[str, str]:
    if node is None:
        return {default: ""}
    if not paths:
        return {_connection_id(item.string(), item): "" for item in node.items()}
    found = {}
    for connection, path in node.entries().items():
        base = "" if path.is_null else path.string().rstrip("/")
        if base and not base.startswith("/"):
            raise path.error(f"the path of the connection {connection} begins with /")
        found[_connection_id(connection, path)] = base
    return found


def _connection_id(text: str, node: Node) -> str:
    if not _CONNECTION.fullmatch(text):
        raise node.error(f'"{text}" cannot be the id of a connection', hint="use letters, digits and _")
    return text


def _path(node: Node) -> str:
    text = node.string()
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise node.error(f"{node.path} is a path in the project, such as services/{node.path.split('.')[1]}")
    return str(path)
