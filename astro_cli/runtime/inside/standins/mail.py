"""The service `mail`: takes every mail over SMTP, delivers none, and shows them as JSON and as a page.

    mail.py CONFIG.json

CONFIG.json   {"host", "port": of SMTP, "page_port", "data": folder}

GET /messages lists them, the newest first; GET /messages/N has one whole; DELETE /messages forgets all; / is for
people. They are kept as a maildir in `data`.
"""

from __future__ import annotations

import json
import mailbox
import os
import re
import signal
import sys
import threading
from email import message_from_bytes, policy
from email.utils import parsedate_to_datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import this_machine
from aiosmtpd.controller import Controller
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from email.message import EmailMessage

LARGEST = 32 * 1024 * 1024
PAGE = """<!doctype html><meta charset="utf-8"><title>mail</title><style>body{{font:15px sans-serif;margin:2em}}
pre{{background:#f4f4f4;padding:1em;white-space:pre-wrap}}
td,th{{padding:.2em 1em .2em 0;text-align:left}}</style>{body}"""


class Post:
    """The mails that came, numbered from 1 in the order of their coming."""

    def __init__(self, folder: Path) -> None:
        self._lock = threading.Lock()
        self._box = mailbox.Maildir(folder / "maildir", create=True)

    def add(self, sender: str | None, recipients: list[str], content: bytes) -> None:
        """Keep a mail with its envelope."""
        message = message_from_bytes(content, policy=policy.default)
        for name in ("X-Astro-From", "X-Astro-To"):
            del message[name]
        message["X-Astro-From"] = sender or ""
        message["X-Astro-To"] = ", ".join(recipients)
        with self._lock:
            self._box.add(mailbox.MaildirMessage(message))

    def _keys(self) -> list[str]:
        def when(key: str) -> tuple[int, ...]:
            return tuple(int(number) for number in re.findall(r"\d+", key.partition(".host")[0])[:4])

        return sorted(self._box.keys(), key=when)

    def all(self) -> list[dict[str, Any]]:
        """Every mail, the newest first, without the bodies."""
        with self._lock:
            found = [self._told(number, key) for number, key in enumerate(self._keys(), 1)]
        return [{name: value for name, value in each.items() if name in SHORT} for each in reversed(found)]

    def one(self, number: int) -> dict[str, Any] | None:
        """One mail, whole."""
        with self._lock:
            keys = self._keys()
            return self._told(number, keys[number - 1]) if 1 <= number <= len(keys) else None

    def clear(self) -> None:
        """Forget all of them."""
        with self._lock:
            self._box.clear()

    def _told(self, number: int, key: str) -> dict[str, Any]:
        raw = self._box.get_bytes(key)
        message: EmailMessage = message_from_bytes(raw, policy=policy.default)
        text, html = message.get_body(("plain",)), message.get_body(("html",))
        return {
            "number": number,
            "from": message["X-Astro-From"],
            "to": [each for each in str(message["X-Astro-To"]).split(", ") if each],
            "subject": str(message["Subject"] or ""),
            "date": _date(message),
            "text": text.get_content() if text else None,
            "html": html.get_content() if html else None,
            "attachments": [each.get_filename() or "unnamed" for each in message.iter_attachments()],
            "raw": raw.decode("utf-8", "replace"),
        }


SHORT = ("number", "from", "to", "subject", "date", "attachments")


def _date(message: EmailMessage) -> str | None:
    try:
        return parsedate_to_datetime(str(message["Date"])).isoformat()
    except (TypeError, ValueError):
        return None


class Receiver:
    """What aiosmtpd calls for each mail."""

    def __init__(self, post: Post) -> None:
        self._post = post

    async def handle_DATA(self, server: object, session: object, envelope: Any) -> str:  # noqa: ARG002, N802 - aiosmtpd's
        """Keep it."""
        self._post.add(envelope.mail_from, list(envelope.rcpt_tos), envelope.content)
        say(f"mail from {envelope.mail_from} to {', '.join(envelope.rcpt_tos)}")
        return "250 kept, and delivered to nobody"


def application(post: Post) -> Callable[..., Iterable[bytes]]:
    """The JSON and the page."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        return _response(post, Request(environ))(environ, start_response)

    return answer


def _response(post: Post, request: Request) -> Response:
    number = re.fullmatch(r"/(?:messages/)?(\d+)", request.path)
    one = post.one(int(number[1])) if number else None
    if request.method == "DELETE" and request.path == "/messages":
        post.clear()
        return Response(status=204)
    if request.method != "GET" or (number and one is None):
        return _json({"error": "there is no such mail"}, 404)
    if request.path == "/messages":
        return _json(post.all())
    if one is not None:
        return _json(one) if request.path.startswith("/messages/") else _page(_letter(one))
    if request.path == "/":
        rows = "".join(_row(each) for each in post.all())
        return _page(f"<h1>Mail</h1><table><tr><th>date<th>from<th>to<th>subject{rows}</table>")
    return _json({"error": "see / and /messages"}, 404)


def _row(mail: dict[str, Any]) -> str:
    cells = (mail["date"] or "", mail["from"] or "", ", ".join(mail["to"]))
    subject = f'<a href="{mail["number"]}">{escape(mail["subject"] or "(no subject)")}</a>'
    return f"<tr>{''.join(f'<td>{escape(cell)}' for cell in cells)}<td>{subject}"


def _letter(mail: dict[str, Any]) -> str:
    body = f"<pre>{escape(mail['text'])}</pre>" if mail["text"] else ""
    if mail["html"]:  # as the sender wrote it, but without scripts and without a way out
        body += f'<iframe sandbox srcdoc="{escape(mail["html"])}" style="width:100%;height:60vh"></iframe>'
    return (
        f"<p><a href='./'>all</a><h1>{escape(mail['subject'])}</h1>"
        f"<p>{escape(mail['from'] or '')} to {escape(', '.join(mail['to']))}{body}"
        f"<details><summary>as it came</summary><pre>{escape(mail['raw'])}</pre></details>"
    )


def _page(body: str) -> Response:
    return Response(PAGE.format(body=body), mimetype="text/html")


def _json(data: object, status: int = 200) -> Response:
    return Response(json.dumps(data), status, mimetype="application/json")


class SilentHandler(WSGIRequestHandler):
    """Looking at mails is not worth a line."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing."""


def say(text: str) -> None:
    """A line of the log."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(config: dict[str, Any]) -> None:
    """Serve until SIGTERM."""
    data = Path(config["data"])
    data.mkdir(parents=True, exist_ok=True)
    post = Post(data)
    smtp: Any = Controller(
        Receiver(post), hostname=config["host"], port=config["port"], data_size_limit=LARGEST,
        auth_require_tls=False, authenticator=None,
    )  # fmt: skip
    smtp.start()
    page = make_server(
        config["host"],
        config["page_port"],
        this_machine.wsgi(application(post)),
        threaded=True,
        request_handler=SilentHandler,
    )
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    say(f"mail is taken on port {config['port']}, and shown on port {config['page_port']}")
    page.serve_forever()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
