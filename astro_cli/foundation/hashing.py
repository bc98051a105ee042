"""One hash over many named pieces, in which no piece can pass for another."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def digest(parts: Iterable[tuple[bytes, bytes]]) -> str:
    """SHA-256 in hexadecimal over pairs of name and content; lengths are part of it."""
    total = hashlib.sha256()
    for name, content in parts:
        total.update(b"%d:%s%d:%s" % (len(name), name, len(content), content))
    return total.hexdigest()
