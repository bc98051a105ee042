"""Deployments as the project declares them: the section `deployments` of `.astro/config.yaml`, read strictly."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from astro_cli.domain.airflow import RESERVED
from astro_cli.domain.edge import EdgeGroup, read_edge
from astro_cli.domain.services import SERVICES
from astro_cli.domain.settings import PROJECT_FILE
from astro_cli.domain.workers import WorkerGroup, parse_workers
from astro_cli.foundation import yamlfile
from astro_cli.foundation.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

HOST, SWARM, KUBERNETES = "host", "swarm", "kubernetes"
LOCAL, CELERY = "local", "celery"
EXECUTORS = {HOST: (LOCAL, CELERY), SWARM: (CELERY, LOCAL), KUBERNETES: (LOCAL, KUBERNETES, CELERY)}
"""The executors that each kind of target has, its default first."""
TARGETS = tuple(EXECUTORS)
AIRFLOW_SERVICES = tuple(service.name for service in SERVICES if service.name != "postgres")
BUNDLED = "bundled"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - what a port is published on, said in the user's words
SIZE = "10Gi"
_SERVICE_TYPES = ("ClusterIP", "NodePort", "LoadBalancer")
SECRET = "secret:"  # noqa: S105 - the mark in front of a secret's name
NAME_RULE = "up to 24 lower-case letters, digits and -, starting with a letter"

_NAME = re.compile(r"[a-z](?:[a-z0-9-]{0,22}[a-z0-9])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_DURATION = re.compile(r"([0-9]{1,6})(s|m|h)?")
_SIZE = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(m|g)", re.IGNORECASE)
_NAMESPACE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_QUANTITY = re.compile(r"[1-9][0-9]{0,5}(?:Mi|Gi|Ti)")
_REPOSITORY = re.compile(r"[a-z0-9][A-Za-z0-9.:-]*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)+")


@dataclass(frozen=True)
class Host:
    """Where a target is.

    Attributes:
        url: as the user wrote it: `ssh://user@host:port`, or `unix:///path` for an engine on this machine.
        address: what `ssh` calls it, with the user; empty for a socket.
        port: of its sshd, or None for what the user's `ssh` says.
        socket: the engine's socket on this machine; empty over SSH.
        private: IP address at which the other hosts reach it; empty for the one at which `ssh` did.
    """

    url: str
    address: str = ""
    port: int | None = None
    socket: str = ""
    private: str = ""


@dataclass(frozen=True)
class Resources:
    """Upper limits of one service: bytes of memory and CPUs, each None for no limit."""

    memory: int | None = None
    cpus: float | None = None


@dataclass(frozen=True)
class Publish:
    """Where the web UI and API answer on the host.

    Attributes:
        certificate: PEM file outside the project with chain and key, or `secret:NAME`; empty for plain HTTP.
        url: what people type, if it is not bind address and port (a reverse proxy stands in front).
        service: type of the Service on Kubernetes; empty for one that only the cluster reaches.
        ingress: class of the Ingress on Kubernetes, which answers for the host of `url`; empty for none.
    """

    port: int = 8080
    bind: str = "127.0.0.1"
    certificate: str = ""
    url: str = ""
    service: str = ""
    ingress: str = ""

    @property
    def base_url(self) -> str:
        """The address that Airflow takes for its own."""
        host = "localhost" if self.bind in ("127.0.0.1", EVERYWHERE, "::") else self.bind
        return self.url or f"{'https' if self.certificate else 'http'}://{host}:{self.port}"


@dataclass(frozen=True)
class Storage:
    """Volumes on Kubernetes.

    Attributes:
        storage_class: of the database's and the backups' volume; empty for the cluster's default.
        size: of each, as Kubernetes writes it; empty for `SIZE`.
        logs: class of a volume for task logs, which must allow many nodes to write (ReadWriteMany); empty for none.
    """

    storage_class: str = ""
    size: str = ""
    logs: str = ""


@dataclass(frozen=True)
class Deployment:
    """A named target of a project, with all that a release on it is made from besides the image.

    Attributes:
        hosts: where its engine is reached, the first one that answers.
        ssh_config: file for `ssh -F`; empty for the user's own.
        registry: repository to push to; empty when images travel through the connection.
        registry_authority: PEM file with the authority that signed the registry's certificate, for containers.
        workers: groups of Celery workers; none with another executor.
        edge: groups of machines outside, each with a worker.
        context: of the kubeconfig; empty for its current one, or inside of a cluster for that one.
        kubeconfig: a file; empty for what `kubectl` would use.
        namespace: on Kubernetes; empty for the name of project and deployment.
        replicas: how many of a service, where it is not one.
        parallelism: tasks that run at once on each scheduler.
        drain: seconds in which running tasks may finish when their scheduler is replaced.
        env: plain variables of every Airflow process.
        secrets: names of variables whose values never are in the project.
        secret_file: dotenv file outside the project with their values.
        secret_command: prints the value of the secret whose name is its last argument.
        database: `bundled`, or `secret:NAME` with a SQLAlchemy address.
        keep: how many releases can be returned to.
        keep_logs: days that task logs are kept, and `keep_history` those of runs; 0 for ever.
    """

    name: str
    hosts: tuple[Host, ...]
    target: str = HOST
    identity: str = ""
    ssh_config: str = ""
    registry: str = ""
    registry_authority: str = ""
    context: str = ""
    kubeconfig: str = ""
    namespace: str = ""
    storage: Storage = field(default_factory=Storage)
    executor: str = EXECUTORS[HOST][0]
    workers: tuple[WorkerGroup, ...] = ()
    edge: tuple[EdgeGroup, ...] = ()
    replicas: Mapping[str, int] = field(default_factory=dict)
    resources: Mapping[str, Resources] = field(default_factory=dict)
    parallelism: int = 16
    drain: int = 1800
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    secret_file: str = ""
    secret_command: tuple[str, ...] = ()
    database: str = BUNDLED
    publish: Publish = field(default_factory=Publish)
    keep: int = 5
    keep_logs: int = 30
    keep_history: int = 90
    pytest: bool = False
    require_clean: bool = False

    @property
    def where(self) -> str:
        """Where it is, as the user wrote it."""
        if self.target == KUBERNETES:
            return f"Kubernetes ({self.context or 'current context'})"
        return ", ".join(host.url for host in self.hosts)

    @property
    def secret_names(self) -> tuple[str, ...]:
        """Every secret it needs: those of `secrets`, the database's and the certificate's."""
        named = (self.database, self.publish.certificate)
        others = (text.removeprefix(SECRET) for text in named if text.startswith(SECRET))
        return tuple(dict.fromkeys((*self.secrets, *others)))

    def on_target(self) -> dict[str, Any]:
        """What a release is made from: no address, no credentials, only names of secrets. Plain JSON data."""
        publish: dict[str, Any] = {"certificate": self.publish.certificate, "base_url": self.publish.base_url}
        if self.target == KUBERNETES:
            own: dict[str, Any] = {
                "registry_authority": bool(self.registry_authority),
                "storage": {**asdict(self.storage), "size": self.storage.size or SIZE},
            }
            publish |= {"service": self.publish.service or _SERVICE_TYPES[0], "ingress": self.publish.ingress}
        else:
            own = {}
            publish |= {"port": self.publish.port, "bind": self.publish.bind}
        return {
            **own,
            "executor": self.executor,
            **({"target": self.target} if self.target != HOST else {}),
            **({"registry": self.registry} if self.target != HOST else {}),
            **({"workers": {group.name: _plain(group) for group in self.workers}} if self.workers else {}),
            **({"edge": {group.name: group.on_target() for group in self.edge}} if self.edge else {}),
            "replicas": {name: self.replicas.get(name, 1) for name in AIRFLOW_SERVICES},
            "resources": {name: [each.memory, each.cpus] for name, each in sorted(self.resources.items())},
            "parallelism": self.parallelism,
            "drain": self.drain,
            "env": dict(sorted(self.env.items())),
            "secrets": sorted(self.secrets),
            "retention": {"logs": self.keep_logs, "history": self.keep_history},
            "database": self.database,
            "publish": publish,
        }


def read_deployments(root: Path) -> dict[str, Deployment]:
    """The deployments that the project in `root` declares, in the file's order.

    Raises:
        ProjectError: something in them is wrong; the message names file and line.
    """
    return parse_deployments(yamlfile.load(root / PROJECT_FILE, name=str(PROJECT_FILE)))


def parse_deployments(root: yamlfile.Node) -> dict[str, Deployment]:
    """The deployments of a configuration that was read; see `read_deployments`."""
    entries = root.entries()
    if "deployments" not in entries:
        return {}
    return {name: _deployment(name, node) for name, node in entries["deployments"].entries().items()}


def choose_deployment(known: Mapping[str, Deployment], name: str | None) -> Deployment:
    """The one called `name`; without a name the only one there is.

    Raises:
        UsageError: there is none of that name, or several and none is named. It is never guessed.
    """
    if not known:
        raise UsageError(
            "the project declares no deployment",
            hint="add one: `astro deployment add prod --host ssh://user@host`",
        )
    if name is None:
        if len(known) == 1:
            return next(iter(known.values()))
        raise UsageError(
            f"the project has {len(known)} deployments: {', '.join(known)}", hint="name the one that is meant"
        )
    if name not in known:
        from difflib import get_close_matches

        near = get_close_matches(name, known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"there is: {', '.join(known)}"
        raise UsageError(f"there is no deployment `{name}`", hint=hint)
    return known[name]


def check_deployment_name(name: str) -> str:
    """`name` itself, if it may name a deployment.

    Raises:
        UsageError: it may not.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f'"{name}" cannot name a deployment: use {NAME_RULE}', hint="for example `prod`")
    return name


