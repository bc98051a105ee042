"""The warm runner: a child of the supervisor that has Airflow imported and forks for every request.

`parse`, `test` and `pytest` would spend nearly all of their time on importing Airflow. The runner never imports
anything of the project itself, so that every request begins from a clean copy: an edit of a DAG, of `include/`
or of `plugins/` needs no restart. Standard library only at import, nothing of astro_cli: the file is copied into
the engine image beside supervisor.py.

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
import importlib.machinery
import io
import json
import linecache
import os
import re
import secrets
import select
import signal
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

SOCKET = "runner.sock"
CONTROL_SOCKET = "control.sock"
IDLE_SECONDS = 900.0  # then its memory is given back; the next request starts a new one
CONNECT_SECONDS = 15.0
GRACE_SECONDS = 5.0
PASSED_ON = ("TERM", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "PY_COLORS")
TEMPLATE_PREFIX = "astro_template_"
CLONE_PREFIX = "astro_test_"
KNOWN_VERSION = "3.3.2"
"""The Airflow whose private parts used here were read; any other gets the plain, slower way."""
SERIALIZER = "airflow.serialization.serialized_objects"
PYTEST_PLUGIN = "astro_pytest"
NOISE = re.compile(
    r"\[DAG TEST\]|\[airflow\.api_fastapi\.|\[airflow\.sdk\.api\.client\]|::(?:end)?group::|Pushing xcom  "
)
"""Log lines of a test run that speak of Airflow's own work."""
OBJECT_TABLES = ("connection", "variable", "slot_pool")


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
        _flush()
        with contextlib.suppress(OSError):
            connection.sendall(b"%d\n" % code)
        os._exit(0)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


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


def supervised(connection: socket.socket | None, work: Callable[[], int]) -> int:
    """Do `work` in a child of its own, which ends when the client does; the exit code as a shell tells it."""
    _flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if connection:
                connection.close()
            os.setpgid(0, 0)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            code = work()
        except SystemExit as exc:
            code = exc.code if isinstance(exc.code, int) else 1
        except KeyboardInterrupt:
            code = 130
        except BaseException:  # noqa: BLE001 - whatever the project's code raises
            traceback.print_exc()
        finally:
            _flush()
            os._exit(code)
    with contextlib.suppress(OSError):
        os.setpgid(pid, pid)
    kill_due: float | None = None
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            _signal_group(pid, signal.SIGKILL)  # what it left behind
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if kill_due is not None and time.monotonic() > kill_due:
            _signal_group(pid, signal.SIGKILL)
        if connection is None:
            time.sleep(0.01)
        elif select.select([connection], [], [], 0.01)[0]:
            said = connection.recv(1)
            if not said:
                connection = None
            if said == b"K":
                _signal_group(pid, signal.SIGKILL)
            elif kill_due is None:
                _signal_group(pid, signal.SIGINT)
                kill_due = time.monotonic() + GRACE_SECONDS


def _signal_group(leader: int, number: int) -> None:
    with contextlib.suppress(OSError):
        os.killpg(leader, number)


def airflow_version() -> str:
    """Of the Airflow in this environment."""
    return str(importlib.import_module("airflow.version").version)


def project_folder() -> Path:
    """The folder that holds `dags`, as this process sees it."""
    return Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"]).parent


# ------------------------------------------------------------------------------------------------- database


def _database_url() -> Any:
    return importlib.import_module("sqlalchemy.engine").make_url(
        os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    )


@contextlib.contextmanager
def _session(database: str | None = None) -> Iterator[Any]:
    """A cursor of a plain connection that commits each statement; default: the sandbox's own database."""
    psycopg2 = importlib.import_module("psycopg2")
    url = _database_url()
    url = url.set(drivername="postgresql", database=database or url.database)
    connection = psycopg2.connect(url.render_as_string(hide_password=False), connect_timeout=5)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()


