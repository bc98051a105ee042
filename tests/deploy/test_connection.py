"""The connection to a host: who gets in, what a refusal says, and what is left when it ends."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from astro_cli.deploy.ssh import SshConnection
from astro_cli.domain.deployments import Deployment
from astro_cli.domain.deployments import Host as Address
from astro_cli.foundation.errors import TargetError, UsageError
from tests.deploy.host import SSH_PORT, USER, poll

if TYPE_CHECKING:
    from tests.deploy.host import Host


def prod(host: Host, *, port: int = SSH_PORT, ssh_config: str = "") -> Deployment:
    address = Address(host.url, address=f"{USER}@{host.address}", port=port)
    return Deployment("prod", (address,), ssh_config=ssh_config)


def connect(deployment: Deployment, environ: dict[str, str]) -> SshConnection:
    return SshConnection(deployment.hosts[0], deployment, environ)


def plain_environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]}


def working(host: Host) -> dict[str, str]:
    return {**plain_environment(), "ASTRO_SSH_CONFIG": str(host.login().config)}


def test_the_engine_answers_through_it_and_programs_run_there(host: Host) -> None:
    with connect(prod(host), working(host)) as connection:
        assert connection.run(["hostname"]).output.strip() == host.name
        assert connection.run(["echo", "two words", "$HOME; id"]).output.strip() == "two words $HOME; id"
        told = subprocess.run(
            ["curl", "-sS", "--unix-socket", connection.socket, "http://engine/_ping"],
            capture_output=True,
            text=True,
        )
        assert told.stdout == "OK", told.stderr
        folder = connection.socket.parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not folder.exists()
    poll(lambda: not ssh_processes(host), "the end of ssh")


def test_a_port_here_can_be_reached_from_there(host: Host, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("from the laptop")
    server = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", tmp_path],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    try:
        port = int(server.stdout.readline().split(" port ")[1].split()[0])
        with connect(prod(host), working(host)) as connection:
            with connection.reverse(5055, port):
                assert "from the laptop" in connection.run(["curl", "-sS", "http://127.0.0.1:5055/"]).output
            assert connection.run(["curl", "-sS", "http://127.0.0.1:5055/"]).code != 0
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def refusal(deployment: Deployment, environ: dict[str, str]) -> TargetError:
    began = time.monotonic()
    with pytest.raises(TargetError) as caught, connect(deployment, environ):
        pass
    assert time.monotonic() - began < 90
    assert caught.value.exit_code == 7
    assert deployment.where in caught.value.message
    assert "\n" not in caught.value.message
    return caught.value


def test_another_key_is_refused(host: Host, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    login = host.login("wrong-key", key=tmp_path / "key")
    error = refusal(prod(host, ssh_config=str(login.config)), plain_environment())
    assert "Permission denied" in error.message
    assert "ssh-copy-id" in (error.hint or "")


def test_a_host_never_seen_is_not_trusted(host: Host) -> None:
    login = host.login("unknown", known_hosts="")
    error = refusal(prod(host, ssh_config=str(login.config)), plain_environment())
    assert "Host key verification failed" in error.message
    assert "ssh-keyscan" in (error.hint or "")


def test_a_host_whose_key_changed_is_not_trusted(host: Host, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    line = f"[{host.address}]:{SSH_PORT} {(tmp_path / 'other.pub').read_text()}"
    login = host.login("changed", known_hosts=line)
    error = refusal(prod(host, ssh_config=str(login.config)), plain_environment())
    assert "Host key verification failed" in error.message
    said = "\n".join((error.message, *error.details))
    assert "changed" in said.lower(), "an attack must not read like a first visit"


def test_a_closed_port_is_named_as_such(host: Host) -> None:
    assert "Connection refused" in refusal(prod(host, port=2223), working(host)).message


def test_a_host_that_does_not_answer_ends_in_a_sentence(host: Host) -> None:
    host.cut()
    try:
        assert "timed out" in refusal(prod(host), working(host)).message
    finally:
        host.join()


def test_a_key_in_a_variable_gets_in_and_is_private(host: Host) -> None:
    login = host.login()
    environ = {
        **plain_environment(),
        # As CI systems hand it over: without the last line end, or with those of another system.
        "ASTRO_SSH_KEY": login.key.read_text().strip().replace("\n", "\r\n"),
        "ASTRO_SSH_KNOWN_HOSTS": host.known_hosts.strip(),
    }
    with connect(prod(host), environ) as connection:
        assert connection.run(["id", "-un"]).output.strip() == USER
        for file in connection.socket.parent.iterdir():
            assert not file.is_file() or "PRIVATE KEY" not in file.read_text(errors="replace"), file
        for pid in ssh_processes(host):
            assert "PRIVATE KEY" not in Path(f"/proc/{pid}/environ").read_text(errors="replace")


def test_a_key_in_a_variable_needs_the_host_key_beside_it(host: Host) -> None:
    environ = {**plain_environment(), "ASTRO_SSH_KEY": host.login().key.read_text()}
    with pytest.raises(UsageError, match="ASTRO_SSH_KNOWN_HOSTS"), connect(prod(host), environ):
        pass


def test_no_ssh_outlives_an_astro_that_was_killed(host: Host) -> None:
    code = (
        "import os, sys, time; from tests.deploy.test_connection import *; from tests.deploy.host import *\n"
        "address = Address(sys.argv[1], address=sys.argv[2], port=SSH_PORT)\n"
        "with connect(Deployment('prod', (address,)), dict(os.environ)):\n"
        "    print('connected', flush=True); time.sleep(60)"
    )
    astro = subprocess.Popen(
        [sys.executable, "-c", code, host.url, f"{USER}@{host.address}"], env=working(host),
        cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert astro.stdout is not None
    assert astro.stdout.readline() == "connected\n"
    assert ssh_processes(host)
    astro.send_signal(signal.SIGKILL)
    astro.wait()
    astro.stdout.close()
    poll(lambda: not ssh_processes(host), "the end of ssh")
    (left,) = folders(astro.pid)
    with connect(prod(host), working(host)):
        assert left.exists(), "it may be another container's, whose processes are not seen here"
        os.utime(left, (0, 0))
    with connect(prod(host), working(host)):
        assert not left.exists()
        assert folders(os.getpid())


def folders(pid: int) -> list[Path]:
    """What connections of a process have on the disk."""
    return list(Path(tempfile.gettempdir()).glob(f"astro-ssh-{pid}-*"))


def ssh_processes(host: Host) -> list[int]:
    """Clients on this machine that are connected to the host."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            argv = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if argv[0].endswith(b"ssh") and f"{USER}@{host.address}".encode() in argv:
            found.append(int(folder.name))
    return found
