"""The service `s3`: moto's S3, which keeps all in memory, with a file beside it so that a restart loses nothing.

    s3.py CONFIG.json

CONFIG.json   {"host", "port", "data": folder, "buckets": [..], "seed": folder or null, "seed_hash": of its files}

Every request that changes something is followed, before it is answered, by a look at what it changed, through S3's
own interface: so the file holds what S3 would say. It holds objects with content and headers; versions, tags and
policies last until the next restart only. The seed is put when `seed_hash` differs from the one kept.
"""

from __future__ import annotations

import json
import mimetypes
import os
import signal
import sqlite3
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote
from xml.etree import ElementTree as ET

import this_machine
from moto.moto_server.werkzeug_app import create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.test import Client

if TYPE_CHECKING:
    from collections.abc import Iterable

XML = {"s3": "http://s3.amazonaws.com/doc/2006-03-01/"}
KEPT = (
    "content-type",
    "content-encoding",
    "content-disposition",
    "content-language",
    "cache-control",
    "expires",
)


class Store:
    """The objects of every bucket, in one file."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._file = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._file.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;"
            "CREATE TABLE IF NOT EXISTS buckets (name TEXT PRIMARY KEY);"
            "CREATE TABLE IF NOT EXISTS objects (bucket TEXT, key TEXT, headers TEXT, body BLOB,"
            " PRIMARY KEY (bucket, key));"
            "CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT)"
        )

    def run(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """One statement, alone."""
        with self._lock:
            return self._file.execute(sql, values).fetchall()


class Owner(Client):
    """Asks as whoever owns everything: moto looks whether a request is signed, not by whom."""

    def open(self, *words: Any, headers: dict[str, str] | None = None, **more: Any) -> Any:
        """Send a request."""
        scope = "test/20260101/us-east-1/s3/aws4_request"
        signed = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=none"
        return super().open(*words, headers={**(headers or {}), "Authorization": signed}, **more)


class Keeper:
    """moto's application, whose every change is written to the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._moto: Any = create_backend_app("s3")
        self._client = Owner(self._moto)
        self._one_at_a_time = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer a request, and write down what it has changed."""
        if environ["REQUEST_METHOD"] in ("GET", "HEAD", "OPTIONS"):
            answer: Iterable[bytes] = self._moto(environ, start_response)
            return answer
        bucket, _, key = environ["PATH_INFO"].lstrip("/").encode("latin-1").decode().partition("/")
        query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
        told: list[Any] = []
        body = b"".join(self._moto(environ, lambda *words: told.append(words)))
        if told[0][0].startswith("2") and bucket and not ("partNumber" in query or "uploads" in query):
            with self._one_at_a_time:
                if key:
                    self._keep_object(bucket, key)
                else:
                    self._keep_bucket(bucket)
        start_response(*told[0])
        return [body]

    def _keep_object(self, bucket: str, key: str) -> None:
        found = self._client.get(f"/{quote(bucket)}/{quote(key)}")
        if found.status_code != 200:
            self._store.run("DELETE FROM objects WHERE bucket = ? AND key = ?", bucket, key)
            return
        headers = {
            name: value
            for name, value in ((name.lower(), value) for name, value in found.headers)
            if name in KEPT or name.startswith("x-amz-meta-")
        }
        self._store.run(
            "REPLACE INTO objects VALUES (?, ?, ?, ?)", bucket, key, json.dumps(headers), found.data
        )

    def _keep_bucket(self, bucket: str) -> None:
        """After a change of the bucket as a whole: it came or went, or several of its objects did."""
        keys = self._keys(bucket)
        if keys is None:
            self._store.run("DELETE FROM buckets WHERE name = ?", bucket)
            self._store.run("DELETE FROM objects WHERE bucket = ?", bucket)
            return
        self._store.run("INSERT OR IGNORE INTO buckets VALUES (?)", bucket)
        known = {key for (key,) in self._store.run("SELECT key FROM objects WHERE bucket = ?", bucket)}
        for key in known - keys:
            self._store.run("DELETE FROM objects WHERE bucket = ? AND key = ?", bucket, key)
        for key in keys - known:  # a form's POST
            self._keep_object(bucket, key)

    def _keys(self, bucket: str) -> set[str] | None:
        keys: set[str] = set()
        token = ""
        while True:
            after = f"&continuation-token={quote(token, safe='')}" if token else ""
            listed = self._client.get(f"/{quote(bucket)}?list-type=2&encoding-type=url{after}")
            if listed.status_code != 200:
                return None
            tree = ET.fromstring(listed.data)  # noqa: S314 - moto's own
            keys |= {unquote(each.text or "") for each in tree.iterfind("s3:Contents/s3:Key", XML)}
            token = tree.findtext("s3:NextContinuationToken", "", XML)
            if not token:
                return keys

    def restore(self) -> None:
        """Bring back what the store holds."""
        for (bucket,) in self._store.run("SELECT name FROM buckets"):
            self._client.put(f"/{quote(bucket)}")
        for bucket, key in self._store.run("SELECT bucket, key FROM objects"):
            ((headers, body),) = self._store.run(
                "SELECT headers, body FROM objects WHERE bucket = ? AND key = ?", bucket, key
            )
            self._client.put(f"/{quote(bucket)}/{quote(key)}", data=body, headers=json.loads(headers))

    def put(self, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        """A request like any other's."""
        answer = Owner(self).put(path, data=body, headers=headers or {})
        if answer.status_code not in (200, 409):
            raise SystemExit(f"{path} cannot be made: {answer.data.decode()}")

    def seed(self, folder: Path | None, seed_hash: str, buckets: list[str]) -> None:
        """Make the buckets, and put the files unless these very ones were put already."""
        for bucket in buckets:
            self.put(f"/{bucket}")
        if folder is None or self._store.run("SELECT 1 FROM facts WHERE value = ?", seed_hash):
            return
        count = 0
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            bucket, _, key = path.relative_to(folder).as_posix().partition("/")
            if not key:
                say(f"{path.name} is not put: the first folder of a seed names the bucket")
                continue
            kind, encoding = mimetypes.guess_type(path.name)
            guessed = {"content-type": kind or "application/octet-stream"}
            if encoding:  # stored as it is: S3 would not unpack it either
                guessed = {"content-type": "application/octet-stream"}
            self.put(f"/{quote(bucket)}")
            self.put(f"/{quote(bucket)}/{quote(key)}", path.read_bytes(), guessed)
            count += 1
        self._store.run("REPLACE INTO facts VALUES ('seed', ?)", seed_hash)
        say(f"put {count} files of the seed")


class QuietHandler(WSGIRequestHandler):
    """Writes plain lines, without colours and without the time, which the sandbox's log has already."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:  # noqa: ARG002 - the base's
        """One line for each request; not for a look whether it is alive."""
        if self.command == "GET" and self.path == "/":
            return
        say(f"{self.command} {self.path} {int(code) if str(code).isdigit() else code}")


def say(text: str) -> None:
    """A line of the log."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(config: dict[str, Any]) -> None:
    """Restore, seed, then serve until SIGTERM."""
    data = Path(config["data"])
    data.mkdir(parents=True, exist_ok=True)
    keeper = Keeper(Store(data / "objects.sqlite"))
    keeper.restore()
    keeper.seed(Path(config["seed"]) if config["seed"] else None, config["seed_hash"], config["buckets"])
    server = make_server(
        config["host"], config["port"], this_machine.wsgi(keeper), threaded=True, request_handler=QuietHandler
    )
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # every change is written down already
    say(f"S3 listens on port {config['port']}")
    server.serve_forever()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
