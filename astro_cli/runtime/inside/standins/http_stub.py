"""The service `http-stub`: answers HTTP requests from a folder of fixtures, with failures and delays on demand.

    http_stub.py CONFIG.json

CONFIG.json   {"host", "port", "fixtures": folder}

The folder is looked at on each request, so an edit applies to the next one. docs/services.md describes
`routes.yaml`, and the addresses below `/__stub__` by which a test takes the API down or reads what was asked.
"""

from __future__ import annotations

import hashlib
import json
import mimetypes
import os
import re
import signal
import string
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import this_machine
import yaml
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CONTROL = "/__stub__"
REQUESTS_KEPT = 1000
LONGEST_DELAY = 3600
LARGEST_ROUTES = 1024 * 1024
"""Bytes of routes.yaml; what is answered lies in files of its own."""
ROUTE_KEYS = {"path", "method", "query", "headers", "body", "respond"}
ANSWER_KEYS = {"status", "headers", "json", "text", "file", "delay", "drop", "times"}
OUTAGE_KEYS = {"path", "status", "delay", "drop", "seconds", "times"}
_PART = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(\.\.\.)?\}")


class FixtureError(Exception):
    """routes.yaml cannot be used; the text says where and why."""


class Drop(ConnectionError):
    """The connection ends without an answer: what the server does when it has lost one."""


@dataclass(frozen=True)
class Route:
    """One entry of routes.yaml."""

    pattern: re.Pattern[str]
    method: str
    query: dict[str, str]
    headers: dict[str, str]
    body: str
    answers: tuple[dict[str, Any], ...]

    def match(self, request: Request, body: str) -> dict[str, str] | None:
        """The parts of the path, if this route is meant."""
        found = self.pattern.fullmatch(request.path)
        fits = (
            found is not None
            and request.method == self.method
            and all(value in request.args.getlist(name) for name, value in self.query.items())
            and all(request.headers.get(name) == value for name, value in self.headers.items())
            and self.body in body
        )
        return found.groupdict() if fits and found else None

    def answer(self, turn: int) -> dict[str, Any]:
        """The answer to the request number `turn`, counted from 0; the last one stays."""
        for answer in self.answers:
            turn -= int(answer.get("times", 1))
            if turn < 0:
                return answer
        return self.answers[-1]


