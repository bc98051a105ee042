"""Reads what the service `mail` of a sandbox has caught."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any

from astro_cli.foundation.errors import AstroError, EngineError
from astro_cli.foundation.ports import LOOPBACK

if TYPE_CHECKING:
    from astro_cli.runtime.engine import SandboxStatus

SECONDS = 10.0


class Mailbox:
    """The mails of one running sandbox.

    Raises:
        AstroError: it has no service `mail`, or that does not answer.
    """

    def __init__(self, status: SandboxStatus) -> None:
        service = next((each for each in status.services if each.name == "mail"), None)
        if service is None:
            raise AstroError(
                "the sandbox has no service `mail`",
                hint="write `services:` with `mail:` below it into .astro/config.yaml, then `astro airflow start`",
            )
        if service.state != "running":
            raise AstroError(
                "the service `mail` is not running", hint="start the sandbox with `astro airflow start`"
            )
        self._port = service.ports[-1]

    @property
    def page(self) -> str:
        """Where a browser shows them."""
        return f"http://localhost:{self._port}"

    def all(self) -> list[dict[str, Any]]:
        """Every mail, the newest first, without the text."""
        found: list[dict[str, Any]] = self._ask("GET", "/messages")
        return found

    def one(self, number: int) -> dict[str, Any] | None:
        """One mail with its text; None when there is none of that number."""
        found: dict[str, Any] | None = self._ask("GET", f"/messages/{number}")
        return found

    def clear(self) -> None:
        """Forget all of them."""
        self._ask("DELETE", "/messages")

    def _ask(self, method: str, path: str) -> Any:  # noqa: ANN401 - whatever JSON it sends
        connection = http.client.HTTPConnection(LOOPBACK, self._port, timeout=SECONDS)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as exc:
            raise EngineError(
                f"the service `mail` does not answer: {exc}", hint="see `astro airflow logs mail`"
            ) from exc
        finally:
            connection.close()
        if answer.status == http.HTTPStatus.NOT_FOUND:
            return None
        return json.loads(body) if body else None
