"""Where the logs of a deployment with many machines lie: each has a server for those of all that ran on it."""

from __future__ import annotations

import os


def log_host() -> str:
    """What Airflow writes down as the host of a task, and later asks for its log."""
    return os.environ["ASTRO_LOG_HOST"]
