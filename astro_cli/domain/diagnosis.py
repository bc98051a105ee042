"""Turns the last lines of a service that died into the one thing worth trying. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from astro_cli.domain.services import ServiceStatus

_MISSING_MODULE = re.compile(r"(?:ModuleNotFoundError|ImportError): .*?'([\w.]+)'")
_DAMAGED = re.compile(r"PANIC: +could not (?:open file \"global/|locate a valid checkpoint)")
_BAD_SETTING = re.compile(r"AirflowConfigException: (.+)")


def describe_death(service: ServiceStatus) -> str:
    """What happened, as the end of a sentence: `was killed: out of memory`, `ended with exit code 1`."""
    if service.out_of_memory:
        return "was killed by the kernel: out of memory"
    if service.exit_code is not None and service.exit_code < 0:
        return f"was ended by signal {-service.exit_code}"
    return f"ended with exit code {service.exit_code}"


def suggest_fix(service: ServiceStatus, lines: Sequence[str]) -> str:
    """One suggestion, by the first thing in the lines that explains the death."""
    text = "\n".join(lines)
    if service.out_of_memory:
        return "give the engine (or this machine) more memory, or lower `sandbox.parallelism` in .astro/config.yaml"
    if found := _MISSING_MODULE.search(text):
        module = found.group(1).partition(".")[0]
        return f"`{module}` is not installed: add its package to requirements.txt, then `astro airflow start`"
    if found := _BAD_SETTING.search(text):
        return (
            f"a setting is wrong ({found.group(1).strip()}): look for AIRFLOW__… in .env and the Dockerfile"
        )
    if "No space left on device" in text:
        return "the disk is full: free some space (`docker system df` shows what Docker takes)"
    if _DAMAGED.search(text):
        return (
            "the database's files are damaged: begin anew with `astro airflow kill` and `astro airflow start`; "
            "its history is lost"
        )
    if "address already in use" in text.lower():
        return "another program took the port meanwhile: run `astro airflow start` again"
    return f"read the whole log with `astro airflow logs {service.name}`"
