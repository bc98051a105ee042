"""Talks to a sandbox's REST API. The only module that imports httpx."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx

from astro_cli import airflow
from astro_cli.errors import AstroError, UnhealthyError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

COMPONENTS = ("metadatabase", "scheduler", "triggerer", "dag_processor")


class AirflowApi:
    """One sandbox's API, at `url` (for example `http://localhost:8080`). Proxies are never used: it is local."""

    def __init__(self, url: str, *, seconds: float = 10.0) -> None:
        self._client = httpx.Client(base_url=url, timeout=seconds, trust_env=False, follow_redirects=False)

    def __enter__(self) -> AirflowApi:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def is_ready(self, *, instance_name: str, version: str) -> bool:
        """Whether this is our Airflow and each of its components says that it is healthy.

        An open port proves nothing: any program may hold it. So the answer must also carry the version and
        the instance name of the sandbox.
        """
        try:
            health = self._client.get(airflow.HEALTH_PATH, timeout=2.0).json()
            if any(health[name]["status"] != "healthy" for name in COMPONENTS):
                return False
            told = self._client.get("/api/v2/version").json()["version"]
            name = self._client.get("/ui/config").json()["instance_name"]
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return False
        return bool(told == version and name == instance_name)

    def upsert(self, collection: str, entities: Sequence[dict[str, Any]]) -> None:
        """Create or overwrite `entities` in one request.

        Args:
            collection: `connections`, `variables` or `pools`.
            entities: bodies as the API's create calls take them.

        Raises:
            AstroError: Airflow refused one of them; nothing else is known about the rest.
        """
        if not entities:
            return
        action = {"action": "create", "action_on_existence": "overwrite", "entities": list(entities)}
        try:
            response = self._client.patch(f"/api/v2/{collection}", json={"actions": [action]})
        except httpx.HTTPError as exc:
            raise UnhealthyError(
                f"lost the connection to Airflow while writing {collection}: {exc}",
                hint="see `astro airflow ps`, then run `astro airflow start` again",
            ) from exc
        problems = _problems(response)
        if problems:
            raise AstroError(
                f"Airflow refused the {collection}: {problems[0]}",
                hint="correct the file, then run `astro airflow start` again",
                details=tuple(problems[1:]),
            )


def _problems(response: httpx.Response) -> list[str]:
    try:
        body = response.json()
    except ValueError:
        return [f"HTTP {response.status_code}"] if response.is_error else []
    if response.is_error:
        detail = body.get("detail", body) if isinstance(body, dict) else body
        return [str(detail)]
    return [str(error.get("error", error)) for error in (body.get("create") or {}).get("errors") or []]
