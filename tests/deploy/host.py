"""A second host on this machine: namespaces with a Docker engine and an sshd of their own, at another address.

To tests it is what a rented machine is to a user: an address, a port that is not 22, a host key, a user `deploy` in
the group `docker`, an engine at `/var/run/docker.sock` that has no images and knows no swarm. Nothing of it is
shared with this machine but programs (`/usr`) and the kernel: network, processes, `/etc`, `/run`, `/tmp`, `/home`,
`/root` and the engine's data are its own, the latter on a tmpfs. Everything hangs on one process, which the kernel
kills when the process that made the host ends, however it ends; nothing is left but empty control groups, which the
next start removes.

By hand, as root on Debian with `docker.io iproute2 openssh-server` (from the repository's folder; Ctrl-C ends it):

    .venv/bin/python -m tests.deploy.host

prints lines for `eval`: `ASTRO_SSH_CONFIG` (a file for `ssh -F`, which names key and known host), `HOST_URL`
(`ssh://deploy@ADDRESS:PORT`, what `--host` takes), `HOST_ADDRESS` (where its published ports answer),
`MACHINE_ADDRESS` (where it reaches this machine, e.g. a registry), `HOST_DOCKER` (a DOCKER_HOST that reaches its
engine directly, past SSH). In tests take the fixture `host` of `conftest.py`; below are its methods to break it.
Several hosts that reach each other hang on one `Switch`; see `lab.py`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import docker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

USER = "deploy"
SSH_PORT = 2222
_PROGRAMS = {
    "dockerd": "docker.io", "sshd": "openssh-server", "ssh": "openssh-client", "ip": "iproute2",
    "iptables": "iptables", "nsenter": "util-linux", "unshare": "util-linux", "setpriv": "util-linux",
}  # fmt: skip
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CGROUPS = Path("/sys/fs/cgroup")
_CGROUP_PREFIX = "astro-host-"
_NUMBERS = itertools.count(1)  # one process may make several

# The first process of the host: makes its private folders, then collects what dies, as every init does.
_INIT = """
set -e
for shown in $SHOWN; do mount --bind "${shown%%:*}" "${shown#*:}"; done
for folder in /run /tmp /var/tmp /root /home; do mount -t tmpfs -o mode=0755 tmpfs $folder; done
chmod 1777 /tmp /var/tmp
mount -t tmpfs -o mode=0755,size=$DISK tmpfs /mnt
mkdir -p /run/sshd /run/lock /run/etc/upper /run/etc/work /mnt/docker
mount -t overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work overlay /etc
hostname $NAME
echo "deploy:*:19000:0:99999:7:::" >>/etc/shadow
echo "deploy:x:5000:5000::/home/deploy:/bin/bash" >>/etc/passwd
sed -i '/^docker:/d' /etc/group
printf '%s\\n' deploy:x:5000: docker:x:5001:deploy >>/etc/group
install -d -o 5000 -g 5000 -m 0700 /home/deploy
printf '127.0.0.1 localhost %s\\n' "$NAME" >/etc/hosts
rm -rf /etc/docker /etc/ssh/ssh_host_*
ip link set lo up
echo ready
while :; do sleep 3600 & wait; done
"""

_SSHD_CONFIG = f"""
Port {SSH_PORT}
HostKey /etc/ssh/host_key
AuthorizedKeysFile /etc/ssh/authorized_keys
PidFile /run/sshd.pid
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
AllowUsers {USER}
MaxStartups 100
"""


def missing() -> str:
    """Why no host can be made here, in one sentence; empty where it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a second host needs root on Linux"
    lacking = sorted(
        {package for name, package in _PROGRAMS.items() if shutil.which(name, path=_PATH) is None}
    )
    return f"a second host needs the Debian packages {' '.join(lacking)}" if lacking else ""


@dataclass(frozen=True)
class Login:
    """What a user has to have in order to log in: files for `ssh -F`, `-i` and `UserKnownHostsFile`."""

    config: Path
    key: Path
    known_hosts: Path


