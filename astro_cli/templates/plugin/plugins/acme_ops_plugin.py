"""Where Airflow finds the plugin. Not needed where the package is installed: it has an entry point for that."""

from acme_ops.plugin import AcmeOpsPlugin

__all__ = ["AcmeOpsPlugin"]
