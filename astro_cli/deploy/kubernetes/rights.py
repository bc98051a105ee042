"""What a deployment must be allowed to do on its cluster, asked of it before anything is begun."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from astro_cli.domain.deployments import KUBERNETES
from astro_cli.foundation.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from astro_cli.deploy.kubernetes.api import KubernetesApi
    from astro_cli.domain.deployments import Deployment


class Right(NamedTuple):
    """One verb on one kind of thing; `group` is that of its API, empty for the oldest."""

    resource: str
    verb: str
    group: str = ""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}{f'.{self.group}' if self.group else ''}"


WRITE = ("get", "list", "create", "patch", "delete")
_ALWAYS: Sequence[tuple[str, str, Sequence[str]]] = (
    ("", "configmaps", WRITE),
    ("", "persistentvolumeclaims", WRITE),
    ("", "pods", ("get", "list", "create", "delete")),
    ("", "pods/exec", ("get", "create")),
    ("", "pods/log", ("get",)),
    ("", "pods/portforward", ("get", "create")),
    ("", "secrets", WRITE),
    ("", "serviceaccounts", WRITE),
    ("", "services", WRITE),
    ("apps", "deployments", WRITE),
    ("apps", "statefulsets", WRITE),
    ("batch", "jobs", WRITE),
    ("coordination.k8s.io", "leases", WRITE),
)
_ROLES = ("roles", "rolebindings")
_TASKS: Sequence[tuple[str, str, Sequence[str]]] = (
    *(("rbac.authorization.k8s.io", each, WRITE) for each in _ROLES),
    ("", "pods", ("patch", "watch")),  # nobody can give what they do not have
)


def needed(deployment: Deployment, *, new: bool) -> tuple[Right, ...]:
    """The rights that a deployment needs in its namespace.

    Args:
        new: whether the namespace has to be made as well.
    """
    rows = list(_ALWAYS)
    if deployment.executor == KUBERNETES:
        rows += _TASKS
    if deployment.publish.ingress:
        rows.append(("networking.k8s.io", "ingresses", WRITE))
    counts = (*deployment.replicas.values(), *(group.count for group in deployment.workers))
    if any(count > 1 for count in counts):
        rows.append(("policy", "poddisruptionbudgets", WRITE))
    if new:
        rows.append(("", "namespaces", ("create",)))
    return tuple(Right(resource, verb, group) for group, resource, verbs in rows for verb in verbs)


def require(api: KubernetesApi, wanted: Iterable[Right]) -> None:
    """Refuse to begin what could not be ended.

    Raises:
        TargetError: the login may not do something of it; the message names each verb and resource.
    """
    body = {"spec": {"namespace": api.namespace}}
    rules = api.call(
        "POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", body=_review("Rules", body)
    )
    known = rules["status"].get("resourceRules") or []
    missing = [right for right in wanted if not any(_gives(rule, right) for rule in known)]
    missing = [right for right in missing if not _may(api, right)]  # the list of rules need not be complete
    if missing:
        words = "; ".join(
            f"{', '.join(right.verb for right in rights)} {str(first).partition(' ')[2]}"
            for first, rights in ((group[0], group) for group in _by_resource(missing))
        )
        raise TargetError(
            f"the login may not do this in the namespace {api.namespace}: {words}",
            hint="ask the cluster's administrator for these rights; docs/kubernetes.md has a Role with all of them",
        )


def _by_resource(rights: Sequence[Right]) -> list[list[Right]]:
    ordered = sorted(rights, key=lambda right: (right.group, right.resource))
    return [list(group) for _, group in groupby(ordered, key=lambda right: (right.group, right.resource))]


def _gives(rule: Mapping[str, Any], right: Right) -> bool:
    return (
        not rule.get("resourceNames")
        and bool({right.verb, "*"} & set(rule.get("verbs") or ()))
        and bool({right.group, "*"} & set(rule.get("apiGroups") or ()))
        and bool({right.resource, "*"} & set(rule.get("resources") or ()))
    )


def _may(api: KubernetesApi, right: Right) -> bool:
    resource, _, part = right.resource.partition("/")
    attributes = {"namespace": api.namespace, "verb": right.verb, "group": right.group, "resource": resource}
    if part:
        attributes["subresource"] = part
    if resource == "namespaces":
        del attributes["namespace"]
    body = _review("Access", {"spec": {"resourceAttributes": attributes}})
    found = api.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body=body)
    return bool(found["status"].get("allowed"))


def _review(kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "authorization.k8s.io/v1", "kind": f"SelfSubject{kind}Review", **body}