class Switch:
    """What several hosts hang on, and this machine with them; `close()` it after them.

    Its network namespace is its own, so no firewall of this machine sees what passes between the hosts.
    """

    def __init__(self) -> None:
        self._link, self.subnet = _free_network()
        self._ports = itertools.count(2)
        self._holder = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sh", "-c", "echo; exec sleep infinity"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd="/", env={"PATH": _PATH},
        )  # fmt: skip
        assert self._holder.stdout is not None
        with self._holder.stdout as told:
            told.readline()
        self.ip("link", "add", "switch", "type", "bridge")
        self.ip("link", "set", "switch", "up")
        self._plug("machine")
        _ip("link", "set", "eth0", "netns", str(os.getpid()), "name", self._link, inside=self._holder.pid)
        _ip("address", "add", f"{self.machine_address}/24", "dev", self._link)
        _ip("link", "set", self._link, "up")

    @property
    def machine_address(self) -> str:
        """Where hosts reach this machine."""
        return f"{self.subnet}.1"

    def connect(self, pid: int) -> tuple[str, str]:
        """Give the namespace of a process a plugged-in `eth0`; returns the switch's port and the address."""
        number = next(self._ports)
        self._plug(f"port{number}")
        _ip("link", "set", "eth0", "netns", str(pid), inside=self._holder.pid)
        return f"port{number}", f"{self.subnet}.{number}"

    def ip(self, *command: str) -> None:
        """Run `ip` in the switch."""
        _ip(*command, inside=self._holder.pid)

    def _plug(self, port: str) -> None:
        self.ip("link", "add", port, "type", "veth", "peer", "name", "eth0")
        self.ip("link", "set", port, "master", "switch", "up")

    def close(self) -> None:
        """Remove it with all of its links."""
        self._holder.kill()
        self._holder.wait()
        subprocess.run(["ip", "link", "delete", self._link], capture_output=True)