_FIELDS = (
    "target",
    "registry",
    "executor",
    "replicas",
    "resources",
    "parallelism",
    "drain",
    "env",
    "secrets",
    "secret_file",
    "secret_command",
    "database",
    "publish",
    "retention",
    "gates",
)
_SSH_FIELDS = ("identity", "ssh_config")
_KUBERNETES_FIELDS = ("context", "kubeconfig", "namespace")
_OWN_FIELDS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    HOST: (("host",), (*_SSH_FIELDS, "workers", "edge")),
    SWARM: (("hosts", "registry"), (*_SSH_FIELDS, "workers", "edge", "registry_authority")),
    KUBERNETES: (("registry",), (*_KUBERNETES_FIELDS, "workers", "registry_authority", "storage")),
}
"""What only one kind of target has: the fields that it needs, and those that it may have."""


def _plain(group: WorkerGroup) -> dict[str, Any]:
    return {"count": group.count, "concurrency": group.concurrency, "queues": list(group.queues)}


def _deployment(name: str, node: yamlfile.Node) -> Deployment:
    if not _NAME.fullmatch(name):
        raise node.error(f'"{name}" cannot name a deployment: use {NAME_RULE}')
    target = node.entries()["target"].choice(*TARGETS) if "target" in node.entries() else HOST
    required, optional = _OWN_FIELDS[target]
    fields = node.mapping(required=required, optional=(*optional, *_FIELDS))
    words = (*_SSH_FIELDS, *_KUBERNETES_FIELDS, "secret_file", "registry_authority")
    values: dict[str, Any] = {key: fields[key].string() for key in words if key in fields}
    if "namespace" in fields and not _NAMESPACE.fullmatch(values["namespace"]):
        raise fields["namespace"].error(
            f"{fields['namespace'].path} must be lower-case letters, digits and -"
        )
    if "storage" in fields:
        values["storage"] = _storage(fields["storage"])
    hosts = _hosts(fields["hosts"]) if "hosts" in fields else ()
    if "host" in fields:
        hosts = (read_host(fields["host"]),)
    values["executor"] = EXECUTORS[target][0]
    if "executor" in fields:
        values["executor"] = fields["executor"].choice(*EXECUTORS[target])
    if values["executor"] == CELERY:
        values["workers"] = parse_workers(fields.get("workers"), count=max(1, len(hosts)))
    elif "workers" in fields:
        raise fields["workers"].error(f"workers need `executor: {CELERY}`")
    if "registry" in fields:
        values["registry"] = _registry(fields["registry"])
    if "replicas" in fields:
        counts = fields["replicas"].mapping(optional=AIRFLOW_SERVICES)
        values["replicas"] = {key: child.integer(1, 20) for key, child in counts.items()}
    if "resources" in fields:
        groups = (group.name for group in values.get("workers", ()))
        tasks = ("task",) if values["executor"] == KUBERNETES else ()
        known = (*(service.name for service in SERVICES), *groups, *tasks)
        limits = fields["resources"].mapping(optional=known)
        values["resources"] = {key: _resources(child) for key, child in limits.items()}
    if "parallelism" in fields:
        values["parallelism"] = fields["parallelism"].integer(1, 256)
    if "drain" in fields:
        values["drain"] = _seconds(fields["drain"])
    if "env" in fields:
        values["env"] = {key: _value(key, child) for key, child in fields["env"].entries().items()}
    if "secrets" in fields:
        values["secrets"] = tuple(_secret(child) for child in fields["secrets"].items())
    if "secret_command" in fields:
        values["secret_command"] = tuple(child.string() for child in fields["secret_command"].items())
    if "database" in fields:
        values["database"] = _database(fields["database"])
    if "publish" in fields:
        values["publish"] = _publish(fields["publish"], target)
    elif target == SWARM:
        values["publish"] = Publish(bind=EVERYWHERE)
    if "retention" in fields:
        kept = fields["retention"].mapping(optional=("releases", "logs", "history"))
        if "releases" in kept:
            values["keep"] = kept["releases"].integer(1, 100)
        values.update({f"keep_{key}": _days(kept[key]) for key in ("logs", "history") if key in kept})
    if "gates" in fields:
        gates = fields["gates"].mapping(optional=("pytest", "require_clean"))
        values.update({key: child.boolean() for key, child in gates.items()})
    if "edge" in fields:
        values["edge"] = _edge(fields["edge"], values)
    both = set(values.get("env", ())) & set(values.get("secrets", ()))
    if both:
        raise fields["env"].error(f"{sorted(both)[0]} is both in env and in secrets")
    return Deployment(name=name, target=target, hosts=hosts, **values)


