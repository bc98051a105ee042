"""A connection through the user's own `ssh`: its configuration, agent, jump hosts and hardware keys just work.

The engine's socket is forwarded to a socket of this machine. Nothing is ever asked: a key that needs a passphrase
has to be in an agent, and a host key has to be known.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from astro_cli.foundation import process
from astro_cli.foundation.errors import TargetError, UsageError
from astro_cli.foundation.paths import make_private_dir, write_atomic
from astro_cli.foundation.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

    from astro_cli.domain.deployments import Deployment, Host
    from astro_cli.foundation.process import Identity

PREFIX = "astro-ssh-"
LEFTOVER_SECONDS = 3600.0
CONNECT_SECONDS = 10
READY_SECONDS = 30.0
OPTIONS = (
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    f"ConnectTimeout={CONNECT_SECONDS}",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=3",
    "ExitOnForwardFailure=yes",
    "StreamLocalBindUnlink=yes",
    "ControlMaster=no",
    "ControlPath=none",
)
CONFIG_VARIABLE = "ASTRO_SSH_CONFIG"
"""File for `ssh -F`, where the deployment names none."""
KEY_VARIABLE = "ASTRO_SSH_KEY"
"""The text of a private key, for CI jobs; then `KNOWN_HOSTS_VARIABLE` must be there, too."""
KNOWN_HOSTS_VARIABLE = "ASTRO_SSH_KNOWN_HOSTS"
"""Lines of a known_hosts file: the only host keys that are believed."""

_HINTS = (
    (
        "Host key verification failed",
        "see that it is the right host, then make its key known: `ssh-keyscan -p PORT HOST >> ~/.ssh/known_hosts`",
    ),
    (
        "Permission denied",
        "the host does not accept your key: `ssh-copy-id USER@HOST`, or name a key with `identity`",
    ),
    ("Connection refused", "nothing listens there: check the port, and that sshd runs"),
    ("Could not resolve", "check the name of the host"),
    ("No route to host", "check the host's address and the network"),
    ("timed out", "check the host's address, the network and its firewall"),
    (
        "administratively prohibited",
        "the host's sshd forbids forwarding: set `AllowStreamLocalForwarding yes`",
    ),
)


class SshConnection:
    """The way to one host, open while it is entered as a context.

    Args:
        host: of the deployment.
        deployment: may name a key and a configuration file.
        environ: may name a configuration file.
    """

    def __init__(self, host: Host, deployment: Deployment, environ: Mapping[str, str]) -> None:
        self._host = host
        self._deployment = deployment
        self._environ = environ
        self._folder = Path()
        self._tunnel: Identity | None = None
        self._pipe: tuple[int, int] | None = None
        self._key: int | None = None
        self._identity = ""
        self.socket = Path()
        """The host's engine, on this machine."""
        self.host_address = ""
        """The IP address at which the host was reached, as itself sees it."""

    def __enter__(self) -> SshConnection:
        _remove_leftovers()
        # Short: the name of a socket is limited to about a hundred characters.
        self._folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        try:
            self._write_login()
            remote = self._remote_socket()
            self.socket = self._folder / "engine"
            self._tunnel = self._forward("-L", f"{self.socket}:{remote}", "tunnel")
            if not wait_until(lambda: _listens(self.socket) or None, seconds=READY_SECONDS, pause=0.05):
                raise self._error("the connection was not ready in time")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tunnel is not None:
            process.end(self._tunnel, seconds=2.0)
        if self._pipe is not None:
            for descriptor in self._pipe:
                os.close(descriptor)
        if self._key is not None:
            os.close(self._key)
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, argv: Sequence[str]) -> process.Completed:
        """Run a program on the host; its arguments are quoted for the shell there.

        Raises:
            TargetError: the host cannot be reached.
        """
        import shlex

        done = process.run([*self._argv(), self._host.address, shlex.join(argv)], env=self._env())
        if done.code == 255:
            raise self._error(done.output)
        return done

    @contextmanager
    def reverse(self, remote_port: int, local_port: int) -> Iterator[None]:
        """While entered, a port on the host's loopback leads to a port on ours.

        Raises:
            TargetError: the host refuses, for example because the port is taken there.
        """
        name = f"reverse-{remote_port}"
        forward = self._forward("-R", f"127.0.0.1:{remote_port}:127.0.0.1:{local_port}", name)
        try:
            self._wait_forwarded(forward, name)
            yield
        finally:
            process.end(forward, seconds=2.0)

    def _wait_forwarded(self, forward: Identity, name: str) -> None:
        """Wait until ssh has confirmed a remote forward, which only its debug output tells."""
        log = self._folder / f"{name}.log"

        def ready() -> bool | None:
            if not forward.is_alive:
                raise self._error(log.read_text(encoding="utf-8", errors="replace"))
            said = log.read_text(encoding="utf-8", errors="replace")
            return True if "remote forward success" in said else None

        if not wait_until(ready, seconds=READY_SECONDS, pause=0.05):
            raise self._error("the host did not open the port in time")

    def _forward(self, option: str, rule: str, name: str) -> Identity:
        # What travels back are the layers of images, which are not compressed.
        reverse = ("-v", "-C") if option == "-R" else ()
        # `cat` ends when nobody holds the other end of the pipe, so no ssh outlives an astro that is killed.
        self._pipe = self._pipe or os.pipe()
        log = self._folder / f"{name}.log"
        argv = [*self._argv(), *reverse, option, rule, self._host.address, "cat"]
        return process.leave_behind(
            argv, env=self._env(), cwd=make_private_dir(self._folder), log=log, stdin=self._pipe[0]
        )

    def _write_login(self) -> None:
        """Put key and host keys that come in variables into files that only we can read.

        The key goes to no disk where the system can keep it in memory: nothing of it is left when we are killed.
        """
        if not self._environ.get(KEY_VARIABLE):
            return
        if not self._environ.get(KNOWN_HOSTS_VARIABLE):
            raise UsageError(
                f"{KEY_VARIABLE} is set, but {KNOWN_HOSTS_VARIABLE} is not: no host is trusted blindly",
                hint="set it to the host's line of known_hosts, see `ssh-keyscan -p PORT HOST`",
            )
        # CI systems cut the last line end or make it a Windows one, and ssh then refuses the key.
        key, known_hosts = (
            self._environ[variable].replace("\r\n", "\n").strip() + "\n"
            for variable in (KEY_VARIABLE, KNOWN_HOSTS_VARIABLE)
        )
        write_atomic(self._folder / KNOWN_HOSTS_VARIABLE, known_hosts)
        if sys.platform == "linux":
            self._key = os.memfd_create(KEY_VARIABLE)
            os.fchmod(self._key, 0o600)
            os.write(self._key, key.encode())
            self._identity = f"/proc/{os.getpid()}/fd/{self._key}"
        else:
            self._identity = str(self._folder / KEY_VARIABLE)
            write_atomic(self._folder / KEY_VARIABLE, key)

    def _remote_socket(self) -> str:
        """Where the engine listens on the host; also the first, most telling, contact with it."""
        done = process.run(
            [
                *self._argv(),
                self._host.address,
                "echo ${DOCKER_HOST:-unix:///var/run/docker.sock} $SSH_CONNECTION",
            ],
            env=self._env(),
        )
        address, *connection = done.lines[-1].split() if done.lines else [""]
        if done.code or not address.startswith("unix://"):
            raise self._error(done.output)
        self.host_address = connection[2] if len(connection) > 2 else ""
        return address.removeprefix("unix://")

    def _argv(self) -> list[str]:
        deployment = self._deployment
        argv = ["ssh", "-T"]
        config = deployment.ssh_config or self._environ.get(CONFIG_VARIABLE, "")
        if config:
            argv += ["-F", os.path.expanduser(config)]  # noqa: PTH111 - never fails
        for option in OPTIONS:
            argv += ["-o", option]
        if deployment.identity:
            argv += ["-i", os.path.expanduser(deployment.identity), "-o", "IdentitiesOnly=yes"]  # noqa: PTH111
        if self._identity:
            argv += ["-i", self._identity, "-o", "IdentitiesOnly=yes"]
            argv += ["-o", f"UserKnownHostsFile={self._folder / KNOWN_HOSTS_VARIABLE}"]
        if self._host.port is not None:
            argv += ["-p", str(self._host.port)]
        return argv

    def _env(self) -> dict[str, str]:
        environ = {name: value for name, value in self._environ.items() if name != KEY_VARIABLE}
        return {**environ, "LC_ALL": "C"}

    def _error(self, said: str) -> TargetError:
        lines = [line for line in said.splitlines() if line.strip() and not line.startswith("debug1:")]
        sentence = lines[-1].strip() if lines else "ssh ended without a word"
        hint = next((hint for text, hint in _HINTS if text in said), None)
        return TargetError(
            f"cannot reach {self._host.url}: {sentence}",
            hint=hint or f"try it by hand: `ssh {self._host.address}`",
            details=tuple(lines[:-1][-10:]),
        )


def _remove_leftovers() -> None:
    """Remove the folders of processes that were killed before they could.

    Not at once: where containers share a folder for temporary files, the numbers of processes prove little.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        number = folder.name.removeprefix(PREFIX).partition("-")[0]
        with suppress(OSError):
            about = folder.stat()
            is_ours = about.st_uid == os.getuid() and time.time() - about.st_mtime > LEFTOVER_SECONDS
            if is_ours and number.isdecimal() and not _is_alive(int(number)):
                shutil.rmtree(folder, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _listens(path: Path) -> bool:
    """Whether somebody takes connections there; the socket's file is there a moment earlier."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(path))
        except OSError:
            return False
    return True