class Host:
    """A running second host; `close()` it, or just end.

    Args:
        switch: where it is plugged in; without one it has a cable to this machine alone.
        shown: folders of this machine that it sees, as `FOLDER:WHERE` with spaces between.
    """

    def __init__(
        self, folder: Path, *, disk: str = "10g", switch: Switch | None = None, shown: str = ""
    ) -> None:
        self.folder = folder
        self._disk = disk
        self._shown = shown
        self._switch = switch
        self._children: list[subprocess.Popen[bytes]] = []
        self._link = ""
        remove_leftovers()
        number = next(_NUMBERS)
        self.name = f"{_CGROUP_PREFIX}{os.getpid()}{f'-{number}' if number > 1 else ''}"
        self._init = self._begin()
        try:
            self._connect_network()
            self._start_sshd_first_time()
            self.start_engine()
        except BaseException:
            self.close()
            raise

    # What users and tests address.

    @property
    def url(self) -> str:
        """What `--host` takes."""
        return f"ssh://{USER}@{self.address}:{SSH_PORT}"

    @property
    def root(self) -> Path:
        """Its file system as seen from here."""
        return Path(f"/proc/{self._init}/root")

    @property
    def docker_host(self) -> str:
        """Its engine's address for this machine's root, past SSH: for what tests look up, not for astro."""
        return f"unix://{self.root}/run/docker.sock"

    @contextlib.contextmanager
    def engine(self) -> Iterator[docker.DockerClient]:
        """A client of its engine."""
        client = docker.DockerClient(base_url=self.docker_host, timeout=60)
        try:
            yield client
        finally:
            client.close()

    def login(self, name: str = "login", *, key: Path | None = None, known_hosts: str | None = None) -> Login:
        """Write an ssh configuration of this name, by default one that works.

        Arguments:
            key: another private key than the one the host knows.
            known_hosts: other lines than the host's own; empty for a host never seen before.
        """
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        known = folder / "known_hosts"
        known.write_text(self.known_hosts if known_hosts is None else known_hosts)
        config = folder / "config"
        login = Login(config, key or self.folder / "user_key", known)
        config.write_text(
            f"Host {self.address}\n"
            f"  IdentityFile {login.key}\n  IdentitiesOnly yes\n  IdentityAgent none\n"
            f"  UserKnownHostsFile {known}\n  GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n"
        )
        return login

    @property
    def known_hosts(self) -> str:
        """The line that a careful user has noted."""
        return f"[{self.address}]:{SSH_PORT} {(self.folder / 'host_key.pub').read_text()}"

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program on the host, as root; its output as text."""
        return subprocess.run(
            [*self._inside(), *command], check=check, text=True, capture_output=True, env={"PATH": _PATH},
            stdin=subprocess.DEVNULL, timeout=120,
        )  # fmt: skip

    def processes(self, name: str) -> list[int]:
        """Processes of the host with this name, by their numbers here."""
        ours = os.readlink(f"/proc/{self._init}/ns/pid")
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (folder / "comm").read_text().strip() == name and os.readlink(folder / "ns/pid") == ours:
                    found.append(int(folder.name))
        return sorted(found)

    def command_lines(self) -> str:
        """The command line of every process on the host, containers included, one a line."""
        return self.run("sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\000' ' '").stdout

    # What can go wrong with it.

    def cut(self) -> None:
        """Pull the cable: packets vanish, nobody is told."""
        self._set_link("down")

    def join(self) -> None:
        """Put the cable back."""
        self._set_link("up")

    def _set_link(self, state: str) -> None:
        (self._switch.ip if self._switch else _ip)("link", "set", self._link, state)

    def power_off(self) -> None:
        """Let everything end at once that Docker has begun, and nobody be told; `power_on` brings it back."""
        self.cut()
        for name in ("dockerd", "containerd", "containerd-shim"):
            for pid in self.processes(name):
                _kill(pid)
        for group in _CGROUPS.glob(f"*/{self.name}"):
            for processes in group.rglob("cgroup.procs"):
                for number in processes.read_text().split():
                    _kill(int(number))

    def power_on(self) -> None:
        """Plug the cable in, and start the engine."""
        self.join()
        self.start_engine()

    def drop_sessions(self) -> None:
        """Kill whatever serves an SSH connection; new ones are accepted at once."""
        listener = int((self.root / "run/sshd.pid").read_text())
        for pid in self.processes("sshd"):
            if _inner_pid(pid) != listener:
                _kill(pid)

    def stop_sshd(self) -> None:
        """Close the port, and every connection."""
        for pid in self.processes("sshd"):
            _kill(pid)

    def start_sshd(self) -> None:
        """Open the port."""
        self._spawn("sshd", "/usr/sbin/sshd", "-D", "-e", "-f", "/etc/ssh/sshd_astro")
        poll(self._ssh_answers, "sshd", self.folder / "sshd.log")

    def fill_disk(self, left: int = 1 << 20) -> None:
        """Leave the engine `left` bytes for its data."""
        usage = os.statvfs(self.root / "mnt")
        used = (usage.f_blocks - usage.f_bfree) * usage.f_frsize
        self.run("mount", "-o", f"remount,size={used + left}", "/mnt")

    def free_disk(self) -> None:
        """The disk has its first size again."""
        self.run("mount", "-o", f"remount,size={self._disk}", "/mnt")

    def stop_engine(self) -> None:
        """End dockerd and every container, in order."""
        for pid in self.processes("dockerd"):
            os.kill(pid, signal.SIGTERM)
        poll(lambda: not self.processes("dockerd"), "the end of dockerd", self.folder / "dockerd.log")

    def start_engine(self) -> None:
        """Start dockerd and wait until it answers."""
        # An engine that was killed leaves its pid file, and a process with that number may be back.
        (self.root / "run/docker.pid").unlink(missing_ok=True)
        self._spawn(
            "dockerd", "dockerd", "--data-root", "/mnt/docker", "--storage-driver", "overlay2", "--group", "docker",
            "--cgroup-parent", f"/{self.name}", "--exec-opt", "native.cgroupdriver=cgroupfs",
            "--shutdown-timeout", "20",
        )  # fmt: skip
        poll(self.engine_answers, "dockerd", self.folder / "dockerd.log")

    def trust(self, registry: str, certificate: str) -> None:
        """Make the engine trust this certificate authority (PEM) for the registry `HOST:PORT`."""
        folder = self.root / "etc/docker/certs.d" / registry
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "ca.crt").write_text(certificate)

    def close(self) -> None:
        """End everything that runs there, and remove what it left."""
        _kill(self._init)
        for child in self._children:
            child.wait(timeout=120)
        if self._link and not self._switch:
            # The kernel removes it too, but in its own time.
            subprocess.run(["ip", "link", "delete", self._link], capture_output=True)
        remove_leftovers(self.name)

    # How it comes about.

    def _begin(self) -> int:
        """Start the first process in namespaces of its own; returns its number here."""
        log = (self.folder / "init.log").open("wb")
        unshare = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "--uts", "--ipc", "--pid",
             "--fork", "--kill-child=KILL", "--mount-proc", "--propagation", "private", "bash", "-c", _INIT],
            env={"PATH": _PATH, "DISK": self._disk, "NAME": self.name, "SHOWN": self._shown},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, cwd="/", start_new_session=True,
        )  # fmt: skip
        log.close()
        self._children.append(unshare)
        assert unshare.stdout is not None
        ready = unshare.stdout.readline() == b"ready\n"
        assert ready, f"the host's first process died: {(self.folder / 'init.log').read_text()}"
        unshare.stdout.close()
        return next(pid for pid in _pids() if _parent(pid) == unshare.pid)

    def _connect_network(self) -> None:
        if self._switch:
            self.machine_address = self._switch.machine_address
            self._link, self.address = self._switch.connect(self._init)
        else:
            self._link, subnet = _free_network()
            self.machine_address, self.address = f"{subnet}.1", f"{subnet}.2"
            _ip("link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", str(self._init))
            _ip("address", "add", f"{self.machine_address}/24", "dev", self._link)
        self.run("ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")
        self.join()

    def _start_sshd_first_time(self) -> None:
        for name in ("host_key", "user_key"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", self.folder / name],
                check=True,
            )
        etc = self.root / "etc/ssh"
        (etc / "sshd_astro").write_text(_SSHD_CONFIG)
        shutil.copy(self.folder / "host_key", etc / "host_key")
        (etc / "host_key").chmod(0o600)
        shutil.copy(self.folder / "user_key.pub", etc / "authorized_keys")
        self.login()
        self.start_sshd()

    def _inside(self) -> list[str]:
        return [
            "nsenter",
            "--target",
            str(self._init),
            "--net",
            "--mount",
            "--uts",
            "--ipc",
            "--pid",
            "--wd=/",
        ]

    def _spawn(self, log: str, *command: str) -> None:
        """Start a program that goes on; what it writes is in `LOG.log` of the folder."""
        with (self.folder / f"{log}.log").open("ab") as output:
            self._children.append(
                subprocess.Popen(
                    [*self._inside(), *command], env={"PATH": _PATH}, stdin=subprocess.DEVNULL, stdout=output,
                    stderr=output, start_new_session=True,
                )
            )  # fmt: skip

    def engine_answers(self) -> bool:
        """Whether its engine says anything."""
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(self.docker_host.removeprefix("unix://"))
                connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b" 200 " in connection.recv(1000)
            except OSError:
                return False

    def _ssh_answers(self) -> bool:
        command = [
            "ssh",
            "-F",
            str(self.folder / "login/config"),
            "-p",
            str(SSH_PORT),
            f"{USER}@{self.address}",
            "true",
        ]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0


def remove_leftovers(name: str = "") -> None:
    """Remove the control groups of hosts whose maker is gone, and of the host `name`."""
    for group in _CGROUPS.glob(f"**/{_CGROUP_PREFIX}*"):
        maker = group.name.removeprefix(_CGROUP_PREFIX).partition("-")[0]
        if group.name == name or not Path(f"/proc/{maker}").exists():
            _remove_cgroup(group)


def _remove_cgroup(group: Path) -> None:
    for folder, _, _ in os.walk(group, topdown=False):
        poll(lambda folder=folder: _rmdir(folder), f"the end of what runs in {folder}")  # type: ignore[misc]


def _rmdir(folder: str) -> bool:
    try:
        Path(folder).rmdir()
    except FileNotFoundError:
        return True
    except OSError:  # the kernel is not yet done with the dead
        return False
    return True


def _free_network() -> tuple[str, str]:
    """The name of a link that is not there yet, and the first three numbers of a network nobody uses."""
    routes = subprocess.run(["ip", "-4", "route", "show"], check=True, text=True, capture_output=True).stdout
    for number in range(1, 255):
        subnet, link = f"10.78.{number}", f"astrohost{number}"
        if f"{subnet}." not in routes and not Path(f"/sys/class/net/{link}").exists():
            return link, subnet
    raise AssertionError("no free network below 10.78.0.0/16")


def _ip(*command: str, inside: int | None = None) -> None:
    namespace = ["nsenter", "--target", str(inside), "--net"] if inside else []
    subprocess.run([*namespace, "ip", *command], check=True, capture_output=True)


def _pids() -> Iterator[int]:
    yield from (int(folder.name) for folder in Path("/proc").glob("[0-9]*"))


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def _inner_pid(pid: int) -> int | None:
    """The number that a process of the host has there."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[2])
    return None


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def poll(done: Callable[[], bool], what: str, log: Path | None = None, seconds: float = 120) -> None:
    """Wait until `done()`; an error that names `what`, with the end of the file `log`, after `seconds`."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            lines = log.read_text(errors="replace")[-3000:] if log and log.exists() else ""
            raise AssertionError(f"waited {seconds:.0f} s for {what}\n{lines}")
        time.sleep(0.1)


def main() -> None:
    """Make a host, print how to reach it, and keep it until told to end."""
    reason = missing()
    if reason:
        raise SystemExit(reason)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="astro-host-") as folder:
        host = Host(Path(folder))
        try:
            print(f"export ASTRO_SSH_CONFIG={folder}/login/config")
            print(f"export HOST_URL={host.url}")
            print(f"export HOST_ADDRESS={host.address}")
            print(f"export MACHINE_ADDRESS={host.machine_address}")
            print(f"export HOST_DOCKER={host.docker_host}", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()
        finally:
            host.close()


if __name__ == "__main__":
    main()
