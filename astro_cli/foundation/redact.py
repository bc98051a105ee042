"""Takes secrets out of text that leaves this machine: those that are known, and whatever looks like one. Pure."""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus, unquote

if TYPE_CHECKING:
    from collections.abc import Iterable

MASK = "***"
SHORTEST = 4
"""Characters of a known secret that is looked for; a shorter one would tear holes into every text."""

_SECRET_NAME = r"[\w.-]{0,60}(?:password|passwd|passphrase|pwd|secret|token|api[_-]?key|apikey|access[_-]?key|private[_-]?key|fernet[_-]?key|credential|auth)s?[\w.-]{0,60}"  # noqa: S105, E501
_NAMED = re.compile(_SECRET_NAME, re.IGNORECASE)
_USERINFO = re.compile(r"(?<=://)([^\s/?#'\"<>@]*):([^\s/?#'\"<>]*)@")
_LOOKS = (
    (
        re.compile(r"(?P<keep>\b(?:[\w-]*authorization|[\w-]*cookie)[\"']?\s*:\s*).+", re.IGNORECASE),
        rf"\g<keep>{MASK}",
    ),
    # The key is kept, the value goes: `password: x`, `"token": "x"`, `PASSWORD=x`, `--password x`.
    (
        re.compile(
            rf"(?P<keep>[\"']?\b{_SECRET_NAME}[\"']?\s*(?:=|:)\s*)(?P<value>\"(?:[^\"\\\n]|\\.)*\"|'[^'\n]*'|[^\s,;&}}\]]+)",
            re.IGNORECASE,
        ),
        rf"\g<keep>{MASK}",
    ),
    (re.compile(r"(?P<keep>--?[\w-]*(?:password|secret|token|key)[ =])\S+", re.IGNORECASE), rf"\g<keep>{MASK}"),
    (re.compile(r"(?P<keep>\b(?:Bearer|Basic)\s+)[\w.~+/=-]{6,}", re.IGNORECASE), rf"\g<keep>{MASK}"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), MASK),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{4,}(?:\.[\w-]*)?"), MASK),  # a JSON web token
    (re.compile(r"(?<![\w-])[\w-]{43}=(?![\w=])"), MASK),  # a Fernet key
    (re.compile(r"\bgAAAAA[\w-]{20,}={0,2}"), MASK),  # what one has encrypted
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), MASK),
    (re.compile(r"\b(?:gh[pousr]_|github_pat_|glpat-|xox[abprs]-|sk-|pypi-)[\w-]{12,}"), MASK),
)  # fmt: skip


def names_a_secret(name: str) -> bool:
    """Whether a variable or key of this name likely holds a secret."""
    return _NAMED.fullmatch(name) is not None


def has_password(address: str) -> bool:
    """Whether an address has a password in front of its host."""
    return any(found[2] for found in _USERINFO.finditer(address))


def without_password(text: str) -> str:
    """The text with the password taken out of every address in it; the user's name stays."""
    return _USERINFO.sub(lambda found: f"{found[1]}:{MASK}@", text)


def passwords_in(text: str) -> list[str]:
    """The users and passwords of the addresses in a text, decoded."""
    return [unquote(found[2]) for found in _USERINFO.finditer(text) if found[2]]


class Redactor:
    """Replaces secrets in text.

    Args:
        secrets: values that must not appear, in whatever usual encoding: as they are, in a URL, in JSON, in base64.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known: set[str] = set()
        for secret in secrets:
            for piece in (secret, *secret.splitlines()):
                if len(piece.strip()) >= SHORTEST:
                    known |= _forms(piece.strip())
        # The longest first: one secret may begin with another.
        self._known = (
            re.compile("|".join(map(re.escape, sorted(known, key=len, reverse=True)))) if known else None
        )

    def clean(self, text: str) -> str:
        """The text without secrets."""
        if self._known is not None:
            text = self._known.sub(MASK, text)
        # Whoever gave no user has the token there: `https://TOKEN@host`.
        text = re.sub(r"(?<=://)[^\s/?#'\"<>]+@", f"{MASK}@", text)
        for looks, mask in _LOOKS:
            text = looks.sub(mask, text)
        return text


def _forms(secret: str) -> set[str]:
    raw = secret.encode("utf-8", "surrogateescape")
    forms = {secret, quote(secret, safe="", errors="replace"), quote_plus(secret, errors="replace")}
    forms |= {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1]}
    forms |= {base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()}
    return {form for form in forms if len(form) >= SHORTEST}