@contextlib.contextmanager
def clone_database() -> Iterator[str]:
    """A database of its own for one request: Airflow's schema and this sandbox's objects, without its history.

    Copying the sandbox's database itself would ask all of Airflow to disconnect. Yields the SQLAlchemy address.
    """
    if _database_url().get_backend_name() != "postgresql":
        raise RuntimeError("tests need a metadata database of Postgres")
    name = f"{CLONE_PREFIX}{os.getpid()}_{secrets.token_hex(4)}"
    template = ensure_template()
    try:
        with _session() as live:
            live.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
            with _session(name) as clone:
                _copy_objects(live, clone)
        yield _database_url().set(database=name).render_as_string(hide_password=False)
    finally:
        with _session() as live:  # not the one of before: a snapshot ends sessions that are idle
            live.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def ensure_template() -> str:
    """The name of the empty, migrated database to copy; made, once for each schema, by `airflow db migrate`."""
    with _session() as live:
        live.execute("SELECT version_num FROM alembic_version")
        name = TEMPLATE_PREFIX + "_".join(sorted(row[0] for row in live.fetchall()))
        exists = "SELECT count(*) FROM pg_database WHERE datname = %s"
        live.execute(exists, [name])
        if live.fetchone()[0]:
            return name
        live.execute("SELECT pg_advisory_lock(hashtext('astro template'))")
        live.execute(exists, [name])
        if live.fetchone()[0]:
            return name
        draft = f"{name}_draft"
        live.execute(f'DROP DATABASE IF EXISTS "{draft}" WITH (FORCE)')
        live.execute(f'CREATE DATABASE "{draft}"')
        url = _database_url().set(database=draft).render_as_string(hide_password=False)
        if _migrate(url):
            raise RuntimeError("the empty database for tests could not be made: `airflow db migrate` failed")
        live.execute(f'ALTER DATABASE "{draft}" RENAME TO "{name}"')
    return name


def _migrate(url: str) -> int:
    def work() -> int:
        with open(os.devnull, "w") as null:  # noqa: PTH123
            os.dup2(null.fileno(), 1)
            os.dup2(null.fileno(), 2)
        use_database(url)
        sys.argv = ["airflow", "db", "migrate"]
        importlib.import_module("airflow.__main__").main()
        return 0

    return supervised(None, work)


def drop_leftovers() -> None:
    """Remove the copies of requests that were killed before they could do it."""
    with _session() as live:
        live.execute("SELECT datname FROM pg_database WHERE datname LIKE %s", [f"{CLONE_PREFIX}%"])
        for (name,) in live.fetchall():
            live.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def _copy_objects(live: Any, clone: Any) -> None:
    """Connections, variables and pools as they are in the sandbox now."""
    for table in OBJECT_TABLES:
        clone.execute(
            "SELECT string_agg(quote_ident(column_name), ', ' ORDER BY ordinal_position) "
            "FROM information_schema.columns WHERE table_schema = 'public' AND table_name = %s",
            [table],
        )
        columns = clone.fetchone()[0]
        rows = io.BytesIO()
        live.copy_expert(f"COPY {table} ({columns}) TO STDOUT", rows)
        rows.seek(0)
        clone.execute(f"DELETE FROM {table}")  # noqa: S608 - a constant
        clone.copy_expert(f"COPY {table} ({columns}) FROM STDIN", rows)
        clone.execute(
            f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table} HAVING max(id) > 0"  # noqa: S608
        )


def use_database(url: str) -> None:
    """Point the Airflow of this process at another database."""
    os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = url
    os.environ.pop("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC", None)
    settings = importlib.import_module("airflow.settings")
    settings.configure_vars()
    settings.dispose_orm(do_log=False)
    settings.configure_orm()


# ---------------------------------------------------------------------------------------------------- parse


def parse(project: Path, paths: Sequence[str]) -> int:
    """Parse every DAG file, each in a process of its own, and write one JSON line for each."""
    began = time.monotonic()
    out = _keep_stdout()
    sys.path.append(str(project / "dags"))
    files = list(dag_files(project, paths))
    dagbag_module()  # once here, not once in each child
    importlib.import_module(SERIALIZER)
    running: dict[int, tuple[str, int]] = {}
    waiting = list(reversed(files))
    limit = max(2, os.cpu_count() or 2)
    while waiting or running:
        while waiting and len(running) < limit:
            file = waiting.pop()
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.close(reader)
                _parse_in_child(project, file, writer)
            os.close(writer)
            running[reader] = (file, pid)
        for reader in select.select(list(running), [], [])[0]:
            file, pid = running.pop(reader)
            with os.fdopen(reader, "rb") as stream:
                said = stream.read()
            _, status = os.waitpid(pid, 0)
            emit(out, json.loads(said) if said else _died(project, file, status))
    emit(out, {"type": "end", "files": len(files), "seconds": round(time.monotonic() - began, 3)})
    return 0


