"""What is left of a deployment that is removed; the last of the tests on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.deploy.deployed import NAME
from tests.kubernetes.live import NAMESPACE

if TYPE_CHECKING:
    from tests.kubernetes.live import Live

pytestmark = [pytest.mark.long, pytest.mark.engine, pytest.mark.deploy]


def test_stop_and_destroy_leave_nothing_of_their_own_and_all_of_others(live: Live) -> None:
    live.astro("deployment", "stop", NAME)
    assert not live.names("pods", "astro.kind=object")
    live.kubectl("create", "configmap", "of-somebody-else", "--from-literal=a=b")
    live.astro("deployment", "destroy", NAME, "--yes")
    left = live.names(
        "all,configmaps,secrets,persistentvolumeclaims,roles,rolebindings,serviceaccounts,leases"
    )
    assert {name for name in left if "token" not in name} == {
        "configmap/kube-root-ca.crt", "configmap/of-somebody-else", "serviceaccount/default",
    }  # fmt: skip
    live.kubectl("delete", "configmap", "of-somebody-else")
    live.astro("deployment", "destroy", NAME, "--yes")
    assert f"namespace/{NAMESPACE}" not in live.kubectl("get", "namespaces", "-o", "name").split()