def _edge(node: yamlfile.Node, values: Mapping[str, Any]) -> tuple[EdgeGroup, ...]:
    publish = values.get("publish")
    if publish is None or not publish.url:
        raise node.error(
            f"{node.path} needs `publish: {{url: …}}`: the address at which machines outside reach the web UI",
            hint="for example https://airflow.example.com; on a host, `bind` must let them in as well",
        )
    return read_edge(
        node,
        address=read_host,
        workers=values.get("workers", ()),
        secrets=values.get("secrets", ()),
    )


def _hosts(node: yamlfile.Node) -> tuple[Host, ...]:
    found: list[Host] = []
    for item in node.items():
        fields = {"url": item}
        if isinstance(item.value, dict):
            fields = item.mapping(required=("url",), optional=("private",))
        host = read_host(fields["url"])
        if host.url in {each.url for each in found}:
            raise item.error(f"{host.url} is named twice")
        if "private" in fields:
            host = replace(host, private=_ip_address(fields["private"]))
        found.append(host)
    if not found:
        raise node.error(
            f"{node.path} must name a host", hint="for example [ssh://deploy@vm1, ssh://deploy@vm2]"
        )
    return tuple(found)


def read_host(node: yamlfile.Node) -> Host:
    """A host by its address.

    Raises:
        ProjectError: it is none.
    """
    text = node.string()
    example = "for example ssh://deploy@203.0.113.7, ssh://deploy@vm1:2222 or unix:///var/run/docker.sock"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as exc:
        raise node.error(f"{node.path} is no address: {exc}", hint=example) from exc
    if parts.password is not None:
        raise node.error(f"{node.path} holds a password", hint="use a key: `ssh-copy-id user@host`")
    if parts.scheme == "unix" and parts.path:
        return Host(text, socket=parts.path)
    if parts.scheme != "ssh" or not parts.hostname or parts.path.strip("/"):
        raise node.error(f"{node.path} must be the address of a host", hint=example)
    # Both are arguments of ssh: neither may look like an option.
    if parts.hostname.startswith("-") or (parts.username or "").startswith("-"):
        raise node.error(f"{node.path} must be the address of a host", hint=example)
    address = f"{parts.username}@{parts.hostname}" if parts.username else parts.hostname
    return Host(text, address=address, port=port)