def _keep_stdout() -> int:
    """Keep standard output for the report; what the project's code prints has no place in it."""
    out = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)
    return out


def emit(out: int, message: dict[str, Any]) -> None:
    """Write one JSON line on the descriptor `out`."""
    data = memoryview(json.dumps(message).encode() + b"\n")
    while data:
        data = data[os.write(out, data) :]


def dag_files(project: Path, paths: Sequence[str]) -> Iterator[str]:
    """The files Airflow looks at, and those its safe mode would skip; `.airflowignore` holds."""
    try:
        importers = importlib.import_module("airflow.dag_processing.importers")
        listing = importers.get_importer_registry().list_dag_files
    except ImportError:  # before 3.2
        listing = importlib.import_module("airflow.utils.file").list_py_file_paths
    for path in paths or ["dags"]:
        target = project / path
        if target.is_file():
            yield str(target)
        elif target.is_dir():
            yield from sorted(str(file) for file in listing(str(target), safe_mode=False))


def dagbag_module() -> Any:
    """Where Airflow reads DAG files."""
    try:
        return importlib.import_module("airflow.dag_processing.dagbag")
    except ImportError:  # before 3.2
        return importlib.import_module("airflow.models.dagbag")


def _parse_in_child(project: Path, file: str, writer: int) -> None:
    found: dict[str, Any] = {"type": "file", "path": _relative(project, file)}
    try:
        found |= parse_file(project, file)
    except BaseException as exc:  # noqa: BLE001
        found["errors"] = [_describe(project, file, exc)]
    emit(writer, found)
    os._exit(0)


def _died(project: Path, file: str, status: int) -> dict[str, Any]:
    code = os.waitstatus_to_exitcode(status)
    how = f"with exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
    error = {"kind": "died", "message": f"the process that imported the file was ended {how}"}
    return {"type": "file", "path": _relative(project, file), "errors": [error]}


def _relative(project: Path, file: str) -> str:
    with contextlib.suppress(ValueError):
        return str(Path(file).relative_to(project))
    return file


def parse_file(project: Path, file: str) -> dict[str, Any]:
    """What one file holds and what is wrong with it. Imports the file: call it in a process of its own."""
    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"  # connections and variables come from the database
    raised: list[BaseException] = []
    _remember_exceptions(raised)
    missed: dict[tuple[str, str], None] = {}
    if airflow_version() == KNOWN_VERSION:
        _remember_missing(missed)
    bag = dagbag_module().DagBag(str(project / "dags"), collect_dags=False, bundle_path=project / "dags")
    importlib.import_module("logging").disable()
    began, cpu = time.perf_counter(), time.process_time()
    bag.process_file(file, only_if_updated=False, safe_mode=False)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    errors = [_describe(project, file, exc) for exc in raised]
    for error in errors:
        if missed and re.search(
            "variable_not_found|connection_not_found|conn_id .* isn't defined", error["message"], re.I
        ):
            kind, key = list(missed)[-1]
            error |= {
                "kind": f"missing-{kind}",
                "key": key,
                "error": "",
                "message": f"there is no {kind} `{key}`",
            }
    if not errors:
        errors = [{"kind": "dag", "message": _last_line(text)} for text in bag.import_errors.values()]
    errors += _not_storable(bag.dags.values())
    dags = [
        {"dag_id": dag.dag_id, "tasks": len(dag.tasks), "file": _relative(project, dag.fileloc)}
        for dag in bag.dags.values()
    ]
    broken = {(error.get("kind"), error.get("key")) for error in errors}
    return {
        "dags": dags,
        "seconds": round(seconds, 4),
        "cpu_seconds": round(cpu_seconds, 4),
        "errors": errors,
        "warnings": [text for found in bag.captured_warnings.values() for text in _own(project, found)],
        "missing": [
            {"kind": kind, "key": key} for kind, key in missed if (f"missing-{kind}", key) not in broken
        ],
        "skipped": bool(dags or errors) and not _might_contain_dag(file),
    }


