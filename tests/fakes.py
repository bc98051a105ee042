"""Hand-written stand-ins: an engine without containers, and an HTTP server that says what it is told to."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from astro_cli.domain.airflow import CONTAINER, Site
from astro_cli.domain.services import SERVICES, ServiceStatus
from astro_cli.runtime.endpoint import EngineInfo
from astro_cli.runtime.engine import Change, Environment, LogLine, SandboxStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from astro_cli.domain.project import Project
    from astro_cli.domain.services import Stack
    from astro_cli.runtime.engine import ExecRequest, LogQuery, PrepareOptions, Report


class SilentReport:
    """A `Report` that keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.warnings: list[str] = []

    def step(self, text: str) -> None:
        self.steps.append(text)

    def detail(self, text: str) -> None:
        """Not kept."""

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def healthy_services() -> tuple[ServiceStatus, ...]:
    return tuple(ServiceStatus(spec.name, "running", health="healthy", started_at=1.0) for spec in SERVICES)


@dataclass
class FakeEngine:
    """Runs nothing; each test sets what it answers, and reads what was asked of it.

    `up_errors` are raised by the first calls of `up`, one each.
    """

    name: str = "fake"
    runs_workers: bool = True
    services: tuple[ServiceStatus, ...] = ()
    database: str = "ready"
    port: int | None = None
    changes: tuple[Change, ...] = ()
    lines: tuple[LogLine, ...] = ()
    up_errors: list[BaseException] = field(default_factory=list)
    prepare_error: BaseException | None = None
    stacks: list[Stack] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    def check(self) -> EngineInfo:
        self.calls.append("check")
        return EngineInfo("Fake", "1", "linux/amd64", "nowhere")

    def site(self, sandbox_id: str, project: Project, port: int) -> Site:
        return CONTAINER

    def prepare(
        self, project: Project, sandbox_id: str, options: PrepareOptions, report: Report
    ) -> Environment:
        self.calls.append("prepare")
        if self.prepare_error is not None:
            raise self.prepare_error
        return Environment("image", "3.3.2", created=False)

    def up(self, stack: Stack, environment: Environment, report: Report) -> tuple[Change, ...]:
        self.calls.append("up")
        self.stacks.append(stack)
        if self.up_errors:
            raise self.up_errors.pop(0)
        self.port = stack.port
        return self.changes

    def down(self, sandbox_id: str, *, data: bool, report: Report) -> tuple[Change, ...]:
        self.calls.append("down with data" if data else "down")
        return self.changes

    def restart(self, sandbox_id: str, service: str) -> None:
        self.calls.append(f"restart {service}")

    def scale(self, sandbox_id: str, group: str, count: int, report: Report) -> tuple[Change, ...]:
        self.calls.append(f"scale {group} to {count}")
        return self.changes

    def tidy(self, sandbox_id: str, environment: Environment) -> None:
        self.calls.append("tidy")

    def port_holder(self, port: int) -> str | None:
        return "container `grafana`"

    def status(self, sandbox_id: str | None = None, *, memory: bool = False) -> tuple[SandboxStatus, ...]:
        if not self.services:
            return ()
        up = any(service.state != "stopped" for service in self.services)
        return (
            SandboxStatus(
                sandbox_id or "0123456789",
                "shop",
                "/shop",
                "running" if up else "stopped",
                self.port,
                self.services,
                database=self.database,
            ),
        )

    def logs(self, sandbox_id: str, query: LogQuery) -> Iterator[LogLine]:
        return iter([line for line in self.lines if not query.services or line.service in query.services])

    def exec(self, sandbox_id: str, request: ExecRequest) -> int:
        self.calls.append(f"exec {' '.join(request.command)}")
        return 0


@dataclass
class FakeAirflow:
    """What the server answers: path to JSON body, or to (status, body). PATCH bodies are kept."""

    answers: dict[str, Any]
    patched: list[tuple[str, Any]] = field(default_factory=list)


def airflow_answers(name: str = "shop", version: str = "3.3.2", **health: str) -> dict[str, Any]:
    """What a healthy sandbox's API answers."""
    components = {
        key: {"status": "healthy"} for key in ("metadatabase", "scheduler", "triggerer", "dag_processor")
    }
    components.update({key: {"status": status} for key, status in health.items()})
    return {
        "/api/v2/monitor/health": components,
        "/api/v2/version": {"version": version},
        "/ui/config": {"instance_name": name},
    }


@contextmanager
def serve(fake: FakeAirflow, port: int = 0) -> Iterator[str]:
    """A real HTTP server on the loopback interface; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(fake.answers.get(self.path, (404, {"detail": "Not Found"})))

        def do_PATCH(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            fake.patched.append((self.path, body))
            self._answer(fake.answers.get(f"PATCH {self.path}", {"create": {"success": [], "errors": []}}))

        def _answer(self, answer: Any) -> None:
            status, body = answer if isinstance(answer, tuple) else (200, answer)
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://localhost:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
