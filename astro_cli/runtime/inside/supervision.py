"""The supervisor's event loop: starts the services, looks after them, and ends them."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import health, log_lines, migrations, processes, task_parent
from .configuration import CONTROL_SOCKET, EXIT_MIGRATION, EXIT_NEWER, RUNNER, Config, read_json_object

if TYPE_CHECKING:
    from collections.abc import Iterator

STATUS_SECONDS = 5.0
MEMORY_SECONDS = 10.0
MEMORY_SECONDS_STARTING = 2.0
HEALTH_SECONDS = 5.0
CLOCK_JUMP_SECONDS = 5.0
HEALTH_SECONDS_STARTING = 0.3
HEALTH_SECONDS_SILENT = 0.25  # nothing answers: a refused connection costs nothing
DATABASE_SECONDS = 0.1
STAGGER_SECONDS = 0.8
BACKOFF_RESET_SECONDS = 60.0
BACKOFF_MAX_SECONDS = 30.0
DATABASE_SERVER = "postgres"

# What the four components import anyway, found by comparing sys.modules of the running components. A module
# that does not exist in another Airflow version is skipped: it costs time, not correctness.
PREIMPORT = (
    "airflow.__main__",
    "airflow.settings",
    "airflow.cli.commands.api_server_command",
    "airflow.api_fastapi.app",
    "airflow.cli.commands.scheduler_command",
    "airflow.cli.commands.dag_processor_command",
    "airflow.cli.commands.triggerer_command",
    "airflow.executors.local_executor",
    "airflow.api_fastapi.execution_api.routes",
    "airflow.api_fastapi.execution_api.versions",
    "airflow.models.dag_favorite",
    "airflow.models.renderedtifields",
    "airflow.models.task_state_store",
    "airflow.utils.serve_logs",
    "setproctitle",
)


class Forked(BaseException):
    """Raised in a new child only: leaves the supervisor's stack, so that the child ends like a program."""

    def __init__(self, service: Service) -> None:
        super().__init__(service.name)
        self.service = service


@dataclass
class Service:
    """One component: how to start it and what became of it."""

    name: str
    argv: list[str]
    one_shot: bool = False
    is_server: bool = False
    is_program: bool = False
    state: str = "starting"
    health: str | None = "starting"
    pid: int | None = None
    started_at: float | None = None
    restarts: int = 0
    exit_code: int | None = None
    signal: str | None = None
    oom: bool = False
    memory: int | None = None
    failures: int = 0
    start_due: float | None = None
    kill_due: float | None = None
    waiting_clients: list[socket.socket] = field(default_factory=list)

    def status(self) -> dict[str, Any]:
        """What status.json says about it."""
        keys = ("state", "health", "pid", "started_at", "restarts", "exit_code", "signal", "oom", "memory")
        return {key: getattr(self, key) for key in keys}

    def next_backoff(self, uptime: float) -> float:
        """Seconds to wait after an unexpected exit: 1, 2, 4 ... 30; a long life starts the count again."""
        if uptime >= BACKOFF_RESET_SECONDS:
            self.failures = 0
        self.failures += 1
        return min(2.0 ** (self.failures - 1), BACKOFF_MAX_SECONDS)


def configure_mappers() -> None:
    """Have SQLAlchemy work out Airflow's models here: each component would need 0.2 s and 20 MB for it."""
    if orm := sys.modules.get("sqlalchemy.orm"):
        with contextlib.suppress(Exception):  # it fails again, with its message, in a component
            orm.configure_mappers()


BLOCKED = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP)


def clock_offset() -> float:
    """What the clock on the wall is ahead of one that nobody sets."""
    return time.time() - time.monotonic()