def _registry(node: yamlfile.Node) -> str:
    text = node.string()
    if not _REPOSITORY.fullmatch(text):
        raise node.error(
            f"{node.path} must be a repository: HOST/PATH, without scheme and tag",
            hint="for example registry.example.com/team/project",
        )
    return text


def _resources(node: yamlfile.Node) -> Resources:
    fields = node.mapping(optional=("memory", "cpus"))
    memory = None
    if "memory" in fields:
        match = _SIZE.fullmatch(fields["memory"].string())
        if match is None:
            raise fields["memory"].error(f"{fields['memory'].path} must be a size such as 512m or 2g")
        memory = int(float(match[1]) * (1024**2 if match[2].lower() == "m" else 1024**3))
    cpus = None
    if "cpus" in fields:
        try:
            cpus = float(fields["cpus"].string())
        except ValueError:
            cpus = 0.0
        if not 0.01 <= cpus <= 1024:
            raise fields["cpus"].error(f"{fields['cpus'].path} must be a number such as 1.5")
    return Resources(memory, cpus)


def _seconds(node: yamlfile.Node) -> int:
    match = _DURATION.fullmatch(node.string())
    if match is None:
        raise node.error(f"{node.path} must be a time such as 90s, 30m or 2h")
    return int(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2] or "s"]


