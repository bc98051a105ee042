"""A real Kubernetes on this machine: control plane, two nodes, a name server, volumes, and a registry with a login.

Each of its three machines is a `Host` of `tests/deploy/host.py` without an sshd, on a `Switch`: namespaces of its
own, whose first process the kernel kills with the process that made the lab. The machine `control` runs etcd, the
control plane, dnsmasq and `docker-registry`; the nodes run dockerd, kubelet and kube-proxy. Pods have Docker's
bridge of their node and a route to the other's; a Service's name is answered by dnsmasq, which a thread here tells
of Services. Volumes are folders that both nodes see, so a claim of the class `lab` may be written from both.

By hand, as root on Debian 12 (Ctrl-C ends it; the first time Kubernetes is built, see `tests/kubernetes/build`):

    .venv/bin/python -m tests.kubernetes.lab

prints lines for `eval`: `KUBECONFIG`, `REGISTRY` (`ADDRESS:PORT`, login alice, `correct horse`),
`REGISTRY_AUTHORITY` (a file for `registry_authority:`), `NODE_1`, `NODE_2` (addresses where NodePorts answer).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tests.deploy import host
from tests.deploy.host import Host, Switch, poll
from tests.deploy.registry_server import PASSWORD, USER, make_certificate

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubernetes.client import ApiClient

VERSION = "1.20.2"
API_PORT, ETCD_PORT, REGISTRY_PORT = 6443, 2379, 5000
STORAGE_CLASS, VOLUMES = "lab", 24
PAUSE = "lab/pause:1"
_BUILD = Path(__file__).with_name("build")
_PROGRAMS = ("etcd", "dnsmasq", "socat", "conntrack", "busybox", "docker-registry", "htpasswd", "openssl")
_TRUSTED = Path("/etc/docker/certs.d")
_TOOLS = "/media"  # where the machines see what was built
_VOLUMES = "/srv"

# Every pod wants a negative oom_score_adj for its pause container, which a virtual machine may forbid.
_RUNC = """#!/usr/bin/python3
import json, os, sys
arguments = sys.argv[1:]
for number, word in enumerate(arguments[:-1]):
    if word == "--bundle":
        path = os.path.join(arguments[number + 1], "config.json")
        config = json.load(open(path))
        process = config.get("process", {})
        process["oomScoreAdj"] = max(0, process.get("oomScoreAdj", 0))
        json.dump(config, open(path, "w"))
os.execv("/usr/sbin/runc", ["runc", *arguments])
"""


def missing() -> str:
    """Why there can be no lab here, in one sentence; empty where there can."""
    lacking = [name for name in _PROGRAMS if shutil.which(name) is None]
    return host.missing() or (f"a Kubernetes needs the programs {' '.join(lacking)}" if lacking else "")


class Machine(Host):
    """One machine of the lab, on its switch."""

    def _start_sshd_first_time(self) -> None:
        pass

    def start_engine(self) -> None:
        pass

    def spawn(self, name: str, *command: str) -> None:
        """Start a program that goes on; what it writes is in `NAME.log` of the folder."""
        self._spawn(name, *command)

    def write(self, name: str, content: str | bytes) -> str:
        """A file in its `/run`; returns where it sees it."""
        path = self.root / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return f"/run/{name}"


class Node(Machine):
    """One node. `number` counts from 1."""

    def __init__(self, folder: Path, number: int, switch: Switch, shown: str) -> None:
        self.number = number
        super().__init__(folder, switch=switch, shown=shown)

    @property
    def node_name(self) -> str:
        """How the cluster calls it."""
        return f"node{self.number}"

    def start_engine(self) -> None:
        self.run("mount", "-t", "tmpfs", "tmpfs", "/var/log")
        self.run("mkdir", "-p", "/var/log/pods", "/var/log/containers")
        runc = self.write("runc-lab", _RUNC)
        (self.root / runc.removeprefix("/")).chmod(0o755)
        self._spawn(
            "dockerd", "dockerd", "--data-root", "/mnt/docker", "--storage-driver", "overlay2", "--group", "docker",
            "--cgroup-parent", f"/{self.name}", "--exec-opt", "native.cgroupdriver=cgroupfs",
            "--bip", pods_of(self.number).replace(".0/", ".1/"), "--ip-masq=false",
            "--add-runtime", f"lab={runc}", "--default-runtime", "lab", "--shutdown-timeout", "5",
        )  # fmt: skip

    def wait_for_engine(self) -> None:
        """Until dockerd answers."""
        poll(self.engine_answers, "dockerd", self.folder / "dockerd.log")
        self.run("iptables", "-P", "FORWARD", "ACCEPT")


def pods_of(number: int) -> str:
    """The network of a node's pods."""
    return f"10.81.{number}.0/24"


