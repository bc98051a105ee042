"""Opens the way to a deployment's target, and decides how images travel there."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from astro_cli.deploy.ssh import SshConnection
from astro_cli.deploy.swarm.target import SwarmTarget
from astro_cli.domain.deployments import KUBERNETES, SWARM
from astro_cli.domain.repository import parse_repository
from astro_cli.runtime.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from astro_cli.deploy.edge.machine import Machine
    from astro_cli.deploy.stack import Names
    from astro_cli.deploy.target import Target
    from astro_cli.domain.deployments import Deployment, Host
    from astro_cli.domain.repository import Credentials
    from astro_cli.runtime.docker_api import DockerApi
    from astro_cli.runtime.engine import Report


@contextmanager
def open_target(
    deployment: Deployment, names: Names, environ: Mapping[str, str], local: Callable[[], DockerApi]
) -> Iterator[Target]:
    """A deployment's target, connected.

    Args:
        local: opens this machine's engine, on which images are built; only called to bring one.

    Raises:
        TargetError: it cannot be reached, or its engine cannot be used.
    """
    if deployment.target == SWARM:
        yield from _cluster(deployment, names, environ, local)
        return
    if deployment.target == KUBERNETES:
        yield _kubernetes(deployment, names, environ, local)
        return
    (host,) = deployment.hosts
    if host.socket:
        yield _target(deployment, names, f"unix://{host.socket}", None, environ, local)
        return
    with SshConnection(host, deployment, environ) as ssh:
        yield _target(deployment, names, f"unix://{ssh.socket}", ssh, environ, local)


def _cluster(
    deployment: Deployment, names: Names, environ: Mapping[str, str], local: Callable[[], DockerApi]
) -> Iterator[SwarmTarget]:
    from astro_cli.deploy.registry import find_credentials
    from astro_cli.deploy.swarm.cluster import ClusterTarget
    from astro_cli.deploy.swarm.nodes import Nodes

    credentials = find_credentials(parse_repository(deployment.registry).host, environ)

    def push(image_id: str, tags: Sequence[str], report: Report) -> str:
        return _push(deployment, image_id, tags, credentials, local(), report)

    with Nodes(deployment, environ, credentials) as nodes:
        yield ClusterTarget(nodes, names, deployment, environ, credentials, push)


def _kubernetes(
    deployment: Deployment, names: Names, environ: Mapping[str, str], local: Callable[[], DockerApi]
) -> Target:
    from astro_cli.deploy.kubernetes.api import KubernetesApi
    from astro_cli.deploy.kubernetes.cluster import connect
    from astro_cli.deploy.kubernetes.target import KubernetesTarget, RegistryDoor
    from astro_cli.deploy.registry import Registry, find_credentials

    repository = parse_repository(deployment.registry)
    credentials = find_credentials(repository.host, environ)

    def push(image_id: str, tags: Sequence[str], report: Report) -> str:
        return _push(deployment, image_id, tags, credentials, local(), report)

    def opened(authority: str) -> Registry:
        return Registry(repository.host, credentials, environ=environ, authority=authority)

    api = KubernetesApi(connect(deployment, environ), deployment.namespace or names.prefix, deployment.where)
    return KubernetesTarget(api, names, deployment, RegistryDoor(repository, credentials, opened, push))


@contextmanager
def open_machine(
    host: Host, deployment: Deployment, names: Names, environ: Mapping[str, str]
) -> Iterator[Machine]:
    """A machine outside of a deployment, connected in the way of its hosts.

    Raises:
        TargetError: it cannot be reached, or has no engine.
    """
    from astro_cli.deploy.edge.machine import Machine
    from astro_cli.deploy.swarm.api import SwarmApi, open_engine

    if host.socket:
        endpoint = Endpoint(f"unix://{host.socket}", host.url)
        yield Machine(SwarmApi(open_engine(endpoint, host.url), host.url), endpoint, None, names, host.url)
        return
    with SshConnection(host, deployment, environ) as ssh:
        endpoint = Endpoint(f"unix://{ssh.socket}", host.url)
        yield Machine(SwarmApi(open_engine(endpoint, host.url), host.url), endpoint, ssh, names, host.url)


def _target(
    deployment: Deployment,
    names: Names,
    url: str,
    ssh: SshConnection | None,
    environ: Mapping[str, str],
    local: Callable[[], DockerApi],
) -> SwarmTarget:
    from astro_cli.deploy.swarm.api import SwarmApi, open_engine

    endpoint = Endpoint(url, f"the deployment `{deployment.name}`")
    api = open_engine(endpoint, deployment.where)

    def bring(image_id: str, tags: Sequence[str], report: Report) -> str:
        if deployment.registry:
            return _through_registry(deployment, image_id, tags, environ, local(), target, report)
        if target.has_image(image_id):
            return image_id
        report.step("copy the image to the host")
        if ssh is None:
            local().copy_image(image_id, api)
            return image_id
        from astro_cli.deploy.transfer import transfer

        return transfer(local(), image_id, api, ssh, names.prefix, report)

    target = SwarmTarget(SwarmApi(api, deployment.where), endpoint, names, deployment, bring)
    return target


def _through_registry(
    deployment: Deployment,
    image_id: str,
    tags: Sequence[str],
    environ: Mapping[str, str],
    local: DockerApi,
    target: SwarmTarget,
    report: Report,
) -> str:
    """Push an image, and have the target pull it by digest."""
    from astro_cli.deploy.registry import find_credentials

    credentials = find_credentials(parse_repository(deployment.registry).host, environ)
    reference = _push(deployment, image_id, tags, credentials, local, report)
    if not target.has_image(reference):
        report.step("pull on the host")
        target.api.pull(reference, credentials)
    return reference


def _push(
    deployment: Deployment,
    image_id: str,
    tags: Sequence[str],
    credentials: Credentials | None,
    local: DockerApi,
    report: Report,
) -> str:
    from astro_cli.deploy.push import push

    report.step(f"push to {deployment.registry}")
    return push(local, image_id, deployment.registry, tags, credentials, report)
