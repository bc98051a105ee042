from __future__ import annotations

import pytest

from astro_cli.airflow_api import AirflowApi
from astro_cli.foundation.errors import AstroError, UnhealthyError
from tests.fakes import FakeAirflow, airflow_answers, serve


def ready(answers: dict[str, object]) -> bool:
    with serve(FakeAirflow(answers)) as url, AirflowApi(url) as api:
        return api.is_ready(instance_name="shop", version="3.3.2")


def test_our_own_healthy_airflow_is_ready():
    assert ready(airflow_answers())


@pytest.mark.parametrize(
    "answers",
    [
        airflow_answers(name="another project"),
        airflow_answers(version="3.2.0"),
        airflow_answers(scheduler="unhealthy"),
        airflow_answers(triggerer="starting"),
        {},
        {"/api/v2/monitor/health": (200, b"<html>Grafana</html>")},
        {"/api/v2/monitor/health": []},
        {"/api/v2/monitor/health": (500, {"detail": "no"})},
        {**airflow_answers(), "/ui/config": (401, {"detail": "log in"})},
        {**airflow_answers(), "/api/v2/version": "3.3.2"},
    ],
)
def test_whatever_else_answers_on_the_port_is_not_ready(answers: dict[str, object]):
    assert not ready(answers)


def test_nobody_there_is_not_ready():
    with AirflowApi("http://localhost:1") as api:
        assert not api.is_ready(instance_name="shop", version="3.3.2")


def test_objects_are_written_in_one_request_that_overwrites():
    fake = FakeAirflow({})
    with serve(fake) as url, AirflowApi(url) as api:
        api.upsert("pools", [{"name": "small", "slots": 2}])
        api.upsert("variables", [])
    ((path, body),) = fake.patched
    assert path == "/api/v2/pools"
    assert body["actions"] == [
        {"action": "create", "action_on_existence": "overwrite", "entities": [{"name": "small", "slots": 2}]}
    ]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            {"create": {"success": [], "errors": [{"error": "slots must be positive"}]}},
            "slots must be positive",
        ),
        ((422, {"detail": "bad pool"}), "bad pool"),
        ((500, b"oops"), "HTTP 500"),
    ],
)
def test_a_refusal_is_an_error_in_airflows_own_words(answer: object, words: str):
    fake = FakeAirflow({"PATCH /api/v2/pools": answer})
    with serve(fake) as url, AirflowApi(url) as api, pytest.raises(AstroError, match=words):
        api.upsert("pools", [{"name": "small"}])


def test_a_lost_connection_while_writing_is_an_error():
    with AirflowApi("http://localhost:1") as api, pytest.raises(UnhealthyError, match="lost the connection"):
        api.upsert("pools", [{"name": "small"}])
