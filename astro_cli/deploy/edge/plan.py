"""What a worker outside is: a container, or a compose file and a file with its secrets. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from astro_cli.deploy import stack
from astro_cli.domain import airflow
from astro_cli.domain.edge import release_of, worker_name
from astro_cli.foundation import labels
from astro_cli.runtime.plan import ContainerSpec, PrivateFile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from astro_cli.domain.releases import Release

PROGRAM = f"{airflow.DEPLOYED_CODE}/edge_worker.py"
TELL = (*stack.ENTRY, "run", "python3", f"{airflow.DEPLOYED_CODE}/edge_tell.py")
"""Answers in the containers of a deployment; see `inside/edge_tell.py`."""
BUNDLE_CLASS = "astro_edge_bundle.EdgeDagBundle"
SECRETS_FILE = f"{stack.SECRET_FOLDER}/edge.json"
KEY = "AIRFLOW__API_AUTH__JWT_SECRET"
"""With this Airflow's worker signs what it asks; see `inside/edge_key.py`."""
AUTHORITY = "ASTRO_EDGE_AUTHORITY"
"""See `inside/edge_worker.py`."""
GRACE_SECONDS = 60
"""Between the end of the time to drain and the kill of the container."""
COMPOSE_FILE, SECRETS_NAME = "compose.yaml", "secrets.json"
ALIVE = ("starting", "running", "idle", "maintenance mode", "maintenance pending", "maintenance request")
"""States of a worker that has come to stay, in Airflow's words."""
READY = ("running", "idle")


def worker_environment(names: stack.Names, release: Release) -> dict[str, str]:
    """Plain variables of a worker outside: those of the deployment, with everything behind its web address."""
    configuration = release.configuration
    url = configuration["publish"]["base_url"]
    inside = stack.airflow_environment(names, release, {"url": url}, classpath=BUNDLE_CLASS)
    return {
        **{name: value for name, value in inside.items() if name not in airflow.NODE_NAMES},
        **airflow.edge_worker_environment(url, configuration["drain"]),
    }


def worker_command(name: str, group: Mapping[str, Any]) -> list[str]:
    """What the container of a worker runs.

    Args:
        name: of the worker.
        group: as `EdgeGroup.on_target` tells it.
    """
    queues, concurrency = ",".join(group["queues"]), str(group["concurrency"])
    program = ["python3", PROGRAM, name, "--queues", queues, "--concurrency", concurrency]
    return [*stack.ENTRY, "run", *program]


def secrets_text(told: Mapping[str, Any], authority: str = "") -> str:
    """The file with all that is secret at a worker: variables, as `inside/entry.py` takes them.

    Args:
        told: what `inside/edge_tell.py` says.
        authority: PEM text; see `EdgeGroup`. No secret, but the file is there.
    """
    return json.dumps({**told["secrets"], KEY: told["key"], **({AUTHORITY: authority} if authority else {})})


def container(
    names: stack.Names, release: Release, group: str, machine: str, *, image: str, secrets: str
) -> ContainerSpec:
    """The container of a worker.

    Args:
        machine: see `domain.edge.machine_of`.
        image: as the machine's engine calls it.
        secrets: see `secrets_text`.
    """
    wanted = release.configuration["edge"][group]
    return ContainerSpec(
        name=worker_name(group, machine, release.serving),
        image=image,
        command=tuple(worker_command(worker_name(group, machine, release.serving), wanted)),
        user=stack.AIRFLOW_USER,
        environment=worker_environment(names, release),
        mounts=(),
        ports={},
        files=(PrivateFile(SECRETS_FILE, secrets, airflow.UID),),
        stop_seconds=release.configuration["drain"] + GRACE_SECONDS,
        marks=marks(names, group, release),
    )


def marks(names: stack.Names, group: str, release: Release) -> dict[str, str]:
    """Labels by which the container of a worker is found."""
    return {**names.labels, labels.EDGE: group, labels.RELEASE: str(release.serving)}


def compose_text(names: stack.Names, release: Release, group: str, machine: str) -> str:
    """A file for Docker Compose that runs a worker; its secrets are in a file beside it."""
    import yaml

    wanted = release.configuration["edge"][group]
    name = worker_name(group, machine, release.serving)
    grace = release.configuration["drain"] + GRACE_SECONDS
    service = {
        "image": release.image,
        "hostname": name,
        "command": [word.replace("$", "$$") for word in worker_command(name, wanted)],
        "user": stack.AIRFLOW_USER,
        "environment": {
            key: value.replace("$", "$$") for key, value in worker_environment(names, release).items()
        },
        "volumes": [f"./{SECRETS_NAME}:{SECRETS_FILE}:ro"],
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "stop_grace_period": f"{grace}s",
        "restart": "unless-stopped",
        "labels": marks(names, group, release),
        "logging": {"driver": "json-file", "options": {"max-size": "10m", "max-file": "3"}},
    }
    body = yaml.safe_dump(
        {"name": names.of(f"edge-{group}"), "services": {"worker": service}},
        sort_keys=False,
        allow_unicode=True,
        width=1000,
    )
    return (
        f"# An edge worker of {names.project_name}, deployment {names.deployment}, release {release.serving}.\n"
        f"# Once, so that the container and nobody else can read it: sudo chown {airflow.UID} {SECRETS_NAME}\n"
        f"# Then: docker compose up -d --pull missing\n{body}"
    )


def older(workers: Sequence[Mapping[str, Any]], release: Release) -> list[str]:
    """Names of workers that take tasks and are of another release than the running one.

    Args:
        workers: as `inside/edge_tell.py` tells them.
    """
    alive = [each["name"] for each in workers if each["state"] in ALIVE]
    return [name for name in alive if is_older(name, release.serving)]


def is_older(worker: str, release: int) -> bool:
    """Whether a worker is of another release than that one."""
    return release_of(worker) not in (None, release)
