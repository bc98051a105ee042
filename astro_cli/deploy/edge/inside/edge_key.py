"""The key by which a deployment knows its workers outside.

Airflow's own way is to give them the secret that signs every token of a deployment: whoever has a machine outside
could make himself its admin. This key is made of two secrets of the deployment, and opens the API of the workers
and nothing else; `rotate-keys` changes one of them, and so the key. Standard library only.
"""

from __future__ import annotations

import hashlib
import hmac
import os

SECRETS = ("AIRFLOW__API_AUTH__JWT_SECRET", "AIRFLOW__API__SECRET_KEY")


def edge_key() -> str:
    """The key, where the deployment's own secrets are known."""
    secret = "\n".join(os.environ[name] for name in SECRETS)
    return hmac.new(secret.encode(), b"astro: workers outside", hashlib.sha256).hexdigest()
