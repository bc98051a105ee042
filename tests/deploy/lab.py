"""Three second hosts that reach each other, and a registry with a login and a certificate that all of them trust.

By hand, as root on Debian (from the repository's folder; Ctrl-C ends it):

    .venv/bin/python -m tests.deploy.lab

prints lines for `eval`: what a shell must have set to deploy there, `HOSTS`, `REGISTRY`, and `DOCKER_1` to
`DOCKER_3`, each a DOCKER_HOST that reaches an engine directly, past SSH.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.deploy.host import Host, Switch, missing
from tests.deploy.registry_server import PASSWORD, USER, RegistryServer

if TYPE_CHECKING:
    from collections.abc import Iterator

COUNT = 3


@dataclass
class Lab:
    """The hosts, and the registry between them and this machine."""

    folder: Path
    switch: Switch
    hosts: tuple[Host, ...]
    registry: RegistryServer

    @property
    def environment(self) -> dict[str, str]:
        """What somebody who deploys there has set."""
        config = self.folder / "ssh_config"
        config.write_text("".join(host.login().config.read_text() for host in self.hosts))
        return {
            "ASTRO_SSH_CONFIG": str(config),
            "ASTRO_REGISTRY_USERNAME": USER,
            "ASTRO_REGISTRY_PASSWORD": PASSWORD,
        }

    @property
    def authority(self) -> Path:
        """What `registry_authority:` takes."""
        assert self.registry.certificate is not None
        return self.registry.certificate

    @property
    def repository(self) -> str:
        """What `registry:` takes."""
        return f"{self.registry.host}/team/shop"


@contextlib.contextmanager
def trusted_registry(folder: Path, switch: Switch) -> Iterator[RegistryServer]:
    """A registry with a login on a switch, whose authority the engine that images are built on believes."""
    registry = RegistryServer(folder / "registry", address=switch.machine_address, password=True, tls=True)
    with registry:
        assert registry.certificate is not None
        trust = Path("/etc/docker/certs.d") / registry.host  # asked by every engine here, whichever it is
        trust.mkdir(parents=True)
        try:
            shutil.copy(registry.certificate, trust / "ca.crt")
            yield registry
        finally:
            shutil.rmtree(trust)


@contextlib.contextmanager
def make_lab(folder: Path, *, disk: str = "4g") -> Iterator[Lab]:
    """A lab, as long as the context."""
    with contextlib.ExitStack() as stack:
        switch = Switch()
        stack.callback(switch.close)
        registry = stack.enter_context(trusted_registry(folder, switch))
        assert registry.certificate is not None
        hosts = []
        for number in range(1, COUNT + 1):
            (folder / f"host{number}").mkdir()
            host = Host(folder / f"host{number}", disk=disk, switch=switch)
            stack.callback(host.close)
            host.trust(registry.host, registry.certificate.read_text())
            hosts.append(host)
        yield Lab(folder, switch, tuple(hosts), registry)


def main() -> None:
    """Make a lab, print how to reach it, and keep it until told to end."""
    if reason := missing():
        raise SystemExit(reason)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="astro-lab-") as folder, make_lab(Path(folder)) as lab:
        for name, text in lab.environment.items():
            print(f"export {name}='{text}'")
        print(f"export HOSTS='[{', '.join(host.url for host in lab.hosts)}]'")
        print(f"export REGISTRY={lab.repository}")
        print(f"export AUTHORITY={lab.authority}")
        for number, host in enumerate(lab.hosts, start=1):
            print(f"export DOCKER_{number}={host.docker_host}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
