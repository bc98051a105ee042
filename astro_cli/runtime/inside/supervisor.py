"""Runs Airflow's components under one parent, so that Airflow is imported once and not four times.

The parent imports Airflow while the metadata database comes up, then forks every component: a separate
process with its own log lines, health, memory and restart, that shares the imported code.

    supervisor.py run RUN_DIR                 supervise until SIGTERM or SIGINT
    supervisor.py exec RUN_DIR -- CMD ARGS    replace this process by CMD, with the sandbox's environment
    supervisor.py restart RUN_DIR SERVICE     ask the running supervisor for a fresh process; exit code 0 or 1
    supervisor.py api-server ARGS             Airflow's, for this machine alone; `run` uses it where it cannot fork

`exec` with the command `astro-runner` is the client of the warm runner (runner.py, beside this file), a child that
is forked when somebody asks for it and that ends by itself; it is no service and not in status.json. With the
command `astro-debug` it is the other side of the debugger's hook (debugger.py, beside this file).

RUN_DIR/environment.json   {"NAME": "value"}: added to the environment, never printed.

RUN_DIR/config.json        only `services` is required:
    services       {"scheduler": ["airflow", "scheduler"], ...}: argument lists, started in this order: api-server
                   first, it takes longest
    health_url     Airflow's /api/v2/monitor/health, or null
    database       {"host", "port"}: wait until something listens there; null for a file or a Unix socket
    server         argument list of the database's own server, which becomes the service `postgres`: started before
                   all others and ended, by SIGINT, after them; default null
    programs       {"s3": [...], ...}: argument lists of other programs, started at once and ended after Airflow's
                   services; `healthy` says of them that they run; default {}
    log            file that gets the log lines, each after its RFC 3339 time, and is renamed to `.1` when it has
                   grown; default null: standard output, without times
    migrations     a JSON file {"heads": [...], "known": [...]} of alembic revisions, or null: no migration
    migrate        argument list that migrates the database; default ["airflow", "db", "migrate"]
    grace_seconds  between SIGTERM and SIGKILL; default 15
    fork           true: fork and call `entry`; false: execute the argument lists as programs (macOS)
    entry          "module:function" called with `sys.argv` set; default "airflow.__main__:main"
    debugger       true: tasks ask whether somebody waits to debug them (needs `fork`); default false

RUN_DIR/status.json        replaced atomically on every change and at least every 5 s:
    version, pid, started_at and updated_at (epoch seconds), memory (bytes of the supervisor alone, or null)
    database       waiting | migrating | ready | newer | failed
    message        why the database is waiting or failed, or null
    services       {name: {
        state        starting | running | backoff | stopped | finished (a one-shot service that is through)
        health       starting | healthy | unhealthy, null when stopped or finished
        pid, started_at (epoch seconds), restarts (after unexpected exits, since the supervisor started)
        exit_code, signal (name), oom: how the last process ended; exit_code is null when a signal ended it
        memory       bytes (proportional set size) of the service's process tree, null where unknown
    }}

RUN_DIR/control.sock       one JSON line in, {"restart": "scheduler"} or {"runner": true}; one out,
                           {"ok": true, "message": "."}.

Exit codes of `run`: 0 asked to stop, 1 unusable configuration, 3 the database is of a newer Airflow,
4 the migration failed.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a program: the files beside it are a package all the same (PEP 366)
    __package__ = "astro_inside"
    _spec: Any = importlib.util.spec_from_file_location(__package__, Path(__file__).with_name("__init__.py"))
    sys.modules[__package__] = importlib.util.module_from_spec(_spec)

from .configuration import (
    CONTROL_SOCKET,
    DEBUGGER,
    EXIT_CONFIG,
    RUNNER,
    Config,
    ConfigError,
    load_environment,
)

if TYPE_CHECKING:
    from .supervision import Service


def answer_this_machine_alone() -> None:
    """Have Airflow's application, which needs no login here, refuse what pages of other sites send."""
    try:
        made_in: Any = importlib.import_module("airflow.api_fastapi.app")
    except ImportError:  # not Airflow: the supervisor's own tests
        return
    from .standins import this_machine

    make = made_in.cached_app
    made_in.cached_app = lambda *words, **more: this_machine.asgi(make(*words, **more))