def _days(node: yamlfile.Node) -> int:
    match = re.fullmatch(r"([0-9]{1,5})d?", node.string())
    if match is None:
        raise node.error(f"{node.path} must be a number of days such as 30d; 0 keeps for ever")
    return int(match[1])


def _value(key: str, node: yamlfile.Node) -> str:
    if not _VARIABLE.fullmatch(key):
        raise node.error(f'"{key}" cannot name a variable')
    if key in RESERVED:
        raise node.error(f"{key} is set by the deployment itself")
    return node.string()


def _secret(node: yamlfile.Node) -> str:
    name = node.string()
    if not _VARIABLE.fullmatch(name):
        raise node.error(
            f"{node.path} must be the name of a variable", hint="only the name stands here, never the value"
        )
    if name in RESERVED:
        raise node.error(f"{name} is set by the deployment itself")
    return name


def _database(node: yamlfile.Node) -> str:
    text = node.string()
    if text == BUNDLED or (text.startswith(SECRET) and _VARIABLE.fullmatch(text.removeprefix(SECRET))):
        return text
    raise node.error(
        f"{node.path} must be `{BUNDLED}`, or `{SECRET}NAME` with the name of a secret that holds its address"
    )


def _storage(node: yamlfile.Node) -> Storage:
    fields = node.mapping(optional=("class", "size", "logs"))
    if "size" in fields and not _QUANTITY.fullmatch(fields["size"].string()):
        raise fields["size"].error(f"{fields['size'].path} must be a size such as 20Gi")
    names = {"class": "storage_class", "size": "size", "logs": "logs"}
    return Storage(**{names[key]: child.string() for key, child in fields.items()})


_PUBLISH_FIELDS = {HOST: ("port", "bind"), SWARM: ("port", "bind"), KUBERNETES: ("service", "ingress")}


def _publish(node: yamlfile.Node, target: str) -> Publish:
    fields = node.mapping(optional=("certificate", "url", *_PUBLISH_FIELDS[target]))
    only = EVERYWHERE if target == SWARM else ""
    words = ("bind", "certificate", "ingress")
    values: dict[str, Any] = {key: fields[key].string() for key in words if key in fields}
    if "service" in fields:
        values["service"] = fields["service"].choice(*_SERVICE_TYPES)
    if "ingress" in fields and "url" not in fields:
        raise node.error(f"{node.path} needs the `url` that the Ingress answers for")
    if "certificate" in fields and target == KUBERNETES and "ingress" not in fields:
        raise fields["certificate"].error(
            f"{fields['certificate'].path} is for an Ingress: name its class, too"
        )
    if "port" in fields:
        values["port"] = fields["port"].integer(1, 65535)
    if "url" in fields:
        values["url"] = fields["url"].string().rstrip("/")
        if urlsplit(values["url"]).scheme not in ("http", "https"):
            raise fields["url"].error(f"{fields['url'].path} must begin with http:// or https://")
    if "bind" in values:
        _ip_address(fields["bind"], hint=f"{EVERYWHERE} for every address")
        if only and values["bind"] != only:
            raise fields["bind"].error(
                f"{fields['bind'].path} must be {only}: an engine cannot bind the port of a service to one address",
                hint="leave it out, and let the firewall of the hosts decide who may connect",
            )
    return Publish(**{"bind": only, **values} if only else values)


def _ip_address(node: yamlfile.Node, hint: str | None = None) -> str:
    import ipaddress

    text = node.string()
    try:
        ipaddress.ip_address(text)
    except ValueError as exc:
        raise node.error(f"{node.path} must be an IP address of the host", hint=hint) from exc
    return text
