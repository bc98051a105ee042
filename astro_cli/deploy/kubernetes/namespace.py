"""The namespace of a deployment, and what of others is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from astro_cli.deploy.kubernetes.api import NOT_FOUND, RefusedError
from astro_cli.deploy.kubernetes.lock import NAME as LOCK_LEASE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from astro_cli.deploy.kubernetes.api import KubernetesApi

_BY_THE_CLUSTER = ("events", "endpoints", "endpointslices", "controllerrevisions", "replicasets")
"""Made by the cluster for other things, and gone a moment after them."""


def find_namespace(api: KubernetesApi) -> dict[str, Any] | None:
    """The namespace, or None where there is none of that name."""
    try:
        return api.call("GET", f"/api/v1/namespaces/{api.namespace}")
    except RefusedError as exc:
        if exc.status == NOT_FOUND:
            return None
        raise


def find_other(api: KubernetesApi, is_mine: Callable[[Mapping[str, Any]], bool]) -> str:
    """Something in the namespace that is not ours, whatever kind it is of; empty where there is nothing."""
    groups = api.call("GET", "/apis")["groups"]
    places = ["/api/v1", *(f"/apis/{group['preferredVersion']['groupVersion']}" for group in groups)]
    for place in places:
        try:
            kinds = [each for each in api.call("GET", place).get("resources", ()) if _may_hold(each)]
            for kind in kinds:
                for each in api.call("GET", f"{place}/namespaces/{api.namespace}/{kind['name']}")["items"]:
                    if not is_mine(each) and not _is_standard(kind["name"], each):
                        return f"{kind['kind']} `{each['metadata']['name']}`"
        except RefusedError:
            return f"perhaps something of {place}, which cannot be listed,"
    return ""


def _may_hold(kind: Mapping[str, Any]) -> bool:
    return kind["namespaced"] and "list" in kind["verbs"] and kind["name"] not in _BY_THE_CLUSTER


def _is_standard(resource: str, thing: Mapping[str, Any]) -> bool:
    """Whether every namespace has it."""
    name, kind = thing["metadata"]["name"], thing.get("type")
    return (
        (resource == "serviceaccounts" and name == "default")
        or (resource == "configmaps" and name == "kube-root-ca.crt")
        or (resource == "secrets" and kind == "kubernetes.io/service-account-token")
        or (resource == "leases" and name == LOCK_LEASE)
    )
