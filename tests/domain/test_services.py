from __future__ import annotations

from pathlib import Path

import pytest

from astro_cli.domain import airflow
from astro_cli.domain.services import SERVICES, Stack, build_stack, service_names
from astro_cli.foundation.errors import UsageError


def make_stack(**changes: object) -> Stack:
    values = {
        "sandbox_id": "0123456789",
        "project_id": "p",
        "project_name": "shop",
        "root": Path("/projects/shop"),
        "folders": ("dags",),
        "port": 8081,
        "database_port": None,
        "site": airflow.CONTAINER,
        "parallelism": 4,
        "secrets": {"database": "dbpass", "fernet": "f", "jwt": "j", "api": "a"},
        "user_environment": {},
        **changes,
    }
    return build_stack(**values)  # type: ignore[arg-type]


def test_a_sandbox_has_the_five_services():
    assert [spec.name for spec in SERVICES] == [
        "postgres", "api-server", "scheduler", "dag-processor", "triggerer",
    ]  # fmt: skip


def test_webserver_means_the_api_server():
    assert service_names(["webserver", "api-server", "db"]) == ("api-server", "postgres")


def test_an_unknown_service_is_refused_with_the_known_ones():
    with pytest.raises(UsageError) as caught:
        service_names(["worker"])
    assert "worker" in caught.value.message
    assert "dag-processor" in str(caught.value.hint)


def test_a_mistyped_service_gets_the_nearest_one_named():
    with pytest.raises(UsageError) as caught:
        service_names(["shceduler"])
    assert str(caught.value.hint).startswith("did you mean `scheduler`?; choose from: postgres, ")


def test_the_base_url_carries_the_port_on_this_host():
    stack = make_stack(port=9001)
    assert stack.url == "http://localhost:9001"
    assert stack.environment["AIRFLOW__API__BASE_URL"] == "http://localhost:9001"


def test_the_users_environment_wins_over_the_sandboxs_settings():
    stack = make_stack(user_environment={"AIRFLOW__CORE__PARALLELISM": "2", "TOKEN": "x"})
    assert stack.private["AIRFLOW__CORE__PARALLELISM"] == "2"
    assert "AIRFLOW__CORE__PARALLELISM" not in stack.environment
    assert stack.private["TOKEN"] == "x"


def test_the_users_environment_cannot_move_the_database_away():
    stack = make_stack(user_environment={"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite://"})
    assert stack.private["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].startswith(
        "postgresql+psycopg2://airflow:dbpass@"
    )


def test_no_secret_is_among_the_plain_settings_or_in_the_text_of_a_stack():
    stack = make_stack(secrets={name: f"canary-{name}" for name in ("database", "fernet", "jwt", "api")})
    assert "canary" not in str(dict(stack.environment))
    assert "canary" not in repr(stack)
