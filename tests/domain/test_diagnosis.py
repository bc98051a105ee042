from __future__ import annotations

import pytest

from astro_cli.domain.diagnosis import describe_death, suggest_fix
from astro_cli.domain.services import ServiceStatus


def dead(**changes: object) -> ServiceStatus:
    return ServiceStatus("scheduler", "backoff", **{"exit_code": 1, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("service", "words"),
    [
        (dead(), "exit code 1"),
        (dead(exit_code=-15), "signal 15"),
        (dead(exit_code=-9, out_of_memory=True), "out of memory"),
    ],
)
def test_a_death_is_described_by_its_cause(service: ServiceStatus, words: str):
    assert words in describe_death(service)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ModuleNotFoundError: No module named 'pandas.core'", "`pandas` is not installed"),
        ("airflow.exceptions.AirflowConfigException: bad executor", "bad executor"),
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("something else", "astro airflow logs scheduler"),
    ],
)
def test_the_suggestion_follows_from_the_last_lines(line: str, words: str):
    assert words in suggest_fix(dead(), ["first", line])
