"""What `export` writes: the project for other tools, so that it can leave astro at any time.

Both files are rendered from the table of services and from a deployment's configuration, as a release is. What they
run is Airflow alone, no program of astro: any image with Airflow and the project in it will do.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from astro_cli import __version__
from astro_cli.deploy import stack
from astro_cli.domain import airflow
from astro_cli.domain.deployments import BUNDLED, SECRET, Deployment
from astro_cli.domain.envfile import load_env
from astro_cli.domain.project_services import read_services
from astro_cli.domain.services import SERVICES
from astro_cli.foundation.render import render

if TYPE_CHECKING:
    from collections.abc import Mapping

    from astro_cli.domain.project import Project
    from astro_cli.domain.project_services import ProjectService

TEMPLATES = Path(__file__).parents[1] / "templates/export"
EXECUTORS = {"local": "LocalExecutor", "celery": "CeleryExecutor", "kubernetes": "KubernetesExecutor"}
CHART_VERSION = "1.22.0"
"""The version of the official chart whose values are written."""

PASSWORD = "AIRFLOW_ADMIN_PASSWORD"  # noqa: S105 - a variable's name
_LOGIN_FILE = "/tmp/astro-login.json"  # noqa: S108 - the container's


@dataclass(frozen=True)
class Export:
    """A file, and what must be known of it.

    Attributes:
        needed: what it expects to be given when it is used, with its meaning.
        left_out: what the project has and the file has not, a sentence each.
    """

    text: str
    needed: Mapping[str, str]
    left_out: tuple[str, ...]


_NO_DEPLOYMENT = Deployment("", ())
"""What is exported where the project declares none: all defaults."""


def compose(
    project: Project, deployment: Deployment | None, *, folder: Path, environ: Mapping[str, str]
) -> Export:
    """The project as a file for Docker Compose: the services of a deployment, on one machine.

    Args:
        deployment: whose replicas, limits, variables and names of secrets hold; without one, the project's `.env`.
        folder: where the file will be, from which it names the project.
        environ: the environment, which a `.env` may name.
    """
    context = os.path.relpath(project.root, folder)
    dotenv = project.root / ".env"
    users = {}
    if deployment is None and dotenv.is_file():
        users = load_env(dotenv, environ, name=dotenv.name)
    env_file = os.path.join(context, dotenv.name) if users else ""  # noqa: PTH118 - keeps the `.`
    deployment = deployment or _NO_DEPLOYMENT
    bundled = deployment.database == BUNDLED
    secrets = dict.fromkeys(deployment.secrets, "a secret of the project")
    needed = {
        "AIRFLOW__CORE__FERNET_KEY": "32 random bytes in URL-safe base64",
        "AIRFLOW__API_AUTH__JWT_SECRET": "random, 64 characters or more",
        "AIRFLOW__API__SECRET_KEY": "random, 64 characters or more",
        **secrets,
    }
    address = "POSTGRES_PASSWORD" if bundled else deployment.database.removeprefix(SECRET)
    needed = {name: meaning for name, meaning in needed.items() if name not in users}
    needed[address] = "letters and digits" if bundled else "SQLAlchemy address of the metadata database"
    database = airflow.CONTAINER.database.replace("{password}", _needed(address))
    base_url = deployment.publish.url or f"http://localhost:${{AIRFLOW_PORT:-{deployment.publish.port}}}"
    plain = _environment(project, deployment, base_url="")
    environment = {
        name: _plain(value)
        for name, value in plain.items()
        if name not in users or name in airflow.RESERVED  # Compose would let this file win
    }
    environment |= {
        "AIRFLOW__API__BASE_URL": base_url,
        **{name: _needed(name) for name in needed if name != address},
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database if bundled else _needed(address),
    }
    signs_in = airflow.AUTH_MANAGER not in {**deployment.env, **users}
    if signs_in:
        needed[PASSWORD] = f"of the user {airflow.ADMIN}"
    rows = [row for row in SERVICES if row.name != stack.POSTGRES]
    left_out = _left_out(project, deployment)
    values = {
        **_common(project),
        "context": _quoted(_plain(context)),
        "image": f"{_slug(project.name)}-airflow",
        "user": stack.AIRFLOW_USER,
        "postgres_user": stack.POSTGRES_UID,
        "postgres_major": airflow.POSTGRES_MAJOR,
        "postgres_limits": _limits(deployment, stack.POSTGRES),
        "home": airflow.HOME,
        "port": airflow.API_PORT,
        "published": deployment.publish.port,
        "bundled": bundled,
        "env_file": _quoted(_plain(env_file)) if env_file else "",
        "environment": {name: _quoted(value) for name, value in sorted(environment.items())},
        "services": [
            {
                "name": row.name,
                "command": _quoted(
                    ["python", "-c", _sign_in(f"os.environ['{PASSWORD}']")]
                    if signs_in and row.name == stack.API_SERVER
                    else ["airflow", *row.command]
                ),
                "health": row.health,
                "read_only": row.read_only,
                "public": row.name == stack.API_SERVER,
                "password": _needed(PASSWORD) if signs_in and row.name == stack.API_SERVER else "",
                "grace": deployment.drain if row.name == "scheduler" else stack.GRACE_SECONDS,
                "scale": deployment.replicas.get(row.name, 1),
                "limits": _limits(deployment, row.name),
            }
            for row in rows
        ],
        "needed": needed,
        "left_out": left_out,
    }
    return Export(_render("compose.yaml.j2", values), needed, left_out)


def helm_values(project: Project, deployment: Deployment | None, *, executor: str) -> Export:
    """Values for the official Airflow chart. They were written from its documentation and never run with helm here.

    Args:
        executor: one of `EXECUTORS`.
    """
    deployment = deployment or _NO_DEPLOYMENT
    secret = f"{_slug(project.name)}-airflow"
    signs_in = airflow.AUTH_MANAGER not in deployment.env
    needed = {
        "fernet-key": "32 random bytes in URL-safe base64",
        "jwt-secret": "random, 64 characters or more",
        "api-secret-key": "random, 64 characters or more",
        "connection": "SQLAlchemy address of the metadata database",
        **dict.fromkeys(deployment.secrets, "a secret of the project"),
    }
    if signs_in:
        needed["admin-password"] = f"of the user {airflow.ADMIN}"
    environment = _environment(project, deployment, base_url=deployment.publish.url)
    for name in (airflow.EXECUTOR, "AIRFLOW__CORE__EXECUTION_API_SERVER_URL", *_OF_THE_CHART):
        if name not in deployment.env:
            environment.pop(name, None)
    if not deployment.publish.url:
        del environment["AIRFLOW__API__BASE_URL"]
    left_out = _left_out(project, deployment)
    values = {
        **_common(project),
        "chart_version": CHART_VERSION,
        "executor": EXECUTORS[executor],
        "repository": deployment.registry or f"registry.example.com/team/{_slug(project.name)}",
        "environment": {name: _quoted(value) for name, value in sorted(environment.items())},
        "secret": secret,
        "secrets": list(deployment.secrets),
        "signs_in": signs_in,
        "sign_in": _quoted(["python", "-c", _sign_in("open('/run/astro-login/password').read().strip()")]),
        "components": [
            {
                "name": re.sub(r"-(.)", lambda found: found[1].upper(), row.name),
                "replicas": deployment.replicas.get(row.name, 1),
                "limits": _limits(deployment, row.name),
                "job": _JOBS.get(row.name, ""),
                "public": row.name == stack.API_SERVER,
            }
            for row in SERVICES
            if row.name != stack.POSTGRES
        ],
        "needed": needed,
        "left_out": left_out,
    }
    return Export(_render("helm-values.yaml.j2", values), needed, left_out)


_JOBS = {"scheduler": "SchedulerJob", "dag-processor": "DagProcessorJob", "triggerer": "TriggererJob"}
"""What `airflow jobs check` calls the services. The chart's own probe starts a program of the official image."""

