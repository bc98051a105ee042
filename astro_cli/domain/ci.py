"""What `ci init` writes: a small workflow for a CI system, from a template that people edit afterwards."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from astro_cli import __version__
from astro_cli.domain.deployments import KUBERNETES
from astro_cli.foundation.render import File, render

if TYPE_CHECKING:
    from astro_cli.domain.deployments import Deployment

TEMPLATES = Path(__file__).parents[1] / "templates/ci"
PATHS = {
    "github": PurePosixPath(".github/workflows/airflow.yml"),
    "gitlab": PurePosixPath(".gitlab-ci.yml"),
    "circleci": PurePosixPath(".circleci/config.yml"),
    "jenkins": PurePosixPath("Jenkinsfile"),
}
"""Where each system looks for its workflow."""

SSH = {
    "ASTRO_SSH_KEY": "a private key that may log in on the host, without passphrase",
    "ASTRO_SSH_KNOWN_HOSTS": "the host's line of known_hosts: ssh-keyscan -p PORT HOST, compared with its own",
}
CLUSTER = {"ASTRO_KUBECONFIG": "the text of a kubeconfig, which may do what docs/kubernetes.md lists"}
REGISTRY = {
    "ASTRO_REGISTRY_USERNAME": "of the registry",
    "ASTRO_REGISTRY_PASSWORD": "of the registry; a token with the right to push is best",
}


def variables(deployment: Deployment) -> dict[str, str]:
    """The variables with secret values that a CI job must have to deploy, with their meaning."""
    return {
        **(SSH if any(host.address for host in deployment.hosts) else {}),
        **(CLUSTER if deployment.target == KUBERNETES else {}),
        **(REGISTRY if deployment.registry else {}),
        **dict.fromkeys(deployment.secret_names, "a secret of the deployment"),
    }


def workflow(system: str, deployment: Deployment, *, branch: str) -> File:
    """The workflow that checks every change, plans pull requests, and deploys `branch`.

    Args:
        system: one of `PATHS`.
        deployment: what is deployed to.
        branch: the branch whose state is deployed.
    """
    path = PATHS[system]
    template = f"{path.name if path.suffix == '' else system + '.yml'}.j2"
    meanings = variables(deployment)
    values = {
        "branch": branch,
        "deployment": deployment.name,
        "secrets": list(meanings),
        "meanings": meanings,
        "cluster": deployment.target == KUBERNETES,
        "multiline": [*SSH, *CLUSTER],
        "version": __version__,
    }
    return File(
        path, render((TEMPLATES / template).read_text(encoding="utf-8"), values, name=f"ci/{template}")
    )
