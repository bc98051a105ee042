"""The metadata database of the standalone engine: makes its template, and serves a sandbox's copy of it.

What `make-cluster` and `postgres-entrypoint` are for the images, this is for local processes. It runs under the
Python of the sandbox's environment, hence: standard library only, nothing of astro_cli.

    standalone_postgres.py template FOLDER POSTGRES -- COMMAND...   make a cluster in FOLDER that COMMAND migrates
    standalone_postgres.py serve CONFIG.json                        become the server; see `ServerConfig`

Why not SQLite: docs/standalone.md has the figures. In short, both run equally many tasks a minute, and SQLite may
start a little sooner and saves 40 MiB; Postgres has the row locks that Airflow uses, comes back after `kill -9`,
and is what the Docker engine and deployments run.

Postgres refuses to run as root. There it runs as `nobody`, who cannot reach into root's home: the capability to
pass file permissions goes with it, which leaves it with less than root had.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NOBODY = 65534
VARIABLES = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ")
"""What the server is given of the environment, whose rest is Airflow's and holds secrets."""
DATABASE = "airflow"
DEFAULT_PORT = 5432
READY_SECONDS = 30.0

# As images/postgresql.conf: small, and able to survive `kill -9`. Given as options, so that an older data folder
# follows a newer astro.
OPTIONS = {
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "16MB",
    "work_mem": "4MB",
    "maintenance_work_mem": "32MB",
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
    "io_method": "sync",  # Postgres 18 would keep three processes for it
    "synchronous_commit": "off",
    "min_wal_size": "32MB",
    "max_wal_size": "256MB",
    "checkpoint_timeout": "15min",
    "max_wal_senders": "0",
    "max_logical_replication_workers": "0",
    "wal_level": "minimal",
    "log_timezone": "UTC",
    "timezone": "UTC",
}
# Who may connect: the socket's folder opens for its owner alone, and even so the password is asked for.
ACCESS = "local all all scram-sha-256\nhost all all 127.0.0.1/32 scram-sha-256\n"


class ServerConfig(TypedDict):
    """CONFIG.json.

    Attributes:
        postgres: folder that holds `bin`.
        data: the cluster; copied from `template` when it does not exist.
        socket: folder of the Unix socket.
        port: of the loopback interface, or None to listen on the socket alone.
        password: of the role `airflow`.
    """

    postgres: str
    data: str
    template: str
    socket: str
    port: int | None
    password: str


def serve(config: ServerConfig) -> None:
    """Bring the data folder into order, then become the server. Returns only by an error."""
    data = Path(config["data"])
    parent = os.getppid()
    if not data.exists():
        half_done = data.with_name(f"{data.name}.new")
        shutil.rmtree(half_done, ignore_errors=True)
        shutil.copytree(config["template"], half_done, symlinks=True)
        half_done.chmod(0o700)
        if os.geteuid() == 0:
            _give_away(half_done)
        half_done.rename(data)
    port = config["port"] or DEFAULT_PORT
    usual, socket = (Path(config["socket"], f".s.PGSQL.{number}") for number in (DEFAULT_PORT, port))
    for lock in (data / "postmaster.pid", socket.with_name(f"{socket.name}.lock")):
        remove_stale_lock(lock, data)
    if usual.is_symlink():
        usual.unlink()
    if socket != usual:  # the socket is named after the port, and Airflow knows it by its usual name
        usual.unlink(missing_ok=True)
        usual.symlink_to(socket.name)
    access = data.parent / "pg_hba.conf"
    access.write_text(ACCESS, encoding="ascii")
    drop_root()
    environ = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    server = [f"{config['postgres']}/bin/postgres", "-D", config["data"]]
    options = {**OPTIONS, "hba_file": str(access), "ident_file": os.devnull}
    _set_password(server, options, data, config["password"], environ)
    options["unix_socket_directories"] = config["socket"]
    options["listen_addresses"] = "127.0.0.1" if config["port"] else ""
    options["port"] = str(port)
    die_with_parent(parent)
    os.execve(server[0], [*server, *_flags(options)], environ)  # noqa: S606


def _set_password(
    server: Sequence[str], options: dict[str, str], data: Path, password: str, environ: dict[str, str]
) -> None:
    """Set the role's password before anybody can connect; a hash in the data folder says that it is set."""
    mark = data / "astro-password.sha256"
    # The role may make others: the warehouse of a project's pipelines has its own.
    sum_ = hashlib.sha256(f"{password} createrole".encode()).hexdigest()
    if mark.exists() and mark.read_text(encoding="ascii") == sum_:
        return
    quoted = password.replace("'", "''")
    flags = _flags({**options, "log_min_error_statement": "panic"})
    done = subprocess.run(  # noqa: S603
        [server[0], "--single", *server[1:], *flags, DATABASE],
        input=f"ALTER ROLE airflow LOGIN CREATEROLE PASSWORD '{quoted}'\n",
        capture_output=True,
        text=True,
        check=False,
        env=environ,
    )
    # Single-user mode exits with 0 even if the statement fails: its words tell.
    if done.returncode or any(word in done.stderr for word in ("ERROR:", "FATAL:", "PANIC:")):
        raise SystemExit(f"{done.stderr}the password of the metadata database cannot be set")
    mark.write_text(sum_, encoding="ascii")


