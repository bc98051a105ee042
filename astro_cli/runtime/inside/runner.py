"""The warm runner: a child of the supervisor that has Airflow imported and forks for every request.

`parse`, `test` and `pytest` would spend nearly all of their time on importing Airflow. The runner never imports
anything of the project itself, so that every request begins from a clean copy: an edit of a DAG, of `include/`
or of `plugins/` needs no restart.

    supervisor.py exec RUN_DIR -- astro-runner parse [PATH...]
    supervisor.py exec RUN_DIR -- astro-runner test JSON
    supervisor.py exec RUN_DIR -- astro-runner pytest [ARGUMENT...]

The client hands its standard streams over RUN_DIR/runner.sock (`SCM_RIGHTS`), so what a request prints goes where
the client's own output would have gone. Where nothing can be forked the client does the work itself, slower.

`parse` and `test` write JSON lines on standard output, each with a `type`; astro_cli/domain/parse_report.py and
astro_cli/domain/dag_test.py read them. `test` and `pytest` work on a throw-away copy of the metadata database.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .children import flush, supervised
from .clones import clone_database, drop_leftovers
from .configuration import CONTROL_SOCKET
from .dag_runs import run_test
from .parsing import parse
from .surroundings import KNOWN_VERSION, airflow_version, project_folder, use_database

if TYPE_CHECKING:
    from collections.abc import Sequence

SOCKET = "runner.sock"
IDLE_SECONDS = 900.0  # then its memory is given back; the next request starts a new one
CONNECT_SECONDS = 15.0
PASSED_ON = ("TERM", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "PY_COLORS")


# --------------------------------------------------------------------------------------------------- client


def client(run_dir: Path, argv: list[str]) -> int:
    """Have the runner do `argv`; its exit code. Ctrl-C is passed on, and waits for the cleaning up."""
    connection = _connect(run_dir)
    if connection is None:
        if argv[0] == "parse":  # ends at once, so looking for garbage would only be a fifth of its time
            gc.set_threshold(50_000, 20, 50)
        importlib.import_module("airflow.settings")
        return _request(argv, None)
    interrupts = 0

    def interrupt(*_: object) -> None:
        nonlocal interrupts
        interrupts += 1
        with contextlib.suppress(OSError):
            connection.send(b"I" if interrupts == 1 else b"K")

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    request = json.dumps({"argv": argv, "environment": environment}).encode()
    with connection:
        size = len(request).to_bytes(4, "big")
        socket.send_fds(connection, [size], [0, 1, 2])
        connection.sendall(request)
        answer = connection.makefile("rb").readline()
    if not answer:
        sys.stderr.write("the runner ended before its answer; see `astro airflow logs astro`\n")
        return 1
    return int(answer)


def _connect(run_dir: Path) -> socket.socket | None:
    """A connection to the runner, which the supervisor starts if need be; None where it cannot."""
    os.chdir(run_dir)  # a socket's path must be short, this folder's need not be
    end = time.monotonic() + CONNECT_SECONDS
    while time.monotonic() < end:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(SOCKET)
            return connection
        except OSError:
            connection.close()
        if not _ask_supervisor():  # more than once: it may be ending just now
            return None
        time.sleep(0.02)
    return None


def _ask_supervisor() -> bool:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
            control.connect(CONTROL_SOCKET)
            control.sendall(json.dumps({"runner": True}).encode() + b"\n")
            return bool(json.loads(control.makefile().readline())["ok"])
    except (OSError, ValueError, KeyError):
        return False


# --------------------------------------------------------------------------------------------------- server


def serve(run_dir: Path) -> None:
    """Answer requests until nobody has asked for a while. Called in a fresh fork of the supervisor."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.chdir(run_dir)
    Path(SOCKET).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(SOCKET)
    Path(SOCKET).chmod(0o600)
    listener.listen(16)
    with contextlib.suppress(ImportError):
        importlib.import_module("setproctitle").setproctitle("astro runner")
    leftovers = True
    last = time.monotonic()
    children: set[int] = set()
    while children or time.monotonic() - last < IDLE_SECONDS:
        ready, _, _ = select.select([listener], [], [], 1.0 if children else 30.0)
        children -= {pid for pid in list(children) if os.waitpid(pid, os.WNOHANG)[0]}
        if not ready:
            continue
        last = time.monotonic()
        connection, _ = listener.accept()
        try:
            request, streams = _receive(connection)
        except (OSError, ValueError):
            connection.close()
            continue
        if request["argv"][:1] in (["test"], ["pytest"]):
            _warm_up()
        pid = os.fork()
        if pid == 0:
            listener.close()
            _become_request(connection, request, streams, leftovers=leftovers)
        children.add(pid)
        leftovers = False
        for fd in streams:
            os.close(fd)
        connection.close()


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    connection.settimeout(5.0)
    head, streams, _, _ = socket.recv_fds(connection, 4, 3)
    size, data = int.from_bytes(head, "big"), b""
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            raise ValueError("incomplete request")
        data += chunk
    connection.settimeout(None)
    return json.loads(data), streams


