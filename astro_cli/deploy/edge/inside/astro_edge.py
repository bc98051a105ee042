"""A plugin of the api-server for the workers outside: lets them in by a key of their own, hands them the DAGs.

    GET /astro_edge/dags/current              the version that new runs take
    GET /astro_edge/dags/manifest/VERSION     the manifest of a version, and a layer of it: see `astro_bundle.py`
    GET /astro_edge/dags/layer/DIGEST

Each request is signed like those to Airflow's own API for them, of which it is a part to all who look from outside.
"""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Annotated, Any

from airflow.plugins_manager import AirflowPlugin
from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import StreamingResponse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from astro_bundle import Source

BUNDLES = "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"
PREFIX = "/astro_edge"
CHUNK = 1 << 18
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FOLDER, _REGISTRY = ("folder", "tag"), ("url", "repository", "tag", "credentials", "ca")


def source() -> Source:
    """Where the versions of this deployment's DAGs are."""
    from astro_bundle import FolderSource, RegistrySource

    told = json.loads(os.environ[BUNDLES])[0]["kwargs"]
    if "folder" in told:
        return FolderSource(**{name: told[name] for name in _FOLDER})
    return RegistrySource(**{name: told[name] for name in _REGISTRY if name in told})


def pieces(stream: IO[bytes]) -> Iterator[bytes]:
    """A stream, piece by piece; closes it."""
    with stream:
        while piece := stream.read(CHUNK):
            yield piece


async def authorized(request: Request, authorization: Annotated[str, Header()]) -> None:
    """Let in who has signed just this path with the key of the workers."""
    from airflow.providers.edge3.worker_api.auth import jwt_token_authorization

    await jwt_token_authorization(request.url.path.rpartition(f"{PREFIX}/")[2], authorization)


def api() -> FastAPI:
    """The API by which workers get the DAGs."""
    made = FastAPI(openapi_url=None, dependencies=[Depends(authorized)])
    versions = source()

    @made.get("/dags/current")
    def current() -> str:
        try:
            return str(versions.current())
        except OSError as exc:
            raise HTTPException(404, "nothing was published") from exc

    @made.get("/dags/{kind}/{digest}")
    def content(kind: str, digest: str) -> Response:
        if kind not in ("manifest", "layer") or not _DIGEST.fullmatch(digest):
            raise HTTPException(404, "there is no such thing")
        try:
            if kind == "manifest":
                return Response(versions.manifest(digest), media_type="application/octet-stream")
            return StreamingResponse(pieces(versions.layer(digest)), media_type="application/octet-stream")
        except OSError as exc:
            raise HTTPException(404, "there is no such version") from exc

    return made


def make_tables() -> None:
    """Make the tables of the provider, with the number of their version.

    Its own plugin would make them without; then its executor takes them for the oldest ones, and every scheduler
    dies in a migration of what is there already. Plugins of providers are loaded after this one.
    """
    from airflow.providers.edge3.models.db import EdgeDBManager
    from airflow.utils.db import DBLocks, create_global_lock
    from airflow.utils.session import create_session

    with create_session() as session, create_global_lock(session=session, lock=DBLocks.MIGRATIONS):
        manager = EdgeDBManager(session)
        if not manager.check_migration():
            manager.initdb()


def take_own_key() -> None:
    """Let Airflow's API for workers know them by their key, and not by the secret of the deployment."""
    from airflow.api_fastapi.auth.tokens import JWTValidator
    from airflow.providers.edge3.worker_api import auth
    from edge_key import accepted_keys
    from jwt import InvalidSignatureError

    class Validator:
        async def avalidated_claims(self, token: str) -> dict[str, Any]:
            *others, last = [
                JWTValidator(secret_key=key, leeway=30, audience="api") for key in accepted_keys()
            ]
            for validator in others:
                with suppress(InvalidSignatureError):
                    return dict(await validator.avalidated_claims(token))
            return dict(await last.avalidated_claims(token))

    assert callable(auth._shared_secret_validator)
    auth._shared_secret_validator = Validator


def expect_logs() -> None:
    """Logs of running tasks are sent here: nobody asks the machine for them, which would not be reached."""
    from airflow.providers.edge3.executors.edge_executor import EdgeExecutor

    def get_task_log(*_: object) -> tuple[list[str], list[str]]:
        return ["what the worker outside has sent so far"], []

    EdgeExecutor.get_task_log = get_task_log


class EdgePlugin(AirflowPlugin):
    """Found by Airflow through the entry point beside this file."""

    name = "astro_edge"
    if sys.argv[1:2] == ["api-server"]:
        make_tables()
        take_own_key()
        expect_logs()
        fastapi_apps = ({"app": api(), "url_prefix": PREFIX, "name": "astro_edge"},)
