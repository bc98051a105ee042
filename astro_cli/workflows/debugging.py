"""The workflow of `debug`: have one task instance of the sandbox wait for a debugger, and lead the debugger to it.

The other side is runtime/inside/debugger.py, which runs beside the services and inside the task.
"""

from __future__ import annotations

import json
import queue
import threading
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from astro_cli.domain import ide
from astro_cli.foundation import ports
from astro_cli.foundation.errors import AstroError, Interrupted, UnhealthyError
from astro_cli.foundation.paths import write_atomic
from astro_cli.foundation.wait import wait_until
from astro_cli.foundation.yamlfile import read_text
from astro_cli.runtime.capture import capture_lines
from astro_cli.runtime.engine import ExecRequest, PortTakenError
from astro_cli.workflows.runs import (
    Progress,
    allow_run,
    failure_of,
    find_dag,
    find_run,
    start_run,
    tasks_of,
)
from astro_cli.workflows.service_ports import taken_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path, PurePosixPath

    from astro_cli.airflow_api import AirflowApi
    from astro_cli.domain.dagrun import Run, Task
    from astro_cli.runtime.engine import Engine

DEBUGGER = "astro-debug"
"""The supervisor's `exec` knows this word on every engine (runtime/inside/debugger.py)."""

LOOK_SECONDS = 1.0
END_SECONDS = 75.0
"""More than Airflow waits for a debugger to let go of a failed task's output ([workers] socket_cleanup_timeout)."""


@dataclass(frozen=True)
class DebugRequest:
    """Which task instance to stop in, and how.

    Attributes:
        task: a task's id, or `clean[2]` for one instance of a mapped task; the id alone is the first that begins.
        run_id: a run whose task is done again; None makes a new run.
        logical_date: of the new run, ISO 8601.
        port: of this machine's loopback, for the debugger.
        seconds: how long to wait until one is attached.
    """

    dag_id: str
    task: str
    run_id: str | None = None
    logical_date: str | None = None
    conf: Mapping[str, Any] = field(default_factory=dict)
    port: int = 5678
    seconds: float = 900.0
    unpause: bool = False

    @property
    def task_id(self) -> str:
        """The task's id alone."""
        return self.task.partition("[")[0]

    @property
    def map_index(self) -> int | None:
        """Which instance of a mapped task; None for any."""
        index = self.task.partition("[")[2].rstrip("]")
        return int(index) if index.isdecimal() else None


@dataclass(frozen=True)
class DebugEvent:
    """Something happened: `begun` (the run), or a word of runtime/inside/debugger.py, with what it tells."""

    kind: str
    more: Mapping[str, Any] = field(default_factory=dict)


def debug_task(
    engine: Engine,
    sandbox_id: str,
    api: AirflowApi,
    request: DebugRequest,
    on_event: Callable[[DebugEvent], None],
) -> Task:
    """Stop in one task; returns its instance as it is when its process has ended.

    Raises:
        AstroError: no such DAG, task or run, the port is taken, the task never began, nobody attached in time.
        Interrupted: Ctrl-C; the task goes on without a debugger.
    """
    _check(api, request)
    if not ports.is_free(request.port):
        raise taken_error(engine, request.port, "--port")
    run_id = request.run_id or f"debug__{datetime.now(timezone.utc).isoformat(timespec='milliseconds')}"
    session = _Session(engine, sandbox_id, request, run_id)
    run: Run | None = None
    map_index = -1
    try:
        with session, ExitStack() as stack:
            for event in session.events():
                if event is None:
                    assert run is not None
                    with suppress(UnhealthyError):  # the time for a debugger to come is limited anyway
                        _fail_if_over(api, run, request)
                    continue
                if event.kind == "armed":
                    run = _begin(api, request, run_id)
                    on_event(DebugEvent("begun", {"run_id": run_id}))
                    continue
                if event.kind == "listening":
                    map_index = event.more["map_index"]
                    stack.enter_context(engine.forward(sandbox_id, request.port))
                _refuse(event, request)
                on_event(event)
            assert run is not None
            return _wait_for_end(api, run, request.task_id, map_index)
    except PortTakenError as exc:
        raise taken_error(engine, request.port, "--port") from exc
    except KeyboardInterrupt as exc:
        raise _interruption(request, run) from exc


@dataclass(frozen=True)
class IdeFile:
    """An editor's file: its path below the project, and whether it is another one now."""

    path: PurePosixPath
    changed: bool


def write_ide_file(root: Path, editor: str, port: int, remote_root: str) -> IdeFile:
    """Write what an editor (`vscode` or `pycharm`) needs to attach; what the user has in that file stays.

    Raises:
        ProjectError: the file is not understood; it was left alone.
    """
    relative = ide.VSCODE_FILE if editor == "vscode" else ide.PYCHARM_FILE
    path = root / relative
    before = read_text(path, name=str(relative)) if path.exists() else None
    if editor == "vscode":
        after = ide.merge_launch(before, port, remote_root)
    else:
        after = ide.pycharm_configuration(port, remote_root)
    if after != before:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, after, mode=0o644)
    return IdeFile(relative, after != before)


