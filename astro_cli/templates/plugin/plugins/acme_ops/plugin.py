"""The plugin: what Airflow is to know of. Hooks and operators are not here, DAGs simply import them.

Every process of Airflow imports this file, each task's included, so it must be light.
"""

from airflow.plugins_manager import AirflowPlugin

from acme_ops import listener
from acme_ops.macros import weekday


async def app(scope, receive, send):
    """The API, imported with the first request: its imports would cost every task nearly a second."""
    from acme_ops.api import app as api

    await api(scope, receive, send)


class AcmeOpsPlugin(AirflowPlugin):
    """Read once when a service starts: after a change, `astro airflow restart`."""

    name = "acme_ops"
    fastapi_apps = [{"app": app, "url_prefix": "/ops", "name": "Acme operations"}]
    external_views = [
        {
            "name": "Stock",
            "href": "/ops/",
            "destination": "nav",  # the menu on the left; a page inside of Airflow's
            "url_route": "stock",  # must be unique: of two, the second is dropped with only a line in the log
        }
    ]
    listeners = [listener]
    macros = [weekday]
