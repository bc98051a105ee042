"""What a real cluster refuses is one sentence, and nothing was begun."""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.deploy.deployed import NAME

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kubernetes.live import Live

pytestmark = [pytest.mark.long, pytest.mark.engine, pytest.mark.deploy]


def login(bare: Live, folder: Path, name: str, rules: list[dict[str, Any]]) -> Path:
    """The kubeconfig of an account that may do just this in the deployment's namespace."""
    bare.kubectl("create", "namespace", name)
    bare.kubectl("create", "serviceaccount", "robot", namespace=name)
    group = "rbac.authorization.k8s.io"
    role = {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": {"name": name}, "rules": rules}
    binding = {
        **role,
        "kind": "RoleBinding",
        "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": name}],
    }
    del binding["rules"]
    for each in (role, binding):
        bare.kubectl("create", "-f", "-", input=json.dumps(each))
    end = time.monotonic() + 60
    while not (
        secret := bare.kubectl("get", "sa", "robot", "-o", "jsonpath={.secrets[0].name}", namespace=name)
    ):
        assert time.monotonic() < end
        time.sleep(0.5)
    token = base64.b64decode(
        bare.kubectl("get", "secret", secret, "-o", "jsonpath={.data.token}", namespace=name)
    )
    path = folder / "kubeconfig"
    path.write_text(bare.lab.kubeconfig_of({"token": token.decode()}))
    return path


def test_missing_rights_are_named_before_anything_is_begun(bare: Live, tmp_path: Path) -> None:
    project = yaml.safe_load((bare.astro.folder / ".astro/config.yaml").read_text())["project"]["id"]
    bare.kubectl("create", "namespace", "bare")
    bare.kubectl("label", "namespace", "bare", f"astro.project={project}", f"astro.deployment={NAME}")
    rules = [
        {"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "create", "delete"]},
        {"apiGroups": [""], "resources": ["*"], "verbs": ["patch"]},
    ]
    bare.astro.environ["KUBECONFIG"] = str(login(bare, tmp_path, "robot-few", rules))
    before = bare.versions()
    assert bare.astro.json("deployment", "ps", NAME)["services"] == [], "looking needs less"
    error = bare.deploy(code=7)
    assert "may not do this in the namespace bare" in error["message"]
    assert "patch deployments.apps" in error["message"]
    assert "configmaps" not in error["message"]
    assert bare.versions() == before


@pytest.mark.parametrize("broken", ["gone", "login", "context", "foreign"])
def test_a_cluster_that_cannot_be_used_is_one_sentence(bare: Live, tmp_path: Path, broken: str) -> None:
    kubeconfig = yaml.safe_load(bare.lab.kubeconfig.read_text())
    old = new = "    namespace: bare\n"
    if broken == "gone":
        kubeconfig["clusters"][0]["cluster"]["server"] = f"https://{bare.lab.control.address}:1"
        expected = "Connection refused"
    elif broken == "login":
        kubeconfig = yaml.safe_load(bare.lab.kubeconfig_of({"token": "expired"}))
        expected = "refuses the login"
    elif broken == "context":
        new, expected = f"{old}    context: prod\n", "has no context `prod`"
    else:
        new, expected = "    namespace: default\n", "is not this deployment's"
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(kubeconfig))
    bare.astro.environ["KUBECONFIG"] = str(path)
    with bare.configured(old, new):
        error = bare.deploy(code=7)
    assert expected in error["message"]
    assert error["hint"]