def _flags(options: dict[str, str]) -> list[str]:
    return [word for name, value in options.items() for word in ("-c", f"{name}={value}")]


def remove_stale_lock(lock: Path, data: Path) -> None:
    """Remove the lock file of a killed server; by its process id alone Postgres may take it for a living one.

    The id may belong to another program by now, or to a zombie where nobody reaps them, as in some containers.
    """
    try:
        pid = int(lock.read_text(encoding="utf-8").split()[0])
    except (OSError, ValueError, IndexError):
        return
    if sys.platform != "linux":
        return
    try:  # a server works in its data folder, and a zombie nowhere
        ours = Path(f"/proc/{pid}/cwd").resolve(strict=True) == data.resolve()
    except OSError:
        ours = False
    if not ours:
        lock.unlink(missing_ok=True)


# -- the template


def make_template(folder: Path, postgres: Path, migrate: Sequence[str]) -> None:
    """Make a cluster whose database `airflow` is migrated by `migrate`; its environment tells the address."""
    data = folder.absolute()
    data.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(data, NOBODY, NOBODY)
    tools = postgres / "bin"
    options = ("--username=postgres", "--encoding=UTF8", "--locale=C", "--wal-segsize=4", "--auth=trust")
    _as_owner([str(tools / "initdb"), f"--pgdata={data}", *options, "--no-instructions", "--no-sync"])
    socket = data if len(str(data)) < 80 else None
    with _short_folder(socket) as place:
        quick = {"fsync": "off", "full_page_writes": "off", "min_wal_size": "8MB"}
        reach = {"listen_addresses": "", "unix_socket_directories": str(place)}
        server = subprocess.Popen(  # noqa: S603
            [str(tools / "postgres"), "-D", str(data), *_flags({**OPTIONS, **quick, **reach})],
            preexec_fn=drop_root,
        )
        try:
            psql = [str(tools / "psql"), "-h", str(place), "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-q"]
            _wait_for(server, [str(tools / "pg_isready"), "-q", "-h", str(place), "-U", "postgres"])
            _as_owner([*psql, "postgres", "-c", "CREATE ROLE airflow LOGIN CREATEDB"])
            _as_owner([*psql, "postgres", "-c", f"CREATE DATABASE {DATABASE} OWNER airflow"])
            address = f"postgresql+psycopg2://airflow@/{DATABASE}?host={place}"
            environment = {**os.environ, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": address}
            subprocess.run(list(migrate), check=True, env=environment)  # noqa: S603
            _as_owner([*psql, DATABASE, "-c", "VACUUM (FREEZE, ANALYZE)"])
            _as_owner(
                [*psql, DATABASE, "-c", "CHECKPOINT", "-c", "SELECT pg_switch_wal()", "-c", "CHECKPOINT"]
            )
        finally:
            server.send_signal(signal.SIGINT)
            server.wait()
    (data / "postmaster.opts").unlink(missing_ok=True)


@contextlib.contextmanager
def _short_folder(folder: Path | None) -> Iterator[Path]:
    """`folder`, or a temporary one: the path of a socket has room for about a hundred bytes."""
    import tempfile

    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="astro-") as name:
        yield Path(name)


def _wait_for(server: subprocess.Popen[bytes], question: Sequence[str]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while subprocess.run(list(question), check=False).returncode:  # noqa: S603
        if server.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("the database server for the template does not start")
        time.sleep(0.05)


def _as_owner(command: Sequence[str]) -> None:
    subprocess.run(  # noqa: S603
        list(command), check=True, stdout=subprocess.DEVNULL, preexec_fn=drop_root
    )


def _give_away(folder: Path) -> None:
    for parent, folders, files in os.walk(folder):
        os.chown(parent, NOBODY, NOBODY)
        for name in (*folders, *files):
            os.chown(Path(parent, name), NOBODY, NOBODY, follow_symlinks=False)


# -- processes


def drop_root() -> None:
    """Where this process is root's: become `nobody`, who keeps the capability to pass file permissions.

    Without that capability (a container may have taken it away) Postgres itself says what it cannot reach.
    """
    if os.geteuid() != 0:
        return
    capability = 1  # CAP_DAC_OVERRIDE
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        # SECBIT_NO_SETUID_FIXUP: else the new user loses it, and access(2), by which Postgres looks for itself,
        # would not see it.
        libc.prctl(28, 1 << 2, 0, 0, 0)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        mask = 1 << capability
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3
        libc.capset(header, (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0))
        libc.prctl(47, 2, capability, 0, 0)  # PR_CAP_AMBIENT_RAISE: keep it across exec
    else:
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process with its parent; asked again here because another user id forgets it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def main(argv: list[str]) -> int:
    """Choose the command."""
    if len(argv) == 2 and argv[0] == "serve":
        serve(json.loads(Path(argv[1]).read_text(encoding="utf-8")))
    elif len(argv) > 4 and argv[0] == "template" and argv[3] == "--":
        make_template(Path(argv[1]), Path(argv[2]), argv[4:])
    else:
        sys.stderr.write(
            "usage: standalone_postgres.py serve FILE | template FOLDER POSTGRES -- COMMAND...\n"
        )
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