def _become_request(
    connection: socket.socket, request: dict[str, Any], streams: Sequence[int], *, leftovers: bool
) -> None:
    """In the child: take the client's streams, do the work, tell the exit code."""
    code = 1
    try:
        for number, fd in enumerate(streams):
            os.dup2(fd, number)
            os.close(fd)
        os.environ.update(request["environment"])
        if leftovers:
            with contextlib.suppress(Exception):
                drop_leftovers()
        code = _request(request["argv"], connection)
    except BaseException:  # noqa: BLE001 - the client must hear of it, whatever it is
        traceback.print_exc()
    finally:
        flush()
        with contextlib.suppress(OSError):
            connection.sendall(b"%d\n" % code)
        os._exit(0)


def _warm_up() -> None:
    """Build, once, the routes that every task run in process needs; that takes several CPU seconds."""
    if airflow_version() == KNOWN_VERSION:
        with contextlib.suppress(Exception):  # then each request builds it for itself
            supervisor = importlib.import_module("airflow.sdk.execution_time.supervisor")
            app = supervisor.in_process_api_server().app
            if not app._cadwyn_initialized:
                app._cadwyn_initialize()
                gc.collect()
                gc.freeze()


def _request(argv: list[str], connection: socket.socket | None) -> int:
    """Do one request; the exit code."""
    command, arguments = argv[0], argv[1:]
    project = project_folder()
    os.chdir(project)
    if command == "parse":
        return supervised(connection, lambda: parse(project, arguments))
    if command not in ("test", "pytest"):
        sys.stderr.write(f"the runner does not know `{command}`\n")
        return 2
    with contextlib.ExitStack() as stack:
        try:
            url = stack.enter_context(clone_database())
        except Exception as exc:  # noqa: BLE001 - the driver's errors, without importing the driver
            sys.stderr.write(f"no copy of the metadata database could be made: {exc}\n")
            return 1

        def work() -> int:
            use_database(url)
            return (
                run_test(project, json.loads(arguments[0]))
                if command == "test"
                else run_pytest(project, arguments)
            )

        return supervised(connection, work)


# --------------------------------------------------------------------------------------------------- pytest


def run_pytest(project: Path, arguments: Sequence[str]) -> int:
    """The project's tests in this process, with astro's fixtures; pytest's exit code."""
    try:
        pytest = importlib.import_module("pytest")
    except ImportError:
        sys.stderr.write("pytest is not installed in the sandbox; add it to requirements.txt\n")
        return 1
    from . import astro_pytest

    for folder in (project, project / "dags"):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"
    paths = [argument.partition("::")[0] for argument in arguments if not argument.startswith("-")]
    named = any(path.startswith("tests") or path.endswith(".py") for path in paths)
    if not named and not (project / "tests").is_dir():
        sys.stderr.write("no tests: the project has no folder tests\n")
        return 5
    tests = [] if named else ["tests"]
    # Some plugins, anyio's for one, are imported already and hold no asserts of the project.
    options = ["--rootdir", str(project), "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    code = int(pytest.main([*options, *arguments, *tests], plugins=[astro_pytest]))
    if code == 5:
        sys.stderr.write(
            "no tests: none was found, or none is selected; tests are `test_*.py` in the folder tests\n"
        )
    return code