_OF_THE_CHART = ("AIRFLOW_HOME", "AIRFLOW_CONFIG", "AIRFLOW__API__HOST", "AIRFLOW__API__PORT")
"""Which the chart decides: it mounts an airflow.cfg of its own, and has its own ports."""


def _environment(project: Project, deployment: Deployment, *, base_url: str) -> dict[str, str]:
    """The plain variables of a deployment's Airflow, without those that need a program of astro."""
    own = airflow.deployed_environment(
        instance_name=project.name, base_url=base_url, parallelism=deployment.parallelism, user=deployment.env
    )
    ours = {airflow.EXECUTOR: EXECUTORS["local"], "PYTHONPATH": airflow.HOME}
    del own["FORWARDED_ALLOW_IPS"]  # there is no proxy whose headers could be believed
    return {**own, **{name: value for name, value in ours.items() if name not in deployment.env}}


def _sign_in(password: str) -> str:
    """A Python program that starts the api-server with a password for the admin.

    Airflow's simple login reads it from a file that it wants to write to as well.

    Args:
        password: the expression that gives it.
    """
    login = f"json.dump({{{airflow.ADMIN!r}: {password}}}, open('{_LOGIN_FILE}', 'w'))"
    return f"import json, os; {login}; os.execvp('airflow', ['airflow', 'api-server'])"


def _common(project: Project) -> dict[str, Any]:
    return {"name": project.name, "version": __version__, "airflow_version": airflow.DEFAULT_VERSION}


def _limits(deployment: Deployment, service: str) -> dict[str, str]:
    """Upper limits as both formats write them: bytes and CPUs."""
    limits = deployment.resources.get(service)
    if limits is None:
        return {}
    found = {"memory": limits.memory, "cpus": limits.cpus}
    return {name: f"{value:g}" if name == "cpus" else str(value) for name, value in found.items() if value}


def _left_out(project: Project, deployment: Deployment) -> tuple[str, ...]:
    """What somebody who knows the project would look for in vain."""
    found = [_stand_in(service) for service in read_services(project.root)]
    if deployment.publish.certificate:
        found.append("TLS: put a proxy of your own before the api-server")
    found.append("the daily removal of old logs and runs: `airflow db clean`, and a job of your own for logs")
    return tuple(found)


def _stand_in(service: ProjectService) -> str:
    variables = ", ".join(f"AIRFLOW_CONN_{name.upper()}" for name in service.connections)
    return f"the sandbox's service {service.name}" + (f": set {variables} to the real one" * bool(variables))


def _slug(name: str) -> str:
    """A name for images and Kubernetes' objects."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "project"


def _needed(name: str) -> str:
    """A value that compose takes from its environment, and refuses to start without."""
    return f"${{{name}:?}}"


def _plain(value: str) -> str:
    """A value in which compose must fill in nothing."""
    return value.replace("$", "$$")


def _quoted(value: object) -> str:
    """JSON, which is YAML, too."""
    return json.dumps(value, ensure_ascii=False)


def _render(template: str, values: Mapping[str, object]) -> str:
    return render((TEMPLATES / template).read_text(encoding="utf-8"), values, name=f"export/{template}")
