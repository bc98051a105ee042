"""A plugin by which the api-server says of which release it is: GET /astro/release, open like the health page."""

from __future__ import annotations

import os

from airflow.plugins_manager import AirflowPlugin
from fastapi import FastAPI

app = FastAPI(openapi_url=None)


@app.get("/release")
def release() -> dict[str, str]:
    """Number of the release and name of the deployment."""
    return {"release": os.environ["ASTRO_RELEASE"], "deployment": os.environ["ASTRO_DEPLOYMENT"]}


class ReleasePlugin(AirflowPlugin):
    """Found by Airflow through the entry point beside this file."""

    name = "astro_release"
    fastapi_apps = ({"app": app, "url_prefix": "/astro", "name": "astro"},)