def _not_storable(dags: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Airflow stores a DAG before it can run; what cannot be stored is an import error there, too."""
    module = importlib.import_module(SERIALIZER)
    serialize = getattr(module.LazyDeserializedDAG, "from_dag", None)
    if serialize is None:  # before 3.1
        serialize = module.SerializedDAG.to_dict
    for dag in dags:
        try:
            serialize(dag)
        except Exception as exc:  # noqa: BLE001 - plugins and custom timetables may raise anything
            yield {"kind": "dag", "message": next(iter(str(exc).splitlines()), type(exc).__name__)}


def _own(project: Path, texts: Sequence[str]) -> list[str]:
    """The captured warnings that the project's own files cause."""
    prefix = f"{project}/"
    return [text.removeprefix(prefix) for text in texts if text.startswith(prefix)]


def _might_contain_dag(file: str) -> bool:
    return bool(importlib.import_module("airflow.utils.file").might_contain_dag(file, True))


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), text)


def _remember_exceptions(raised: list[BaseException]) -> None:
    """Airflow keeps the text of an import error only; the frames are in the exception."""

    class Loader(importlib.machinery.SourceFileLoader):
        def exec_module(self, module: Any) -> None:
            try:
                super().exec_module(module)
            except BaseException as exc:
                raised.append(exc)
                raise

    importlib.machinery.SourceFileLoader = Loader  # type: ignore[misc]


def _remember_missing(missed: dict[tuple[str, str], None]) -> None:
    """Note the connections and variables that the import asked for in vain, even if it lives without them."""
    context = importlib.import_module("airflow.sdk.execution_time.context")
    for kind in ("variable", "connection"):
        original = getattr(context, f"_get_{kind}")

        def wrapped(
            key: str, *args: Any, _kind: str = kind, _original: Any = original, **options: Any
        ) -> Any:
            try:
                return _original(key, *args, **options)
            except Exception:
                missed[_kind, key] = None
                raise

        setattr(context, f"_get_{kind}", wrapped)


def _describe(project: Path, file: str, exc: BaseException) -> dict[str, Any]:
    """The error with the frames of the project, innermost first, and the source around the first of them."""
    frames = [
        (frame.filename, frame.lineno or 0, frame.name)
        for frame in traceback.extract_tb(exc.__traceback__)
        if _is_own(project, frame.filename)
    ]
    frames.reverse()
    if isinstance(exc, SyntaxError) and exc.filename:
        frames.insert(0, (exc.filename, exc.lineno or 0, ""))
    if not frames:
        frames = [(file, 0, "")]
    where, line, _ = frames[0]
    message = str(exc.msg) if isinstance(exc, SyntaxError) else str(exc)
    found: dict[str, Any] = {
        "kind": "import",
        "error": type(exc).__name__,
        "message": message.strip() or type(exc).__name__,
        "file": _relative(project, where),
        "line": line,
        "column": exc.offset if isinstance(exc, SyntaxError) else None,
        "source": _source(where, line),
        "frames": [
            {"file": _relative(project, name), "line": number, "function": function}
            for name, number, function in frames
        ],
    }
    if type(exc).__name__ == "AirflowTaskTimeout":
        found["kind"] = "timeout"
        found["message"] = message.splitlines()[0]
    return found


def _is_own(project: Path, name: str) -> bool:
    folders = [f"{project}/{folder}/" for folder in ("dags", "plugins", "include", "tests")]
    return name.startswith(tuple(folders))


def _source(file: str, line: int) -> list[dict[str, Any]]:
    """Two lines before and one after `line`."""
    numbers = range(max(1, line - 2), line + 2) if line else ()
    lines = [(number, linecache.getline(file, number)) for number in numbers]
    return [{"line": number, "text": text.rstrip()} for number, text in lines if text]


