"""A Docker engine's door without an engine: a unix socket that gives fixed answers, or none."""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingUnixStreamServer
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

EMPTY_ENGINE = {
    "/version": {"Version": "99.0", "ApiVersion": "1.41", "Os": "linux", "Arch": "amd64", "Components": []},
    "/info": {"SecurityOptions": []},
    "/containers/json": [],
    "/images/json": [],
    "/networks": [],
    "/volumes": {"Volumes": None},
}


class FakeEngine:
    """Answers GET requests by path; anything else is a 404. `answers` may hold JSON values or raw bytes."""

    def __init__(self, path: Path, answers: Mapping[str, object] = EMPTY_ENGINE) -> None:
        self.url = f"unix://{path}"
        self.asked: list[str] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                where = unquote(urlsplit(self.path).path)
                fake.asked.append(where)
                answer = answers.get(where)
                body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                if answer is None:
                    body = json.dumps({"message": f"no such thing: {where}"}).encode()
                self.send_response(404 if answer is None else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

            def address_string(self) -> str:
                return "unix"

        self._server = ThreadingUnixStreamServer(str(path), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class SilentEngine:
    """Accepts every connection, and never says a word: an engine that hangs."""

    def __init__(self, path: Path) -> None:
        self.url = f"unix://{path}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        self._socket.listen(16)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
