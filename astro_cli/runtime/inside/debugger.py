"""Stops one task instance of a running sandbox in a debugger, and nothing else.

The scheduler of a sandbox is told to `install` a hook; every task is forked from it. The hook asks
RUN_DIR/debug.sock whether the task at hand is the one to debug. That socket exists only while `astro airflow debug`
waits: no socket, or nobody behind it, and the task runs as if the hook was not there. So nothing can be left behind
that traps a later run.

    supervisor.py exec RUN_DIR -- astro-debug wait JSON    be behind the socket, tell what happens
    supervisor.py exec RUN_DIR -- astro-debug end RUN_ID   have the one that waits for this run end
    supervisor.py exec RUN_DIR -- astro-debug relay PORT   join standard input and output to a port of the loopback

JSON: {"dag_id", "run_id", "task_id", "map_index": null for any, "port", "seconds": until a debugger is attached}.
`wait` writes JSON lines with a `type`:
    armed        the hook's question will be heard from now on
    busy         somebody else's `wait` is there already
    unsupported  there is no hook here; `reason` says why
    listening    the task has begun (its `map_index`), a debugger may connect to the port
    attached     one did
    stopped      in `function`, at `line` of `file`: the first of the project's own code in the task, or the
                 operator's `execute` where the project has no part in it
    missed       the task's code ran to its end without coming to such a place
    failed       `message`: there can be no debugger; the task runs without
    timeout      nobody came in time; the task runs without
    ended        the task's process has ended
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import inspect
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .surroundings import KNOWN_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType, FrameType

SOCKET = "debug.sock"
LOOPBACK = "127.0.0.1"
ANSWER_SECONDS = 5.0


# ----------------------------------------------------------------------------------------- in the task's process


def install(run_dir: Path) -> None:
    """Put the hook where Airflow's task runner calls the task's own code. Called in the scheduler's process."""
    if unsupported():
        return
    task_runner: Any = importlib.import_module("airflow.sdk.execution_time.task_runner")
    original = task_runner._run_execute_callable

    def run_execute_callable(context: Any, execute: Any, task: Any) -> Any:
        channel = _ask(run_dir, context["ti"])
        if channel is None or not _attach(channel):
            return original(context, execute, task)
        object.__setattr__(task, "execution_timeout", None)  # nobody thinks against the clock
        with Place(channel, task, _project(), _suspend).watched():
            return original(context, execute, task)

    # A debugger hides the frames of libraries from its user; this one shall be among them.
    run_execute_callable.__code__ = run_execute_callable.__code__.replace(co_filename=task_runner.__file__)
    task_runner._run_execute_callable = run_execute_callable


def unsupported() -> str | None:
    """Why there can be no hook here, or None."""
    if sys.platform != "linux":
        return "on this system Airflow's tasks are not forked from its scheduler"
    version = importlib.metadata.version("apache-airflow-core")
    return (
        None
        if version == KNOWN_VERSION
        else f"astro knows the inside of Airflow {KNOWN_VERSION}, not of {version}"
    )


