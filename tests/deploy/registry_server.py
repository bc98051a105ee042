"""A real registry, Debian's `docker-registry`, on a free port: open, with a password, with tokens, with TLS."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.free_port import free_port

USER, PASSWORD = "alice", "correct horse"  # what a registry with a password or with tokens lets in


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate and its key; the certificate is its own authority."""

    certificate: Path
    key: Path


def make_certificate(folder: Path, address: str, *, name: str = "tls") -> Certificate:
    """A certificate for an IP address, as a company's own authority would sign it."""
    made = Certificate(folder / f"{name}.crt", folder / f"{name}.key")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]  # noqa: RUF005
        + ["-subj", f"/CN={address}", "-addext", f"subjectAltName=IP:{address}"]
        + ["-keyout", made.key, "-out", made.certificate],
        check=True,
        capture_output=True,
    )
    return made


class RegistryServer:
    """One `docker-registry` process; use it as a context manager.

    Args:
        folder: for its data, configuration and log.
        address: to listen on; an engine takes loopback without TLS, any other with a known authority only.
        everywhere: listen on every address of this machine, as for containers.
        password: ask for `USER` and `PASSWORD` (Basic).
        tokens: ask for a token of our own token server, which lets in `USER` with `PASSWORD` (Bearer).
        tls: serve HTTPS with a self-signed certificate, `certificate`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        address: str = "127.0.0.1",
        everywhere: bool = False,
        password: bool = False,
        tokens: bool = False,
        tls: bool = False,
    ) -> None:
        if shutil.which("docker-registry") is None:
            pytest.skip("the program docker-registry is missing: apt-get install docker-registry")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.address = address
        self.port = free_port(address)
        self.log_file = folder / "registry.log"
        self.data = folder / "data"
        self.certificate = make_certificate(folder, address).certificate if tls else None
        self._listen = f"0.0.0.0:{self.port}" if everywhere else self.host
        self._token_server = TokenServer(folder) if tokens else None
        self._process: subprocess.Popen[bytes] | None = None
        self._mounted = False
        (folder / "config.json").write_text(json.dumps(self._configuration(password=password)))

    def _configuration(self, *, password: bool) -> dict[str, object]:
        http_part: dict[str, object] = {"addr": self._listen, "secret": "s"}
        if self.certificate is not None:
            key = self.certificate.with_suffix(".key")
            http_part["tls"] = {"certificate": str(self.certificate), "key": str(key)}
        auth: dict[str, object] = {}
        if password:
            line = subprocess.run(
                ["htpasswd", "-Bbn", USER, PASSWORD], check=True, capture_output=True, text=True
            ).stdout
            (self.folder / "htpasswd").write_text(line)
            auth = {"htpasswd": {"realm": "test", "path": str(self.folder / "htpasswd")}}
        if self._token_server is not None:
            auth = {"token": self._token_server.configuration}
        return {
            "version": "0.1",
            "log": {"accesslog": {"disabled": False}, "level": "info"},
            "storage": {"filesystem": {"rootdirectory": str(self.data)}, "delete": {"enabled": True}},
            "http": http_part,
            **({"auth": auth} if auth else {}),
        }

    @property
    def host(self) -> str:
        """`ADDRESS:PORT`, as it stands in the name of an image."""
        return f"{self.address}:{self.port}"

    @property
    def access_log(self) -> str:
        """Everything it has logged so far; one line in the combined format for each request."""
        return self.log_file.read_text(errors="replace")

    def requests(self, method: str) -> list[str]:
        """Paths of the requests of one method that were answered with success."""
        return re.findall(rf'"{method} (\S+) HTTP/[0-9.]+" 2\d\d', self.access_log)

    @property
    def token_scopes(self) -> list[str]:
        """Every scope that a token was asked for, in order."""
        return self._token_server.scopes if self._token_server else []

    def fill_disk(self) -> None:
        """Let its data lie on a full disk: a small one in memory, with what was there before. Needs root."""
        size = sum(path.stat().st_size for path in self.data.rglob("*") if path.is_file())
        kept = self.data.with_name("kept")
        self.data.rename(kept)
        self.data.mkdir()
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size + (1 << 20)}", "tmpfs", self.data], check=True
        )
        self._mounted = True
        shutil.copytree(kept, self.data, dirs_exist_ok=True)

    def start(self) -> None:
        """Start it, or start it again on the same port with the same data."""
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                ["docker-registry", "serve", str(self.folder / "config.json")],
                stdout=log,
                stderr=log,
                env={**os.environ, "OTEL_TRACES_EXPORTER": "none"},
            )
        deadline = time.monotonic() + 120
        while True:
            try:
                socket.create_connection((self.address, self.port), timeout=1).close()
                return
            except OSError:
                assert self._process.poll() is None, self.access_log
                assert time.monotonic() < deadline, self.access_log
                time.sleep(0.05)

    def stop(self) -> None:
        """End it at once, as a crash would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def __enter__(self) -> RegistryServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self._mounted:
            subprocess.run(["umount", self.data], check=True)
        if self._token_server is not None:
            self._token_server.close()


class TokenServer:
    """Hands out tokens as the distribution specification says, to whoever knows `USER` and `PASSWORD`.

    Attributes:
        scopes: every scope that was asked for, in order.
    """

    def __init__(self, folder: Path) -> None:
        self._signer = make_certificate(folder, "127.0.0.1", name="token")
        self.scopes: list[str] = []
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def configuration(self) -> dict[str, str]:
        """The `auth.token` part of the registry's configuration."""
        return {
            "realm": f"http://127.0.0.1:{self._server.server_port}/token",
            "service": "astro-test",
            "issuer": "astro-test",
            "rootcertbundle": str(self._signer.certificate),
        }

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        """Answer one request for a token."""
        expected = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        query = urllib.parse.parse_qs(urllib.parse.urlparse(request.path).query)
        if request.headers.get("Authorization") != f"Basic {expected}":
            status, body = 401, {"details": "incorrect username or password"}
        else:
            self.scopes += query.get("scope", [])
            status, body = 200, {"token": self._token(query.get("scope", [])), "expires_in": 300}
        payload = json.dumps(body).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(payload)))
        request.end_headers()
        request.wfile.write(payload)

    def _token(self, scopes: list[str]) -> str:
        pem = self._signer.certificate.read_text()
        der = "".join(line for line in pem.splitlines() if "-----" not in line)
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(time.time())
        claims = {"iss": "astro-test", "aud": "astro-test", "sub": USER, "access": access}
        claims |= {
            "iat": now,
            "nbf": now - 10,
            "exp": now + 300,
            "jti": hashlib.sha256(os.urandom(8)).hexdigest(),
        }
        parts = [{"alg": "RS256", "typ": "JWT", "x5c": [der]}, claims]
        signed = ".".join(_base64(json.dumps(part).encode()) for part in parts)
        signature = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self._signer.key],
            input=signed.encode(),
            check=True,
            capture_output=True,
        ).stdout
        return f"{signed}.{_base64(signature)}"

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