def run_component(run_dir: Path, config: Config, service: Service) -> None:
    """In a forked child: be the program. Returns, or leaves by SystemExit, like its entry point."""
    if service.name == RUNNER:
        from . import runner

        runner.serve(run_dir)
        return
    if not config.fork or service.is_server or service.is_program:
        argv = list(service.argv)
        if service.name == "api-server" and Path(argv[0]).name == "airflow":
            argv[:1] = [sys.executable, str(Path(__file__).resolve())]
        try:
            os.execvp(argv[0], argv)  # noqa: S606
        except OSError as exc:
            os.write(2, f"cannot run {argv[0]}: {exc.strerror}\n".encode())
            os._exit(127)
    if service.name == "api-server":
        # It builds some hundred thousand objects that all stay; looking for garbage among them costs 0.3 s.
        gc.set_threshold(50_000, 20, 50)
        answer_this_machine_alone()
    if service.name == "scheduler" and config.entry == Config.entry:
        from . import task_parent

        task_parent.install()
    if config.debugger and service.name == "scheduler":
        from . import debugger

        debugger.install(run_dir)
    sys.argv = list(service.argv)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    enter(config.entry)


def enter(entry: str) -> None:
    """Be the program whose entry point this is."""
    module, _, function = entry.partition(":")
    getattr(importlib.import_module(module), function)()


def import_as_programs_do() -> None:
    """As for the `airflow` program: the folder of this file is no place to import from."""
    if sys.path[:1] == [str(Path(__file__).resolve().parent)]:
        del sys.path[0]


def serve_api(argv: list[str]) -> int:
    """The `api-server` command: what `run` does in a fork, for where nothing can be forked."""
    sys.argv = ["airflow", *argv]
    answer_this_machine_alone()
    enter(Config.entry)
    return 0


def run(run_dir: Path) -> int:
    """The `run` command."""
    from .log_lines import LineWriter
    from .supervision import Forked, Supervisor

    for name in ("runner", "debugger", "standins.this_machine"):
        # Now, and not in a fork: another version of astro may be in their place by then.
        importlib.import_module(f"{__package__}.{name}")

    try:
        load_environment(run_dir / "environment.json")
        config = Config.load(run_dir / "config.json")
    except ConfigError as exc:
        LineWriter().say(str(exc))
        return EXIT_CONFIG
    try:
        return Supervisor(run_dir, config).run()
    except Forked as forked:
        service = forked.service
    run_component(run_dir, config, service)
    return 0


def execute(run_dir: Path, argv: list[str]) -> int:
    """The `exec` command; returns only when the program cannot be run."""
    try:
        load_environment(run_dir / "environment.json")
        if argv[0] == RUNNER:
            from . import runner

            return runner.client(run_dir, argv[1:])
        if argv[0] == DEBUGGER:
            from . import debugger

            return debugger.command(run_dir, argv[1:])
        os.execvp(argv[0], argv)  # noqa: S606
    except (ConfigError, OSError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else str(exc)
        sys.stderr.write(f"cannot run {argv[0]}: {reason}\n")
        return 127


def restart(run_dir: Path, service: str) -> int:
    """The `restart` command: waits for the answer and prints it."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            os.chdir(run_dir)
            connection.connect(CONTROL_SOCKET)
            connection.sendall(json.dumps({"restart": service}).encode() + b"\n")
            answer = json.loads(connection.makefile().readline())
    except (OSError, ValueError):
        answer = {"ok": False, "message": "no supervisor is running"}
    sys.stdout.write(answer["message"] + "\n")
    return 0 if answer["ok"] else 1


def main(argv: list[str]) -> int:
    """Choose the command."""
    import_as_programs_do()
    if len(argv) == 2 and argv[0] == "run":
        return run(Path(argv[1]))
    if len(argv) > 3 and argv[0] == "exec" and argv[2] == "--":
        return execute(Path(argv[1]), argv[3:])
    if len(argv) == 3 and argv[0] == "restart":
        return restart(Path(argv[1]), argv[2])
    if argv[:1] == ["api-server"]:
        return serve_api(argv)
    sys.stderr.write("usage: supervisor.py run DIR | exec DIR -- COMMAND ARGUMENTS | restart DIR SERVICE\n")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