def read_routes(path: Path) -> tuple[Route, ...]:
    """The routes of a file, which need not exist."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_ROUTES + 1)
        if len(content) > LARGEST_ROUTES:
            raise FixtureError(f"{path.name} is larger than {LARGEST_ROUTES // 1024} KiB")
        data = yaml.safe_load(content.decode("utf-8"))
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as exc:
        raise FixtureError(f"{path.name}: {exc}") from exc
    if not isinstance(data, dict) or not isinstance(data.get("routes"), list) or len(data) != 1:
        raise FixtureError(f"{path.name}: it must hold one key, `routes`, with a list")
    return tuple(_route(f"{path.name}: routes[{number}]", each) for number, each in enumerate(data["routes"]))


def _route(where: str, data: Any) -> Route:
    _check(where, data, ROUTE_KEYS, ("path", "respond"))
    path = data["path"]
    if not isinstance(path, str) or not path.startswith("/"):
        raise FixtureError(f"{where}.path must begin with /")
    pattern, end = "", 0
    for part in _PART.finditer(path):
        pattern += re.escape(path[end : part.start()]) + f"(?P<{part[1]}>{'.*' if part[2] else '[^/]+'})"
        end = part.end()
    answers = data["respond"] if isinstance(data["respond"], list) else [data["respond"]]
    if not answers:
        raise FixtureError(f"{where}.respond must hold an answer")
    for number, answer in enumerate(answers):
        here = f"{where}.respond[{number}]"
        _check(here, answer, ANSWER_KEYS)
        if sum(key in answer for key in ("json", "text", "file", "drop")) > 1:
            raise FixtureError(f"{here} must hold one of json, text, file and drop")
        if not isinstance(answer.get("times", 1), int) or answer.get("times", 1) < 1:
            raise FixtureError(f"{here}.times must be a whole number above 0")
        if not isinstance(answer.get("status", 200), int) or not 100 <= answer.get("status", 200) <= 599:
            raise FixtureError(f"{here}.status must be a number between 100 and 599")
        delay = answer.get("delay", 0)
        if not isinstance(delay, (int, float)) or not 0 <= delay <= LONGEST_DELAY:
            raise FixtureError(f"{here}.delay must be a number of seconds, at most {LONGEST_DELAY}")
        _pairs(here, answer, "headers")
    try:
        compiled = re.compile(pattern + re.escape(path[end:]))
    except re.error as exc:
        raise FixtureError(f"{where}.path: {exc}") from exc
    return Route(
        compiled,
        str(data.get("method", "GET")).upper(),
        _pairs(where, data, "query"),
        _pairs(where, data, "headers"),
        str(data.get("body", "")),
        tuple(answers),
    )


def _pairs(where: str, data: dict[str, Any], key: str) -> dict[str, str]:
    pairs = data.get(key) or {}
    if not isinstance(pairs, dict):
        raise FixtureError(f"{where}.{key} must be a mapping")
    if any(sign in str(text) for pair in pairs.items() for text in pair for sign in "\r\n"):
        raise FixtureError(f"{where}.{key}: names and values must be one line each")
    return {str(name): str(value) for name, value in pairs.items()}


def _check(where: str, data: Any, known: set[str], required: Iterable[str] = ()) -> None:
    if not isinstance(data, dict):
        raise FixtureError(f"{where} must be a mapping")
    for key in data:
        if key not in known:
            raise FixtureError(f'{where}: unknown key "{key}"; known are {", ".join(sorted(known))}')
    for key in required:
        if key not in data:
            raise FixtureError(f'{where}: missing key "{key}"')


@dataclass
class Outage:
    """What happens to every request below a path, for a while."""

    path: str = "/"
    status: int = 503
    delay: float = 0.0
    drop: bool = False
    until: float | None = None
    times: int | None = None


@dataclass
class Stub:
    """The WSGI application, and what it remembers."""

    fixtures: Path
    turns: dict[str, int] = field(default_factory=dict)
    outages: list[Outage] = field(default_factory=list)
    requests: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=REQUESTS_KEPT))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request."""
        request = Request(environ)
        if request.path.startswith(f"{CONTROL}/"):
            response = self._control(request)
        else:
            try:
                response = self._respond(request)
            except FixtureError as exc:
                say(str(exc))
                response = _json({"error": str(exc)}, 500)
        return response(environ, start_response)

    def _respond(self, request: Request) -> Response:
        body = request.get_data(as_text=True)
        told = {
            "method": request.method,
            "path": request.path,
            "query": {name: values[-1] for name, values in request.args.to_dict(flat=False).items()},
            "headers": dict(request.headers),
            "body": body,
        }
        with self.lock:
            self.requests.append(told)
            outage = self._outage(request.path)
        if outage is not None:
            time.sleep(outage.delay)
            if outage.drop:
                raise Drop
            return _json({"error": "outage"}, outage.status)
        for number, route in enumerate(read_routes(self.fixtures / "routes.yaml")):
            parts = route.match(request, body)
            if parts is not None:
                with self.lock:
                    name = f"{number} {route.method} {route.pattern.pattern}"
                    turn = self.turns.get(name, 0)
                    self.turns[name] = turn + 1
                words = {**parts, "base": request.host_url.rstrip("/")}
                return self._answer(request, route.answer(turn), words)
        file = self._plain(request.path) if request.method in ("GET", "HEAD") else None
        if file is None:
            return _json({"error": f"no fixture answers {request.method} {request.path}"}, 404)
        return _file(request, file, 200)

    def _answer(self, request: Request, answer: dict[str, Any], words: dict[str, str]) -> Response:
        time.sleep(answer.get("delay", 0))
        if answer.get("drop"):
            raise Drop
        status = answer.get("status", 200)
        if "file" in answer:
            file = self._inside(str(answer["file"]))
            if file is None:
                raise FixtureError(f"routes.yaml: the file {answer['file']} is not among the fixtures")
            response = _file(request, file, status)
        elif "json" in answer:
            response = _json(_filled(answer["json"], words), status)
        else:
            response = Response(_filled(str(answer.get("text", "")), words), status, mimetype="text/plain")
        for name, value in _pairs("", answer, "headers").items():
            response.headers[name] = _filled(value, words)
        return response

    def _inside(self, path: str) -> Path | None:
        """A file of the fixtures; nothing outside of them."""
        file = (self.fixtures / path.lstrip("/")).resolve()
        return file if file.is_relative_to(self.fixtures.resolve()) and file.is_file() else None

    def _plain(self, path: str) -> Path | None:
        path = path.strip("/")
        exact = self._inside(path) if path not in ("", "routes.yaml") else None
        if exact:
            return exact
        for stem in (path, f"{path}/index" if path else "index"):
            folder = (self.fixtures / stem).resolve().parent
            if folder.is_relative_to(self.fixtures.resolve()) and folder.is_dir():
                named = sorted(
                    each for each in folder.iterdir() if each.is_file() and each.stem == Path(stem).name
                )
                found = [each for each in named if each.name != "routes.yaml"]
                if found:
                    return found[0]
        return None

    def _outage(self, path: str) -> Outage | None:
        now = time.monotonic()
        self.outages = [
            each
            for each in self.outages
            if (each.until is None or each.until > now) and (each.times is None or each.times > 0)
        ]
        for outage in reversed(self.outages):
            if path.startswith(outage.path):
                if outage.times is not None:
                    outage.times -= 1
                return outage
        return None

    def _control(self, request: Request) -> Response:
        """The addresses by which a test says what the stub does, and asks what it saw."""
        asked = request.method, request.path.removeprefix(CONTROL)
        with self.lock:
            if asked == ("GET", "/health"):
                try:
                    return _json({"routes": len(read_routes(self.fixtures / "routes.yaml"))})
                except FixtureError as exc:
                    return _json({"error": str(exc)}, 500)
            if asked == ("PUT", "/outage"):
                data = request.get_json(silent=True, force=True)
                try:
                    _check("the outage", data, OUTAGE_KEYS)
                    assert data is not None
                    seconds = data.pop("seconds", None)
                    until = None if seconds is None else time.monotonic() + float(seconds)
                    self.outages.append(Outage(**data, until=until))
                except (FixtureError, TypeError, ValueError) as exc:
                    return _json({"error": str(exc)}, 400)
                return _json({"outages": len(self.outages)})
            if asked == ("GET", "/requests"):
                prefix = request.args.get("path", "/")
                return _json([each for each in self.requests if each["path"].startswith(prefix)])
            if asked == ("DELETE", "/requests"):
                self.requests.clear()
            elif asked == ("DELETE", "/outage"):
                self.outages.clear()
            elif asked == ("POST", "/reset"):
                self.turns.clear()
                self.outages.clear()
                self.requests.clear()
            else:
                return _json({"error": f"{CONTROL} knows nothing of {request.method} {request.path}"}, 404)
        return Response(status=204)