def _check(api: AirflowApi, request: DebugRequest) -> None:
    """Whether there is such a task, and its run can begin."""
    dag = find_dag(api, request.dag_id)
    known = api.task_ids(request.dag_id)
    if request.task_id not in known:
        near = get_close_matches(request.task_id, known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"choose from: {', '.join(known)}"
        raise AstroError(f"the DAG `{request.dag_id}` has no task `{request.task_id}`", hint=hint)
    if request.run_id is not None:
        tasks_of(api, find_run(api, request.dag_id, request.run_id), request.task)
        allow_run(api, dag, unpause=request.unpause, wait=True)


def _begin(api: AirflowApi, request: DebugRequest, run_id: str) -> Run:
    """Make the run, or have the task of an existing one done again."""
    if request.run_id is not None:
        api.clear_task(request.dag_id, run_id, request.task_id, request.map_index)
        return api.run(request.dag_id, run_id)
    run, _ = start_run(
        api,
        request.dag_id,
        conf=request.conf,
        logical_date=request.logical_date,
        unpause=request.unpause,
        wait=True,
        run_id=run_id,
    )
    return run


def _refuse(event: DebugEvent, request: DebugRequest) -> None:
    """Raise for what ends the session without a debugger."""
    if event.kind == "busy":
        raise AstroError(
            "another `astro airflow debug` waits in this sandbox",
            hint="end it first: one task is debugged at a time",
        )
    if event.kind == "unsupported":
        raise AstroError(
            f"tasks cannot be debugged here: {event.more['reason']}",
            hint="use the Docker engine with the default Airflow version, or `astro airflow test`",
        )
    if event.kind == "failed":
        raise AstroError(
            f"no debugger can listen in `{request.task}`: {event.more['message']}",
            hint="the task goes on without; is `debugpy` in requirements.txt in a version of its own?",
        )
    if event.kind == "timeout":
        raise AstroError(
            f"no debugger was attached within {request.seconds:g} seconds",
            hint="the run goes on without; allow more time with --wait SECONDS",
        )


def _fail_if_over(api: AirflowApi, run: Run, request: DebugRequest) -> None:
    """Raise if the task cannot begin any more."""
    now = api.run(run.dag_id, run.run_id)  # first, so that its end is never older than the tasks'
    tasks = tasks_of(api, run)
    wanted = [task for task in tasks if request.task in (task.task_id, task.label)]
    if all(task.finished for task in wanted) if wanted else now.finished:
        if any(task.state == "failed" for task in wanted):
            raise failure_of(api, Progress(now, tuple(wanted)))
        if any(task.state == "upstream_failed" for task in wanted):
            raise failure_of(api, Progress(now, tasks))
        states = ", ".join(sorted({task.state for task in wanted})) or "not there"
        raise AstroError(
            f"`{request.task}` ended without a debugger: {states}",
            hint=f"see `astro airflow tasks {run.dag_id} {run.run_id}`",
        )


def _wait_for_end(api: AirflowApi, run: Run, task_id: str, map_index: int) -> Task:
    """The task instance, once Airflow has noted how it ended."""

    def ended() -> Task | None:
        with suppress(UnhealthyError):
            instance = next(task for task in tasks_of(api, run, task_id) if task.map_index == map_index)
            return None if instance.state == "running" else instance
        return None

    instance = wait_until(ended, seconds=END_SECONDS)
    if instance is None:
        raise AstroError(
            f"`{task_id}` has ended, but Airflow does not say how",
            hint=f"see `astro airflow tasks {run.dag_id} {run.run_id}`",
        )
    return instance


def _interruption(request: DebugRequest, run: Run | None) -> Interrupted:
    if run is None:
        return Interrupted("interrupted; nothing was started", hint="run the same command again")
    return Interrupted(
        f"interrupted; run {run.run_id} goes on, and `{request.task}` without a debugger",
        hint=f"look at it with `astro airflow tasks {run.dag_id} {run.run_id}`",
    )


class _Session:
    """The command beside the services that answers the task; it ends when this object is left."""

    def __init__(self, engine: Engine, sandbox_id: str, request: DebugRequest, run_id: str) -> None:
        self._engine = engine
        self._sandbox_id = sandbox_id
        self._run_id = run_id
        wanted = {
            "dag_id": request.dag_id,
            "run_id": run_id,
            "task_id": request.task_id,
            "map_index": request.map_index,
            "port": request.port,
            "seconds": request.seconds,
        }
        self._wait = ["wait", json.dumps(wanted)]
        self._events: queue.Queue[DebugEvent | BaseException | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Session:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self._exec(["end", self._run_id])
            self._thread.join()

    def events(self) -> Iterator[DebugEvent | None]:
        """What is told, to the end; None again and again until the task has begun."""
        begun = armed = False
        while True:
            try:
                event = self._events.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                if armed and not begun:
                    yield None
                continue
            if isinstance(event, BaseException):
                raise event
            if event is None:
                raise AstroError(
                    "the command beside the services ended too early", hint="see `astro airflow logs astro`"
                )
            if event.kind == "ended":
                return
            armed = armed or event.kind == "armed"
            begun = begun or event.kind == "listening"
            yield event

    def _run(self) -> None:
        try:
            capture_lines(lambda: self._exec(self._wait), self._on_line)
            self._events.put(None)
        except BaseException as exc:  # noqa: BLE001 - it is raised again where somebody waits
            self._events.put(exc)

    def _exec(self, command: list[str]) -> int:
        request = ExecRequest(service="scheduler", command=[DEBUGGER, *command], stdin=False)
        return self._engine.exec(self._sandbox_id, request)

    def _on_line(self, line: str) -> None:
        if line.startswith('{"type"'):
            message = json.loads(line)
            self._events.put(DebugEvent(message.pop("type"), message))
