"""The key by which a deployment knows its workers outside.

Airflow's own way is to give them the secret that signs every token of a deployment: whoever has a machine outside
could make himself its admin. This key is made of two secrets of the deployment, and opens the API of the workers
and nothing else; `rotate-keys` changes one of them, and so the key. The key of before is accepted for a while, or a
worker that runs tasks would end with them at its next sign of life. Standard library only.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

SECRETS = ("AIRFLOW__API_AUTH__JWT_SECRET", "AIRFLOW__API__SECRET_KEY")
BEFORE = "ASTRO_EDGE_KEY_BEFORE"
"""The key of before, and until when (epoch seconds) it is accepted: `UNTIL:KEY`."""


def edge_key(secrets: Mapping[str, str] = os.environ) -> str:
    """The key, where the deployment's own secrets are known."""
    secret = "\n".join(secrets[name] for name in SECRETS)
    return hmac.new(secret.encode(), b"astro: workers outside", hashlib.sha256).hexdigest()


def accepted_keys() -> list[str]:
    """The key, and that of before as long as it is accepted."""
    until, _, key = os.environ.get(BEFORE, "").partition(":")
    return [edge_key(), *([key] if key and time.time() < float(until) else [])]


def replaced(secrets: Mapping[str, str], until: float) -> dict[str, str]:
    """What new secrets must have besides.

    Args:
        secrets: those of before.
        until: when the last worker that knows them will have finished its tasks, in epoch seconds.
    """
    return {BEFORE: f"{until:.0f}:{edge_key(secrets)}"}