def _project() -> str:
    """The folder that holds the project's own code."""
    return str(Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"]).parent) + os.sep


class Channel:
    """The task's end of the socket: it tells, and it notices when nobody listens any more.

    It is closed with the process, whose end the other side learns in this way.
    """

    def __init__(self, connection: socket.socket, port: int, map_index: int) -> None:
        self._connection = connection
        self.port = port
        self.map_index = map_index

    def tell(self, kind: str, **more: Any) -> None:
        """Send one line; it is no matter if nobody hears it."""
        with contextlib.suppress(OSError):
            self._connection.sendall(json.dumps({"type": kind, **more}).encode() + b"\n")

    def until_closed(self) -> None:
        """Return when the other side has gone."""
        with contextlib.suppress(OSError):
            while self._connection.recv(1024):
                pass


def _ask(run_dir: Path, instance: Any) -> Channel | None:
    """Whether a debugger waits for this task instance: then the line to it."""
    if not (run_dir / SOCKET).exists():
        return None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(ANSWER_SECONDS)
        _connect(connection, run_dir)
        question = {name: getattr(instance, name) for name in ("dag_id", "run_id", "task_id", "map_index")}
        connection.sendall(json.dumps(question).encode() + b"\n")
        answer = json.loads(connection.makefile("rb").readline())
    except (OSError, ValueError):
        connection.close()
        return None
    if "port" not in answer:
        connection.close()
        return None
    connection.settimeout(None)
    return Channel(connection, answer["port"], instance.map_index)


def _connect(connection: socket.socket, run_dir: Path) -> None:
    """Connect by way of a descriptor: a socket's path must be short, this folder's need not be."""
    folder = os.open(run_dir, os.O_RDONLY)
    try:
        connection.connect(f"/proc/self/fd/{folder}/{SOCKET}")
    finally:
        os.close(folder)


def _attach(channel: Channel) -> bool:
    """Wait until a debugger is attached; False if none came or can come."""
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # else it warns of Python's frozen modules
    try:
        debugpy: Any = importlib.import_module("debugpy")
        api: Any = importlib.import_module("debugpy.server.api")
        debugpy.configure(subProcess=False)  # what the task starts runs as always
        debugpy.listen((LOOPBACK, channel.port))
    except Exception as exc:  # noqa: BLE001 - whatever it is, the task must not fail for it
        channel.tell("failed", message=str(exc))
        return False
    attached = threading.Event()

    def give_up() -> None:
        channel.until_closed()
        while not attached.is_set():
            with contextlib.suppress(RuntimeError):  # not waiting yet
                api.wait_for_client.cancel()
            time.sleep(0.1)

    threading.Thread(target=give_up, daemon=True).start()
    channel.tell("listening", map_index=channel.map_index)
    debugpy.wait_for_client()
    attached.set()
    if not debugpy.is_client_connected():
        return False
    channel.tell("attached")
    return True


class Place:
    """Where to stop: the first call of the project's own code, or the operator's `execute` if it has no part."""

    def __init__(
        self, channel: Channel, task: Any, project: str, suspend: Callable[[FrameType], None]
    ) -> None:
        self._channel = channel
        self._project = project
        self._suspend = suspend
        own = [type(task), getattr(task, "python_callable", None)]
        has_own = any(self._is_own(_file_of(each)) for each in own if each is not None)
        self._execute: CodeType | None = None if has_own else _code_of(type(task).execute)
        self._reached = False

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Look for the place while the task runs."""
        before = sys.gettrace()

        def look(frame: FrameType, event: str, _: object) -> Any:
            code = frame.f_code
            if event != "call" or not (code is self._execute or self._is_own(code.co_filename)):
                return None
            sys.settrace(before)
            self._reached = True
            self._tell(frame)
            self._suspend(frame)
            return frame.f_trace

        sys.settrace(look)
        try:
            yield
        finally:
            if not self._reached:
                sys.settrace(before)
                self._channel.tell("missed")

    def _is_own(self, file: str) -> bool:
        return file.startswith(self._project) and "/site-packages/" not in file

    def _tell(self, frame: FrameType) -> None:
        code = frame.f_code
        lines = (line for _, _, line in code.co_lines() if line is not None and line > frame.f_lineno)
        line = next(lines, frame.f_lineno)  # the decorators and the `def` are not stopped at
        self._channel.tell("stopped", file=code.co_filename, line=line, function=code.co_name)


def _suspend(frame: FrameType) -> None:
    """What `debugpy.breakpoint` does, for a frame that is not the caller's."""
    pydevd: Any = importlib.import_module("pydevd")
    pydevd.settrace(
        suspend=True,
        trace_only_current_thread=True,
        patch_multiprocessing=False,
        notify_stdin=False,
        stop_at_frame=frame,
    )


def _file_of(thing: Any) -> str:
    """The file that defines a class or something callable; empty where there is none."""
    try:
        return inspect.getfile(inspect.unwrap(thing))
    except (TypeError, OSError, ValueError):
        return ""


def _code_of(function: Callable[..., Any]) -> CodeType | None:
    return getattr(inspect.unwrap(function), "__code__", None)


# ------------------------------------------------------------------------------------------------------- commands


def command(run_dir: Path, argv: list[str]) -> int:
    """What `astro-debug` does; its exit code."""
    if argv[0] == "relay":
        return relay(int(argv[1]))
    if argv[0] == "end":
        return end(run_dir, argv[1])
    return Session(run_dir, json.loads(argv[1])).run()


def end(run_dir: Path, run_id: str) -> int:
    """Have the `wait` for a task of this run end."""
    os.chdir(run_dir)
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(SOCKET)
        connection.sendall(json.dumps({"end": run_id}).encode() + b"\n")
        connection.recv(1)
    return 0


class Session:
    """Waits for one task instance, and follows it to its end."""

    def __init__(self, run_dir: Path, wanted: dict[str, Any]) -> None:
        self._run_dir = run_dir
        self._wanted = wanted
        self._task: socket.socket | None = None
        self._buffer = b""
        self._over = False
        self._deadline: float | None = time.monotonic() + float(wanted["seconds"])

    def run(self) -> int:
        """Until the task's process has ended, the time is up, or somebody asks for the end."""
        reason = unsupported()
        if reason:
            _say("unsupported", reason=reason)
            return 1
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._interrupted)
        os.chdir(self._run_dir)
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
            other.connect(SOCKET)
            _say("busy")
            return 1
        Path(SOCKET).unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(SOCKET)
            try:
                Path(SOCKET).chmod(0o600)
                listener.listen(16)
                _say("armed")
                while not self._over:
                    self._step(listener)
            finally:
                Path(SOCKET).unlink(missing_ok=True)
                if self._task is not None:
                    self._task.close()
        return 0

    def _interrupted(self, *_: object) -> None:
        self._over = True

    def _step(self, listener: socket.socket) -> None:
        sources = [listener] if self._task is None else [listener, self._task]
        ready, _, _ = select.select(sources, [], [], 0.5)
        if self._task is not None and self._task in ready:
            self._read(self._task)
        if listener in ready:
            self._answer(listener.accept()[0])
        if self._deadline is not None and time.monotonic() >= self._deadline:
            _say("timeout")
            self._over = True

    def _answer(self, connection: socket.socket) -> None:
        connection.settimeout(ANSWER_SECONDS)
        try:
            question = json.loads(connection.makefile("rb").readline())
            if "end" in question:
                self._over = question["end"] == self._wanted["run_id"]
            elif self._task is None and self._is_wanted(question):
                connection.sendall(json.dumps({"port": self._wanted["port"]}).encode() + b"\n")
                self._task = connection
                return
            connection.sendall(b"{}\n")
        except (OSError, ValueError):
            pass
        connection.close()

    def _is_wanted(self, question: dict[str, Any]) -> bool:
        names = ["dag_id", "run_id", "task_id"]
        if self._wanted["map_index"] is not None:
            names.append("map_index")
        return all(question[name] == self._wanted[name] for name in names)

    def _read(self, task: socket.socket) -> None:
        try:
            data = task.recv(65536)
        except OSError:
            data = b""
        self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            message = json.loads(line)
            if message["type"] == "attached":
                self._deadline = None
            _say(message.pop("type"), **message)
        if not data:
            _say("ended")
            self._over = True


def _say(kind: str, **more: Any) -> None:
    sys.stdout.write(json.dumps({"type": kind, **more}) + "\n")
    sys.stdout.flush()


def relay(port: int) -> int:
    """Join standard input and output to a port on the loopback, until one side ends."""
    try:
        target = socket.create_connection((LOOPBACK, port), timeout=ANSWER_SECONDS)
    except OSError as exc:
        sys.stderr.write(f"nothing listens on port {port}: {exc}\n")
        return 1
    target.settimeout(None)
    with target:
        while True:
            ready, _, _ = select.select([0, target.fileno()], [], [])
            for source in ready:
                data = os.read(source, 65536)
                if not data:
                    return 0
                if source == 0:
                    target.sendall(data)
                else:
                    _write_all(1, data)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