def _file(request: Request, file: Path, status: int) -> Response:
    content = file.read_bytes()
    kind, encoding = mimetypes.guess_type(file.name)
    response = Response(
        content, status, mimetype=(kind if not encoding else None) or "application/octet-stream"
    )
    response.set_etag(hashlib.sha256(content).hexdigest()[:16])
    if status == 200:
        response.make_conditional(request.environ)
    return response


def _json(data: object, status: int = 200) -> Response:
    return Response(json.dumps(data, default=str), status, mimetype="application/json")  # YAML has dates


def _filled(value: Any, words: dict[str, str]) -> Any:
    if isinstance(value, str):
        return string.Template(value).safe_substitute(words)
    if isinstance(value, list):
        return [_filled(each, words) for each in value]
    if isinstance(value, dict):
        return {key: _filled(each, words) for key, each in value.items()}
    return value


class Handler(WSGIRequestHandler):
    """Writes plain lines, without colours and without the time, which the sandbox's log has already."""

    def connection_dropped(self, error: BaseException, environ: object = None) -> None:  # noqa: ARG002 - the base's
        """After a `Drop`: hang up, instead of waiting for the next request."""
        self.close_connection = True

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:  # noqa: ARG002 - the base's
        """One line for each request."""
        if not self.path.startswith(f"{CONTROL}/"):
            say(f"{self.command} {self.path} {int(code) if str(code).isdigit() else code}")


def say(text: str) -> None:
    """A line of the log."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(config: dict[str, Any]) -> None:
    """Serve until SIGTERM."""
    stub = Stub(Path(config["fixtures"]))
    read_routes(stub.fixtures / "routes.yaml")
    server = make_server(
        config["host"], config["port"], this_machine.wsgi(stub), threaded=True, request_handler=Handler
    )
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    say(f"the HTTP stub listens on port {config['port']}")
    server.serve_forever()


if __name__ == "__main__":
    try:
        main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    except FixtureError as error:
        say(str(error))
        sys.exit(1)