# ----------------------------------------------------------------------------------------------------- test


def run_test(project: Path, options: dict[str, Any]) -> int:
    """Run one DAG to its end in this process, and write a JSON line whenever a task changes.

    `options`: `dag_id`; `date` (ISO 8601), `conf` (an object), `task` and `mark_success` (a pattern), or null;
    `logs`: also those of tasks that succeed.
    """
    if airflow_version() != KNOWN_VERSION:
        return plain_test(options)
    out = os.dup(1)
    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"
    with tempfile.TemporaryFile() as log:
        for fd in (1, 2):
            os.dup2(log.fileno(), fd)
        bag, errors = _find_dags(project, options["dag_id"])
        dag = bag.dags.get(options["dag_id"])
        if dag is None:
            emit(out, {"type": "unknown", "errors": errors})
            return 1
        if options["task"]:
            if not dag.has_task(options["task"]):
                emit(out, {"type": "unknown-task", "tasks": sorted(dag.task_ids)})
                return 1
            dag = dag.partial_subset([options["task"]], include_upstream=False)
        _retry_at_once(dag)
        # `dag.test()` would read the whole folder once more, and store all of it.
        setattr(importlib.import_module("airflow.dag_processing.dagbag"), "BundleDagBag", lambda **_: bag)  # noqa: B010
        told = _report_tasks(out, log, all_logs=options["logs"])
        arguments: dict[str, Any] = {
            "run_conf": options["conf"],
            "mark_success_pattern": options["mark_success"],
        }
        if options["date"]:
            arguments["logical_date"] = _date(options["date"])
        try:
            run = dag.test(**arguments)
        except BaseException:
            traceback.print_exc()
            emit(out, {"type": "crash", "log": read_log(log)})
            raise
        for one in sorted(run.get_task_instances(), key=lambda one: (one.task_id, one.map_index)):
            if (one.task_id, one.map_index) not in told:
                emit(out, _task_event(one, _word(one.state)))
        date = run.logical_date and run.logical_date.isoformat()
        emit(out, {"type": "end", "state": _word(run.state), "run_id": run.run_id, "logical_date": date})
        return 0 if run.state == "success" else 1


def plain_test(options: dict[str, Any]) -> int:
    """The same with Airflow's own command, for an Airflow whose inner parts we have not read."""
    date = [options["date"]] if options["date"] else []
    argv = ["airflow", "dags", "test", options["dag_id"], *date]
    if options["task"]:
        argv = ["airflow", "tasks", "test", options["dag_id"], options["task"], *date]
    elif options["conf"]:
        argv += ["--conf", json.dumps(options["conf"])]
    if options["mark_success"] and not options["task"]:
        argv += ["--mark-success-pattern", options["mark_success"]]
    _flush()
    os.execvp(argv[0], argv)  # noqa: S606


def _date(text: str) -> Any:
    datetime = importlib.import_module("datetime")
    date = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    return date if date.tzinfo else date.replace(tzinfo=datetime.timezone.utc)


def _find_dags(project: Path, dag_id: str) -> tuple[Any, list[dict[str, Any]]]:
    """A bag with the DAG and those it starts or waits for; without it, if it is nowhere; and the import errors.

    Files that mention an id are read first, and no more than are needed: a test shall not fail because of a DAG
    that has nothing to do with it.
    """
    folder = str(project / "dags")
    sys.path.append(folder)
    raised: list[BaseException] = []
    _remember_exceptions(raised)
    dagbag = importlib.import_module("airflow.dag_processing.dagbag")
    bag = dagbag.DagBag(folder, collect_dags=False, bundle_path=Path(folder), bundle_name="dags-folder")
    unread = {file: Path(file).read_bytes() for file in dag_files(project, [])}
    errors: list[dict[str, Any]] = []
    wanted, seen = [dag_id], set[str]()
    while wanted:
        name = wanted.pop()
        seen.add(name)
        for file in sorted(unread, key=lambda file: name.encode() not in unread[file]):
            if name in bag.dags:
                break
            if name != dag_id and name.encode() not in unread[file]:
                break
            del unread[file]
            raised.clear()
            bag.process_file(file, only_if_updated=False, safe_mode=False)
            errors += [_describe(project, file, exc) for exc in raised]
        if name in bag.dags:
            wanted += [other for other in _related(bag.dags[name]) if other not in seen]
    told = {error["file"] for error in errors}
    broken = [(str(Path("dags", name)), text) for name, text in bag.import_errors.items()]
    errors += [
        {"kind": "dag", "message": _last_line(text), "file": file}
        for file, text in broken
        if file not in told
    ]
    bag.import_errors.clear()
    for name in [name for name in bag.dags if name not in seen]:
        del bag.dags[name]
    return bag, errors