class Supervisor:
    """The event loop: one thread, because a process with threads must not fork."""

    def __init__(self, run_dir: Path, config: Config) -> None:
        self.run_dir = run_dir
        self.config = config
        self.started_at = time.time()
        self.services = {name: Service(name, argv) for name, argv in config.services.items()}
        if config.server:
            server = Service(DATABASE_SERVER, config.server, is_server=True)
            self.services = {DATABASE_SERVER: server, **self.services}
        for name, argv in config.programs.items():
            self.services[name] = Service(name, argv, is_program=True)
        self.runner = Service(RUNNER, [RUNNER], one_shot=True, state="stopped", health=None)
        self.out = log_lines.LineWriter(log=config.log)
        self.database = "waiting"
        self.message: str | None = None
        self.memory: int | None = None
        self.stopping = False
        self.selector = selectors.DefaultSelector()
        self.fds: set[int] = set()  # pipes of the components
        self.probe: health.HealthProbe | None = None
        self.api_answered_at = 0.0
        self.oom_seen = processes.oom_kills()
        self.clock = clock_offset()
        self.status_due = time.monotonic()
        self.memory_due = self.status_due + MEMORY_SECONDS
        self.health_due = self.status_due + HEALTH_SECONDS
        self.changed = True

    # -- life

    def run(self) -> int:
        """Supervise until asked to stop; the exit code. Raises Forked in every child."""
        self.guardian = processes.Guardian()
        self._catch_signals()
        self._listen()
        self.write_status()
        if self.config.server:
            self._start(self.services[DATABASE_SERVER])
        for name in self.config.programs:
            self._start(self.services[name])
        if self.config.fork:
            self._preimport()
        code = self._prepare_database()
        if code is not None or self.stopping:
            return self._end(code or 0)
        self._start_all()
        while not self.stopping:
            self.tick()
        return self._end(0)

    def _start_all(self) -> None:
        """Start the first service, which takes longest, and the others one after another beside it.

        All at once they would share the processors with the first, and the whole would take a second longer.
        """
        now = time.monotonic()
        for position, name in enumerate(self.config.services):
            self.services[name].start_due = now + max(position - 1, 0) * STAGGER_SECONDS

    def tick(self, timeout: float | None = None) -> None:
        """Wait for something to happen, or for the next thing that is due, and deal with it."""
        now = time.monotonic()
        if timeout is None:
            timeout = max(0.0, self._next_due() - now)
        if self.changed:
            self.write_status()
        for key, _ in self.selector.select(timeout):
            key.data()
        self._reap()
        self._timers()

    @property
    def _children(self) -> list[Service]:
        return [*self.services.values(), self.runner]

    def _next_due(self) -> float:
        dues = [self.status_due, self.memory_due, self.health_due]
        if self.probe:
            dues[-1] = self.probe.deadline
        for service in self.services.values():
            dues += [due for due in (service.start_due, service.kill_due) if due is not None]
        return min(dues)

    def follow_clock(self, offset: float) -> None:
        """Have it that services began as long ago as they did, also after somebody has set the clock."""
        jump = offset - self.clock
        if abs(jump) > CLOCK_JUMP_SECONDS:
            self.clock, self.changed = offset, True
            for service in self._children:
                if service.started_at is not None:
                    service.started_at += jump

    def _timers(self) -> None:
        now = time.monotonic()
        self.follow_clock(clock_offset())
        for service in self._children:
            if service.kill_due is not None and service.kill_due <= now:
                service.kill_due = None
                if service.pid is not None:
                    self.out.say(f"{service.name} did not stop in time: killed")
                    processes.kill_session(service.pid)
            if service.start_due is not None and service.start_due <= now and not self.stopping:
                self._start(service)
        if self.probe:
            if self.probe.deadline <= now:
                self.probe.finish(None)
        elif self.health_due <= now:
            self._check_health(now)
        if self.memory_due <= now:
            self._measure_memory()
            self.memory_due = now + MEMORY_SECONDS
        if self.changed or self.status_due <= now:
            self.write_status()

    def _end(self, code: int) -> int:
        self.stopping = True
        deadline = time.monotonic() + self.config.grace_seconds
        running = [service for service in self._children if service.pid is not None]
        for service in self.services.values():
            service.start_due = None
            if service.state != "finished" and service.pid is None:
                service.state, service.health = "stopped", None
        for last in (False, True):  # the others still say goodbye to the database
            ending = [service for service in running if (service.is_server or service.is_program) is last]
            for service in ending:
                self._terminate(service)
            while any(service.pid is not None for service in ending) and time.monotonic() < deadline + 5:
                self.tick()
        end = time.monotonic() + 0.5
        while self.fds and time.monotonic() < end:
            self.tick(0.05)
        self.write_status()
        (self.run_dir / CONTROL_SOCKET).unlink(missing_ok=True)
        self.guardian.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.guardian.pid, 0)
        return code

    def _catch_signals(self) -> None:
        self.wake_reader, self.wake_writer = os.pipe()
        for fd in (self.wake_reader, self.wake_writer):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self.wake_writer, warn_on_full_buffer=False)
        self.selector.register(
            self.wake_reader, selectors.EVENT_READ, lambda: os.read(self.wake_reader, 4096)
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def _stop(self, *_: object) -> None:
        self.stopping = True

    # -- before the components

    def _preimport(self) -> None:
        """Import what the components share. What fails here fails again, with its message, in a component."""
        started = time.monotonic()
        entry = self.config.entry.partition(":")[0]
        thresholds = gc.get_threshold()
        gc.set_threshold(20_000, 10, 10)  # looking for garbage costs time; not looking at all 40 MB for ever
        with self._own_output():
            for module in PREIMPORT if entry == PREIMPORT[0] else (entry,):
                try:
                    importlib.import_module(module)
                except Exception as exc:  # noqa: BLE001 - user settings are imported, anything can happen
                    self.out.say(f"not imported ahead: {module} ({type(exc).__name__})")
            if entry == PREIMPORT[0]:
                task_parent.preimport()
            configure_mappers()
        # The collector never looks at these objects again: it would only unshare their memory.
        gc.collect()
        processes.give_back_memory()  # before the fork, or every component would keep a copy of what is free
        gc.freeze()
        gc.set_threshold(*thresholds)
        self.out.say(f"imported Airflow in {time.monotonic() - started:.1f} s")

    @contextlib.contextmanager
    def _own_output(self) -> Iterator[None]:
        """Make what this process itself prints lines of `astro`."""
        kept = [os.dup(fd) for fd in (1, 2)]
        with tempfile.TemporaryFile() as printed:
            for fd in (1, 2):
                os.dup2(printed.fileno(), fd)
            try:
                yield
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                for fd, copy in zip((1, 2), kept, strict=True):
                    os.dup2(copy, fd)
                    os.close(copy)
                printed.seek(0)
                self.out.write("astro", printed.read().splitlines())

    def _prepare_database(self) -> int | None:
        """Wait for the database and bring its schema to this Airflow's; an exit code when that cannot be."""
        heads, known = set[str](), set[str]()
        if self.config.migrations:
            revisions = read_json_object(self.config.migrations)
            heads, known = set(revisions.get("heads", ())), set(revisions.get("known", ()))
        url = os.environ.get("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "")
        while not self.stopping:
            try:
                if self.config.database:
                    socket.create_connection(self.config.database, timeout=1).close()
                found = migrations.alembic_revisions(url) if heads else heads
                break
            except Exception as exc:  # noqa: BLE001 - the driver's errors, without importing the driver
                message = migrations.database_error(exc)
                if message != self.message:
                    self.message, self.changed = message, True
                    self.out.say(f"waiting for the database: {message}")
            self.tick(DATABASE_SECONDS)
        else:
            return None
        self.message = None
        verdict = migrations.judge_revisions(found, heads, known)
        if verdict == "newer":
            unknown = ", ".join(sorted(found - known))
            self._set_database("newer", f"the database was made by a newer Airflow (revision {unknown})")
            return EXIT_NEWER
        if verdict == "migrate":
            self._set_database("migrating")
            if found and (self.config.server or self.config.database):  # ours, not the user's own
                self._save_before_migration(url, found)
            if not self._run_once("migrate", self.config.migrate):
                if self.stopping:
                    return None
                self._set_database("failed", "the migration of the database failed")
                return EXIT_MIGRATION
        self._set_database("ready")
        if heads:
            # Done once, here: each component would load alembic (0.25 s, 10 MB) to find the same.
            os.environ.setdefault("AIRFLOW__DATABASE__CHECK_MIGRATIONS", "False")
        return None

    def _save_before_migration(self, url: str, found: set[str]) -> None:
        """Keep a snapshot: a migration cannot be undone. What prevents it is told, and prevents no start."""
        try:
            name = migrations.save_before_migration(url, found)
        except Exception as exc:  # noqa: BLE001 - the driver's errors, without importing the driver
            self.out.say(f"no snapshot before the migration: {migrations.database_error(exc)}")
        else:
            self.out.say(f"before the migration the database was saved as snapshot `{name}`")

    def _set_database(self, state: str, message: str | None = None) -> None:
        if self.database != state:
            self.database, self.message, self.changed = state, message, True
            if message:
                self.out.say(message)

    def _run_once(self, name: str, argv: list[str]) -> bool:
        service = self.services[name] = Service(name, argv, one_shot=True)
        self._start(service)
        while service.pid is not None and not self.stopping:
            self.tick()
        return service.exit_code == 0

    # -- processes

    def _start(self, service: Service) -> None:
        service.start_due = None
        reader, writer = os.pipe()
        parent = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
        pid = os.fork()
        if pid == 0:
            self._become(service, parent, reader, writer)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)
        self.guardian.watch(pid)
        os.close(writer)
        self._pump(service.name, reader)
        service.pid = pid
        service.state, service.health = "running", "starting"
        service.started_at = time.time()
        service.memory = None
        now = time.monotonic()
        self.health_due = min(self.health_due, now + HEALTH_SECONDS_STARTING)
        self.memory_due = min(self.memory_due, now + MEMORY_SECONDS_STARTING)
        self.changed = True
        if service.waiting_clients:
            self.write_status()  # whoever is told that it was restarted finds it so
        for client in service.waiting_clients:
            self._answer(client, True, f"{service.name} restarted")
        service.waiting_clients = []

    def _become(self, service: Service, parent: int, reader: int, writer: int) -> None:
        """In the child: forget everything about the supervisor, then leave its stack."""
        os.setsid()
        processes.die_with_parent(parent)
        signal.set_wakeup_fd(-1)
        for number in BLOCKED:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # Sockets are closed as objects: collected later, they would close a number that is somebody else's by then.
        for key in list(self.selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
            else:
                os.close(key.fd)
        self.selector.close()
        for client in (client for other in self._children for client in other.waiting_clients):
            client.close()
        self.guardian.close()
        os.close(self.wake_writer)
        os.close(reader)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (writer, 1), (writer, 2)):
            os.dup2(source, target)
        os.close(null)
        os.close(writer)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)
        raise Forked(service)

    def _pump(self, name: str, reader: int) -> None:
        buffer = log_lines.LineBuffer()

        def on_data() -> None:
            try:
                data = os.read(reader, 65536)
            except BlockingIOError:
                return
            self.out.write(name, buffer.feed(data) if data else buffer.flush())
            if not data:
                self.selector.unregister(reader)
                self.fds.discard(reader)
                os.close(reader)

        os.set_blocking(reader, False)
        self.fds.add(reader)
        self.selector.register(reader, selectors.EVENT_READ, on_data)

    def _terminate(self, service: Service) -> None:
        if service.pid is not None and service.kill_due is None:
            if service.is_server:  # Postgres' fast shutdown: ends the sessions instead of waiting for them
                os.kill(service.pid, signal.SIGINT)
            else:
                processes.terminate_group(service.pid)
            service.kill_due = time.monotonic() + self.config.grace_seconds

    def _reap(self) -> None:
        while True:
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for service in self._children:
                if service.pid == pid:
                    # What it left goes with it: LocalExecutor's workers would wait for ever.
                    processes.kill_session(pid)
                    self.guardian.forget(pid)
                    self._ended(service, wait_status)

    def _ended(self, service: Service, wait_status: int) -> None:
        asked = service.kill_due is not None or self.stopping
        code = os.waitstatus_to_exitcode(wait_status)
        service.pid = None
        service.kill_due = None
        service.memory = None
        service.exit_code = code if code >= 0 else None
        service.signal = signal.Signals(-code).name if code < 0 else None
        kills = processes.oom_kills()
        service.oom = kills > self.oom_seen and not asked
        self.oom_seen = kills
        self.changed = True
        how = f"exit code {code}" if code >= 0 else str(service.signal)
        if service.oom:
            how += ", out of memory"
        if self.stopping or service is self.runner:
            service.state, service.health = "stopped", None
        elif service.one_shot:
            service.state, service.health = "finished", None
            self.out.say(f"{service.name} finished ({how})")
        elif service.waiting_clients:
            self._start(service)
        else:
            delay = service.next_backoff(time.time() - (service.started_at or 0.0))
            service.state, service.health = "backoff", "unhealthy"
            service.restarts += 1
            service.start_due = time.monotonic() + delay
            self.out.say(f"{service.name} ended unexpectedly ({how}); again in {delay:.0f} s")

    # -- health and memory

    def _check_health(self, now: float) -> None:
        if self.config.health_url and self.database in ("ready", "failed") and not self.stopping:
            self.health_due = now + health.TIMEOUT
            self.probe = health.HealthProbe(self.config.health_url, self.selector, self._on_health)
        else:
            self.health_due = now + HEALTH_SECONDS

    def _on_health(self, answer: dict[str, Any] | None) -> None:
        self.probe = None
        if answer is not None:
            healthy = (answer.get("metadatabase") or {}).get("status") == "healthy"
            if healthy:
                self._set_database("ready")
            else:
                self._set_database("failed", "Airflow cannot reach the database")
        for service in self.services.values():
            if service.state == "running" and not service.one_shot:
                found = self._health_of(service, answer)
                if found != service.health:
                    service.health, self.changed = found, True
        pause = HEALTH_SECONDS_STARTING
        if answer is None:
            pause = HEALTH_SECONDS_SILENT
        elif all(service.health == "healthy" for service in self.services.values() if not service.one_shot):
            pause = HEALTH_SECONDS
        self.health_due = time.monotonic() + pause

    def _health_of(self, service: Service, answer: dict[str, Any] | None) -> str | None:
        if service.is_server:
            return "healthy" if self.database == "ready" else "starting"
        if service.is_program:
            return "healthy"
        if service.name == "api-server":
            if answer is not None:
                return "healthy"
            return "starting" if service.health == "starting" else "unhealthy"
        if answer is None or service.name not in health.KEYS:
            return service.health
        return health.component_health(
            answer, health.KEYS[service.name], service.started_at or 0.0, service.health
        )

    def _measure_memory(self) -> None:
        self.oom_seen = processes.oom_kills()
        if sys.platform != "linux":
            return
        self.changed = True
        owners = {service.pid: service for service in self.services.values() if service.pid}
        for root, pids in processes.process_trees(owners).items():
            owners[root].memory = sum(processes.proportional_set_size(pid) for pid in pids) or None
        self.memory = (
            processes.proportional_set_size(os.getpid()) + processes.proportional_set_size(self.guardian.pid)
            or None
        )

    def write_status(self) -> None:
        """Replace status.json; a reader sees the old or the new one, never a part."""
        self.changed = False
        self.status_due = time.monotonic() + STATUS_SECONDS
        status = {
            "version": 1,
            "updated_at": time.time(),
            "pid": os.getpid(),
            "started_at": self.started_at,
            "memory": self.memory,
            "database": self.database,
            "message": self.message,
            "services": {name: service.status() for name, service in self.services.items()},
        }
        temporary = self.run_dir / ".status.json.new"
        with contextlib.suppress(OSError):  # a full disk must not end the sandbox
            temporary.write_text(json.dumps(status), encoding="utf-8")
            temporary.replace(self.run_dir / "status.json")

    # -- control

    def _listen(self) -> None:
        path = self.run_dir / CONTROL_SOCKET
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.setblocking(False)
        folder = Path.cwd()
        os.chdir(self.run_dir)  # a socket's path must be short, this folder's need not be
        try:
            listener.bind(CONTROL_SOCKET)
        finally:
            os.chdir(folder)
        path.chmod(0o600)
        listener.listen()

        def on_client() -> None:
            client, _ = listener.accept()
            client.setblocking(False)
            self.selector.register(client, selectors.EVENT_READ, lambda: self._on_request(client))

        self.selector.register(listener, selectors.EVENT_READ, on_client)

    def _on_request(self, client: socket.socket) -> None:
        self.selector.unregister(client)
        try:
            request = json.loads(client.recv(65536))
            if "runner" in request:
                self._start_runner(client)
                return
            name = request["restart"]
            service = self.services[name]
        except (OSError, ValueError, KeyError, TypeError):
            self._answer(client, False, f"no such service; there are {', '.join(self.services)}")
            return
        if service.one_shot or self.database != "ready":
            self._answer(client, False, f"{name} cannot be restarted now")
            return
        self.out.say(f"restarting {name}")
        service.failures = 0
        service.waiting_clients.append(client)
        if service.pid is None:
            self._start(service)
        else:
            self._terminate(service)

    def _start_runner(self, client: socket.socket) -> None:
        if not self.config.fork or self.database != "ready":
            self._answer(client, False, "there is no runner now")
        elif self.runner.pid is None:
            self.runner.waiting_clients.append(client)
            self._start(self.runner)
        else:
            self._answer(client, True, "it runs")

    @staticmethod
    def _answer(client: socket.socket, ok: bool, message: str) -> None:
        with contextlib.suppress(OSError):  # it may not have waited for the answer
            client.sendall(json.dumps({"ok": ok, "message": message}).encode() + b"\n")
        client.close()