class Lab:
    """A running cluster; `close()` it, or just end.

    Attributes:
        kubeconfig: of its administrator.
        registry: `ADDRESS:PORT`, which wants the login `USER` and `PASSWORD`.
        certificate: of the registry; its own authority.
    """

    def __init__(self, folder: Path, *, nodes: int = 2) -> None:
        self.folder = folder
        built = subprocess.run([_BUILD], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        self._bin = Path(built)
        self._volumes = folder / "volumes"
        for number in range(VOLUMES):
            volume = self._volumes / f"{number:02}"
            volume.mkdir(parents=True)
            volume.chmod(0o777)
        self._shown = f"{built}:{_TOOLS} {self._volumes}:{_VOLUMES}"
        self.nodes: list[Node] = []
        self._trusted: Path | None = None
        self._ended = threading.Event()
        (folder / "control").mkdir()
        self._switch = Switch()
        self.control = Machine(folder / "control", switch=self._switch, shown=self._shown)
        try:
            # Made here and not in a thread: the kernel kills a machine with the thread that made it.
            for number in range(1, nodes + 1):
                (folder / f"node{number}").mkdir()
                self.nodes.append(Node(folder / f"node{number}", number, self._switch, self._shown))
            self._connect_pods()
            self._make_certificates()
            self._start_control_plane()
            self._start_registry()
            failures: list[BaseException] = []
            starting = [
                threading.Thread(target=_guarded, args=(failures, self._start_node, node), daemon=True)
                for node in self.nodes
            ]
            for thread in starting:
                thread.start()
            self._wait_for_api()
            self._make_volumes()
            self._start_name_server()
            for thread in starting:
                thread.join()
            if failures:
                raise failures[0]
            poll(lambda: self._ready_nodes() == nodes, "the nodes", self.folder / "node1/kubelet.log")
        except BaseException:
            self.close()
            raise

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.folder / "pki/admin.conf"

    @property
    def registry(self) -> str:
        """`ADDRESS:PORT`."""
        return f"{self.control.address}:{REGISTRY_PORT}"

    def client(self) -> ApiClient:
        """A client of the cluster's API, as its administrator."""
        from kubernetes import config

        return config.new_client_from_config(str(self.kubeconfig))

    def close(self) -> None:
        """End everything that runs there, and remove what it left."""
        self._ended.set()
        for machine in (*self.nodes, self.control):
            machine.close()
        self._switch.close()
        if self._trusted is not None:
            shutil.rmtree(self._trusted, ignore_errors=True)

    # how it comes about

    def _connect_pods(self) -> None:
        """Let every machine know the way to the pods of each node."""
        for node in self.nodes:
            for machine in (self.control, *self.nodes):
                if machine is not node:
                    machine.run("ip", "route", "add", pods_of(node.number), "via", node.address)
            node.run("ip", "route", "add", "default", "via", node.machine_address)

    def _make_certificates(self) -> None:
        pki, address = self.folder / "pki", self.control.address
        documents: list[dict[str, Any]] = [
            {
                "kind": "ClusterConfiguration",
                "kubernetesVersion": f"v{VERSION}",
                "certificatesDir": str(pki),
                "controlPlaneEndpoint": f"{address}:{API_PORT}",
                "networking": {"serviceSubnet": "10.96.0.0/16"},
                "apiServer": {"certSANs": [address]},
            },
            {
                "kind": "InitConfiguration",
                "localAPIEndpoint": {"advertiseAddress": address, "bindPort": API_PORT},
                "nodeRegistration": {"name": "control"},
            },
        ]
        for document in documents:
            document["apiVersion"] = "kubeadm.k8s.io/v1beta2"
        config = self.folder / "kubeadm.yaml"
        config.write_text(yaml.safe_dump_all(documents))
        self._kubeadm("certs", "all", "--config", str(config))
        for who in ("admin", "controller-manager", "scheduler"):
            self._kubeadm("kubeconfig", who, "--config", str(config), "--kubeconfig-dir", str(pki))
        for path in pki.rglob("*"):
            if path.is_file():
                self.control.write(f"pki/{path.relative_to(pki)}", path.read_bytes())

    def _kubeadm(self, *arguments: str) -> None:
        subprocess.run([self._bin / "kubeadm", "init", "phase", *arguments], check=True, capture_output=True)

    def _node_kubeconfig(self, number: int) -> str:
        """A node's login, signed by the cluster's authority."""
        folder = self.folder / f"node{number}"
        pki, key, request, signed = (
            self.folder / "pki",
            *(folder / f"kubelet.{end}" for end in ("key", "csr", "crt")),
        )
        subject = f"/O=system:nodes/CN=system:node:node{number}"
        for command in (
            ["req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request, "-subj", subject],
            ["x509", "-req", "-in", request, "-CA", pki / "ca.crt", "-CAkey", pki / "ca.key", "-days", "2",
             "-set_serial", str(1000 + number), "-out", signed],
        ):  # fmt: skip
            subprocess.run(["openssl", *command], check=True, capture_output=True)
        return self.kubeconfig_of(
            {
                "client-certificate-data": _base64(signed.read_bytes()),
                "client-key-data": _base64(key.read_bytes()),
            }
        )

    def kubeconfig_of(self, user: dict[str, str], *, server: str = "") -> str:
        """A kubeconfig of another login, or for another server."""
        cluster = {
            "server": server or f"https://{self.control.address}:{API_PORT}",
            "certificate-authority-data": _base64((self.folder / "pki/ca.crt").read_bytes()),
        }
        return yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "lab",
                "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
                "clusters": [{"name": "lab", "cluster": cluster}],
                "users": [{"name": "lab", "user": user}],
            }
        )

    def _start_control_plane(self) -> None:
        pki, control = "/run/pki", self.control
        etcd = f"http://127.0.0.1:{ETCD_PORT}"
        control.spawn(
            "etcd", "etcd", "--data-dir", "/run/etcd-data", "--unsafe-no-fsync", "--listen-client-urls", etcd,
            "--advertise-client-urls", etcd, "--listen-peer-urls", "http://127.0.0.1:2380",
        )  # fmt: skip
        control.spawn(
            "apiserver", f"{_TOOLS}/kube-apiserver",
            f"--advertise-address={control.address}", f"--secure-port={API_PORT}", f"--etcd-servers={etcd}",
            "--service-cluster-ip-range=10.96.0.0/16", "--authorization-mode=Node,RBAC", "--allow-privileged",
            "--enable-admission-plugins=NodeRestriction", f"--client-ca-file={pki}/ca.crt",
            f"--tls-cert-file={pki}/apiserver.crt", f"--tls-private-key-file={pki}/apiserver.key",
            f"--kubelet-client-certificate={pki}/apiserver-kubelet-client.crt",
            f"--kubelet-client-key={pki}/apiserver-kubelet-client.key",
            "--kubelet-preferred-address-types=InternalIP", f"--service-account-key-file={pki}/sa.pub",
            f"--service-account-signing-key-file={pki}/sa.key",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            "--default-not-ready-toleration-seconds=10", "--default-unreachable-toleration-seconds=10",
        )  # fmt: skip
        control.spawn(
            "controller-manager", f"{_TOOLS}/kube-controller-manager",
            f"--kubeconfig={pki}/controller-manager.conf",
            f"--service-account-private-key-file={pki}/sa.key", f"--root-ca-file={pki}/ca.crt",
            f"--cluster-signing-cert-file={pki}/ca.crt", f"--cluster-signing-key-file={pki}/ca.key",
            "--use-service-account-credentials", "--leader-elect=false", "--node-monitor-grace-period=20s",
        )  # fmt: skip
        control.spawn(
            "scheduler",
            f"{_TOOLS}/kube-scheduler",
            f"--kubeconfig={pki}/scheduler.conf",
            "--leader-elect=false",
        )

    def _start_registry(self) -> None:
        control = self.control
        made = make_certificate(self.folder, control.address, name="registry")
        self.certificate = made.certificate
        users = subprocess.run(
            ["htpasswd", "-Bbn", USER, PASSWORD], check=True, capture_output=True, text=True
        )
        tls = {
            "certificate": control.write("registry/tls.crt", made.certificate.read_bytes()),
            "key": control.write("registry/tls.key", made.key.read_bytes()),
        }
        config = {
            "version": "0.1",
            "log": {"accesslog": {"disabled": True}, "level": "warn"},
            "storage": {"filesystem": {"rootdirectory": "/mnt/registry"}, "delete": {"enabled": True}},
            "http": {"addr": self.registry, "secret": "s", "tls": tls},
            "auth": {"htpasswd": {"realm": "lab", "path": control.write("registry/htpasswd", users.stdout)}},
        }
        where = control.write("registry/config.json", json.dumps(config))
        control.spawn("registry", "docker-registry", "serve", where)
        _forget_registries()
        self._trusted = _TRUSTED / self.registry  # for the engine that images are built on
        self._trusted.mkdir(parents=True, exist_ok=True)
        shutil.copy(made.certificate, self._trusted / "ca.crt")

    def _start_node(self, node: Node) -> None:
        node.wait_for_engine()
        node.trust(self.registry, self.certificate.read_text())
        self._load_pause(node)
        kubeconfig = node.write("kubelet.conf", self._node_kubeconfig(node.number))
        proxy = node.write("proxy.conf", self.kubeconfig.read_text())
        authority = node.write("ca.crt", (self.folder / "pki/ca.crt").read_bytes())
        kubelet_config = {
            "kind": "KubeletConfiguration",
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "address": node.address,
            "authentication": {"x509": {"clientCAFile": authority}},
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "cgroupsPerQOS": False,
            "clusterDNS": [self.control.address],
            "clusterDomain": "cluster.local",
            "enforceNodeAllocatable": [],
            "evictionHard": {"memory.available": "100Mi"},
            "failSwapOn": False,
            "hairpinMode": "none",
            "imageGCHighThresholdPercent": 100,
            "oomScoreAdj": 0,
            "resolvConf": node.write("resolv.conf", ""),
        }  # fmt: skip
        node.spawn(
            "kubelet", f"{_TOOLS}/kubelet", f"--hostname-override={node.node_name}", f"--node-ip={node.address}",
            f"--config={node.write('kubelet.yaml', json.dumps(kubelet_config))}", f"--kubeconfig={kubeconfig}",
            "--root-dir=/run/kubelet", "--cert-dir=/run/kubelet-pki", "--container-runtime=docker",
            "--docker-endpoint=unix:///run/docker.sock", "--container-runtime-endpoint=unix:///run/dockershim.sock",
            "--experimental-dockershim-root-directory=/run/dockershim", "--network-plugin=",
            f"--pod-infra-container-image={PAUSE}",
        )  # fmt: skip
        proxy_config = {
            "kind": "KubeProxyConfiguration",
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "clientConnection": {"kubeconfig": proxy},
            "clusterCIDR": "10.81.0.0/16",
            "conntrack": {"maxPerCore": 0},
            "hostnameOverride": node.node_name,
            "mode": "iptables",
            "oomScoreAdj": 0,
        }
        node.spawn(
            "kube-proxy",
            f"{_TOOLS}/kube-proxy",
            f"--config={node.write('proxy.yaml', json.dumps(proxy_config))}",
        )

    def _load_pause(self, node: Node) -> None:
        """The container that holds a pod's namespaces, from Debian's static busybox."""
        import io
        import tarfile

        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add(shutil.which("busybox") or "", arcname="bin/busybox")
        with node.engine() as engine:
            repository, _, tag = PAUSE.partition(":")
            engine.api.import_image_from_data(
                archive.getvalue(), repository=repository, tag=tag,
                changes=['ENTRYPOINT ["/bin/busybox","sleep","2147483647"]'],
            )  # fmt: skip

    def _wait_for_api(self) -> None:
        def ready() -> bool:
            with contextlib.suppress(Exception):
                return bool(self._get("/readyz", "text/plain") == "ok")
            return False

        poll(ready, "the API server", self.control.folder / "apiserver.log")

    def _get(self, path: str, accept: str = "application/json") -> Any:
        import ssl
        import urllib.request

        pki = self.folder / "pki"
        context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        context.load_cert_chain(pki / "apiserver-kubelet-client.crt", pki / "apiserver-kubelet-client.key")
        request = urllib.request.Request(
            f"https://{self.control.address}:{API_PORT}{path}", headers={"Accept": accept}
        )
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        with opener.open(request, timeout=10) as answer:
            text = answer.read().decode()
        return json.loads(text) if accept == "application/json" else text

    def _ready_nodes(self) -> int:
        return sum(
            condition["type"] == "Ready" and condition["status"] == "True"
            for node in self._get("/api/v1/nodes")["items"]
            for condition in node["status"].get("conditions", ())
        )

    def _make_volumes(self) -> None:
        from kubernetes.client import CoreV1Api, StorageV1Api

        with self.client() as client:
            StorageV1Api(client).create_storage_class(
                {"metadata": {"name": STORAGE_CLASS}, "provisioner": "kubernetes.io/no-provisioner"}
            )
            for number in range(VOLUMES):
                CoreV1Api(client).create_persistent_volume(
                    {
                        "metadata": {"name": f"lab-{number:02}"},
                        "spec": {
                            "storageClassName": STORAGE_CLASS,
                            "capacity": {"storage": "10Gi"},
                            "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
                            "persistentVolumeReclaimPolicy": "Retain",
                            "hostPath": {"path": f"{_VOLUMES}/{number:02}"},
                        },
                    }
                )

    def _start_name_server(self) -> None:
        hosts = self.control.write("dns/hosts", "")
        self.control.spawn(
            "dnsmasq", "dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--user=root", "--pid-file",
            f"--addn-hosts={hosts}", "--local=/cluster.local/", "--bind-interfaces", "--listen-address",
            self.control.address, "--local-ttl=1", "--log-facility=-",
        )  # fmt: skip
        threading.Thread(target=self._tell_names, daemon=True).start()

    def _tell_names(self) -> None:
        """Keep the name server's list of Services up to date."""
        told = ""
        while not self._ended.wait(0.5):
            with contextlib.suppress(Exception):
                lines = "".join(
                    "{clusterIP} {name}.{namespace}.svc.cluster.local\n".format(
                        **each["spec"], **each["metadata"]
                    )
                    for each in self._get("/api/v1/services")["items"]
                    if each["spec"].get("clusterIP", "None") != "None"
                )
                if lines != told:
                    self.control.write("dns/hosts", lines)
                    for pid in self.control.processes("dnsmasq"):
                        os.kill(pid, signal.SIGHUP)
                    told = lines