def _related(dag: Any) -> list[str]:
    """The DAGs that tasks of this one trigger, or wait for."""
    names = [getattr(task, key, None) for task in dag.tasks for key in ("trigger_dag_id", "external_dag_id")]
    return [name for name in names if isinstance(name, str)]


def _retry_at_once(dag: Any) -> None:
    """Nobody wants to wait five minutes for the second try in a test."""
    zero = importlib.import_module("datetime").timedelta(0)
    for task in dag.tasks:
        with contextlib.suppress(Exception):  # a mapped task keeps it among its arguments
            if hasattr(task, "partial_kwargs"):
                task.partial_kwargs["retry_delay"] = zero
            else:
                task.retry_delay = zero


def _word(state: Any) -> str:
    return str(getattr(state, "value", state))


def _task_event(instance: Any, state: str) -> dict[str, Any]:
    return {
        "type": "task",
        "task_id": instance.task_id,
        "map_index": instance.map_index,
        "try_number": instance.try_number,
        "state": state,
    }


def _report_tasks(out: int, log: Any, *, all_logs: bool) -> set[tuple[str, int]]:
    """Write an event before and after every task; the returned set grows by those that ran."""
    module = importlib.import_module("airflow.sdk.definitions.dag")
    original = getattr(module, "_run_task")  # noqa: B009 - private: mypy would not have it
    told: set[tuple[str, int]] = set()

    def run_task(*, ti: Any, task: Any, **options: Any) -> Any:
        told.add((ti.task_id, ti.map_index))
        _flush()
        log.seek(0)
        log.truncate()
        emit(out, _task_event(ti, "running"))
        began = time.monotonic()
        try:
            return original(ti=ti, task=task, **options)
        finally:
            _flush()
            event = _task_event(ti, _word(ti.state)) | {"seconds": round(time.monotonic() - began, 3)}
            if all_logs or event["state"] not in ("success", "skipped"):
                event["log"] = read_log(log)
            emit(out, event)

    setattr(module, "_run_task", run_task)  # noqa: B010
    return told


def read_log(log: Any) -> list[str]:
    """The lines that were written to the file `log`, for readers."""
    _flush()
    log.seek(0)
    text = log.read().decode("utf-8", "replace")
    log.seek(0, os.SEEK_END)
    return list(readable(text.splitlines()))


def readable(lines: Sequence[str]) -> Iterator[str]:
    """A task's log without what speaks of Airflow's own work, its frames in tracebacks included."""
    hidden = False
    for line in lines:
        if line.startswith("  File "):
            hidden = "/site-packages/airflow/" in line
        elif not line.startswith("    "):
            hidden = False
        if not hidden and not NOISE.search(line):
            yield line


# --------------------------------------------------------------------------------------------------- pytest


def run_pytest(project: Path, arguments: Sequence[str]) -> int:
    """The project's tests in this process, with astro's fixtures; pytest's exit code."""
    try:
        pytest = importlib.import_module("pytest")
    except ImportError:
        sys.stderr.write("pytest is not installed in the sandbox; add it to requirements.txt\n")
        return 1
    here = str(Path(__file__).parent)
    sys.path.append(here)
    plugin = importlib.import_module(PYTEST_PLUGIN)
    sys.path.remove(here)
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
    code = int(pytest.main([*options, *arguments, *tests], plugins=[plugin]))
    if code == 5:
        sys.stderr.write(
            "no tests: none was found, or none is selected; tests are `test_*.py` in the folder tests\n"
        )
    return code
