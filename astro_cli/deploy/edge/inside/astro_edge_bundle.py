"""The DAGs of a deployment, for a worker outside: fetched from its web address with the worker's key."""

from __future__ import annotations

import os
import urllib.request
from typing import IO, Any

from astro_bundle import SECONDS, AstroDagBundle, Source

SECRET = "AIRFLOW__API_AUTH__JWT_SECRET"  # noqa: S105 - the name of a variable
TOKEN_SECONDS = 60


class SiteSource:
    """Versions behind the web address of a deployment; see `astro_edge.py`."""

    def __init__(self, url: str) -> None:
        self._base = f"{url}/astro_edge"

    def current(self) -> str:
        """See `Source`."""
        with self._open("dags/current") as answer:
            return answer.read().decode().strip().strip('"')

    def manifest(self, version: str) -> bytes:
        """See `Source`."""
        with self._open(f"dags/manifest/{version}") as answer:
            return answer.read()

    def layer(self, digest: str) -> IO[bytes]:
        """See `Source`."""
        return self._open(f"dags/layer/{digest}")

    def _open(self, path: str) -> IO[bytes]:
        from airflow.api_fastapi.auth.tokens import JWTGenerator

        signer = JWTGenerator(secret_key=os.environ[SECRET], valid_for=TOKEN_SECONDS, audience="api")
        request = urllib.request.Request(f"{self._base}/{path}")  # noqa: S310 - the deployment's own address
        request.add_unredirected_header("Authorization", signer.generate({"method": path}))
        opened: IO[bytes] = urllib.request.urlopen(request, timeout=SECONDS)  # noqa: S310
        return opened


class EdgeDagBundle(AstroDagBundle):
    """See `AstroDagBundle`.

    Args:
        url: the deployment's web address.
    """

    def __init__(self, *, url: str, tag: str, **options: Any) -> None:  # noqa: ANN401 - Airflow's own
        super().__init__(tag=tag, folder="unused", **options)
        self._source: Source = SiteSource(url)