def _guarded(failures: list[BaseException], function: Callable[[Node], None], node: Node) -> None:
    try:
        function(node)
    except BaseException as exc:  # noqa: BLE001 - raised by whoever waits for the thread
        failures.append(exc)


def _forget_registries() -> None:
    """Remove what labs left that were killed: their addresses are nobody's any more."""
    routes = subprocess.run(["ip", "-4", "route", "show"], check=True, text=True, capture_output=True).stdout
    for folder in _TRUSTED.glob(f"10.78.*:{REGISTRY_PORT}"):
        if f"{folder.name.rpartition('.')[0]}." not in routes:
            shutil.rmtree(folder, ignore_errors=True)


def _base64(content: bytes) -> str:
    import base64

    return base64.b64encode(content).decode()


def main() -> None:
    """Make a lab, print how to reach it, and keep it until told to end."""
    subprocess.run([_BUILD], check=True, stdout=subprocess.DEVNULL)
    if reason := missing():
        raise SystemExit(reason)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="astro-kubernetes-") as folder:
        began = time.monotonic()
        lab = Lab(Path(folder))
        try:
            print(f"# after {time.monotonic() - began:.0f} s")
            print(f"export KUBECONFIG={lab.kubeconfig}")
            print(f"export REGISTRY={lab.registry}")
            print(f"export REGISTRY_AUTHORITY={lab.certificate}")
            for node in sorted(lab.nodes, key=lambda node: node.number):
                print(f"export NODE_{node.number}={node.address}", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()
        finally:
            lab.close()


if __name__ == "__main__":
    main()
