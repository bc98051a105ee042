"""A project that is deployed to the lab, and how tests look at what runs there."""

from __future__ import annotations

import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.deploy.deployed import DAG, NAME, SECRET, SECRET_NAME, Deployed
from tests.deploy.registry_server import PASSWORD, USER
from tests.engine.astro import Astro, environment, wait_for
from tests.kubernetes.lab import STORAGE_CLASS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.kubernetes.lab import Lab, Node

NAMESPACE = f"shop-{NAME}"
CONFIGURATION = """\
deployments:
  {name}:
    target: kubernetes
    executor: kubernetes
    registry: {registry}/team/shop
    registry_authority: {authority}
    storage: {{class: {storage}, size: 1Gi, logs: {storage}}}
    secrets: [{secret}]
    drain: 10m
    publish: {{service: NodePort}}
"""


class Live(Deployed):
    """The project's folder, `astro` in it, and the deployment on the lab."""

    host: Any  # a Lab
    namespace = NAMESPACE
    lost: Node | None = None

    @property
    def lab(self) -> Lab:
        """The cluster."""
        lab: Lab = self.host
        return lab

    @property
    def url(self) -> str:
        """Where its NodePort answers: every node that is there."""
        service = self.kubectl("get", "service", "api-server", "-o", "jsonpath={.spec.ports[0].nodePort}")
        node = next(node for node in self.lab.nodes if node is not self.lost)
        return f"http://{node.address}:{service}"

    def write_version(self, version: str) -> None:
        text = DAG.format(version=version).replace(
            "    @task\n    def first", "    @task(retries=2, retry_delay=1.0)\n    def first"
        )
        self.astro.write("dags/slow.py", text)

    def kubectl(self, *command: str, namespace: str = "", **options: Any) -> str:
        """What `kubectl` prints, as the cluster's administrator."""
        done = subprocess.run(
            ["kubectl", "--kubeconfig", self.lab.kubeconfig, "--namespace", namespace or self.namespace, *command],
            check=True, text=True, capture_output=True, timeout=120, **options,
        )  # fmt: skip
        return done.stdout.strip()

    def names(self, kind: str, labels: str = "") -> set[str]:
        """Names of the objects of a kind, as `kind/name`."""
        return set(self.kubectl("get", kind, "-l", labels, "-o", "name").split())

    def versions(self) -> dict[str, str]:
        """What changes whenever anything of the deployment does: each object with its version."""
        kinds = (
            "deployments,statefulsets,services,configmaps,secrets,roles,rolebindings,persistentvolumeclaims"
        )
        template = "{range .items[*]}{.kind}/{.metadata.name} {.metadata.resourceVersion}\n{end}"
        told = self.kubectl("get", kinds, "-o", f"jsonpath={template}")
        return dict(line.split() for line in told.splitlines() if line)

    def current(self) -> int:
        """Number of the release that was verified last; its services may be those of an earlier one."""
        return max(int(each["id"]) for each in self.releases() if each["result"] == "live")

    def images(self) -> set[str]:
        """The images that Airflow's services are to run."""
        jsonpath = "jsonpath={.items[*].spec.template.spec.containers[0].image}"
        return set(self.kubectl("get", "deployments", "-o", jsonpath).split())

    def tasks(self, dag: str = "slow") -> set[str]:
        """The pods of tasks that have not ended."""
        running = ["--field-selector", "status.phase=Running"]
        return set(
            self.kubectl("get", "pods", "-l", f"astro.kind=task,dag_id={dag}", *running, "-o", "name").split()
        )

    def node_of(self, pod: str) -> str:
        """The node that a pod is on."""
        return self.kubectl("get", "pod", pod, "-o", "jsonpath={.spec.nodeName}")

    @contextmanager
    def without(self, node: Node) -> Iterator[None]:
        """The cable of a node is pulled; afterwards all services are well again."""
        node.cut()
        self.lost = node
        try:
            yield
        finally:
            node.join()
            self.lost = None
        self.wait_whole()

    def wait_whole(self, seconds: float = 600) -> None:
        """Until every service has what it wants, and nothing is left of what was before."""

        def rows() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = self.astro.json("deployment", "ps", NAME)["services"]
            return found

        ending = ("get", "pods", "-o", "jsonpath={.items[*].metadata.deletionTimestamp}")
        wait_for(
            lambda: not self.kubectl(*ending) and all(row["running"] == row["wanted"] for row in rows()),
            rows,
            seconds,
        )

    @contextmanager
    def configured(self, old: str, new: str) -> Iterator[None]:
        """The deployment's configuration with some of its text replaced."""
        path = self.astro.folder / ".astro/config.yaml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        try:
            yield
        finally:
            path.write_text(text)

    def wait_for_pods(self, labels: str, count: int, seconds: float = 300) -> None:
        """Until just so many pods are there."""
        end = time.monotonic() + seconds
        while len(found := self.names("pods", labels)) != count:
            assert time.monotonic() < end, found
            time.sleep(1)


def variables(home: Path, lab: Lab, engine_url: str) -> dict[str, str]:
    """The environment of somebody who deploys to the lab."""
    return environment(home, engine_url) | {
        "KUBECONFIG": str(lab.kubeconfig),
        "ASTRO_REGISTRY_USERNAME": USER,
        "ASTRO_REGISTRY_PASSWORD": PASSWORD,
        SECRET_NAME: SECRET,
    }


def prepare(folder: Path, lab: Lab, engine_url: str, *more: str) -> Live:
    """Make a project below `folder` that can be deployed; `more` are lines of its deployment."""
    (folder / "home").mkdir()
    environ = variables(folder / "home", lab, engine_url)
    Astro(folder, environ)("airflow", "init", "shop")
    live = Live(Astro(folder / "shop", environ), lab)  # type: ignore[arg-type]
    values = {"name": NAME, "registry": lab.registry, "authority": lab.certificate}
    with (folder / "shop/.astro/config.yaml").open("a") as file:
        file.write(CONFIGURATION.format(**values, storage=STORAGE_CLASS, secret=SECRET_NAME))
        file.writelines(f"    {line}\n" for line in more)
    return live


def first(folder: Path, lab: Lab, engine_url: str) -> Live:
    """Make a project below `folder`, and deploy its first version."""
    live = prepare(folder, lab, engine_url)
    for name in ("asset_report.py", "hello_astro.py"):
        (folder / "shop/dags" / name).unlink()
    live.write_version("v1")
    live.commit("first")
    live.first = live.deploy("--wait", "600")
    live.password = live.astro.json("deployment", "inspect", NAME, "--show-password")["admin_password"]
    return live
