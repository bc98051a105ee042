from __future__ import annotations

from dataclasses import replace

import pytest

from astro_cli.runtime.plan import Act, Action, ContainerSpec, Mount, ObservedContainer, PrivateFile, plan

AIRFLOW = ContainerSpec(
    name="airflow",
    image="sha256:1",
    command=("run",),
    user="1000:0",
    environment={"A": "1"},
    mounts=(Mount("/p/dags", "/opt/airflow/dags"),),
    ports={8080: 8080},
    files=(PrivateFile("/run/astro/environment.json", "{}", 1000),),
    stop_seconds=30,
)
POSTGRES = replace(AIRFLOW, name="postgres", ports={}, files=())


def seen(spec: ContainerSpec, state: str = "running") -> ObservedContainer:
    return ObservedContainer(f"id-{spec.name}", spec.name, spec.config_hash, state)


def test_nothing_is_done_when_everything_runs_as_wanted():
    assert plan([POSTGRES, AIRFLOW], [seen(POSTGRES), seen(AIRFLOW)]) == ()


def test_everything_missing_is_created_in_order():
    assert plan([POSTGRES, AIRFLOW], []) == (Action(Act.CREATE, "postgres"), Action(Act.CREATE, "airflow"))


def test_a_stopped_container_is_started_again():
    assert plan([AIRFLOW], [seen(AIRFLOW, "exited")]) == (Action(Act.START, "airflow", "id-airflow"),)


@pytest.mark.parametrize("state", ["created", "paused", "dead", "removing"])
def test_a_container_in_a_state_nobody_can_trust_is_replaced(state: str):
    assert plan([AIRFLOW], [seen(AIRFLOW, state)]) == (Action(Act.REPLACE, "airflow", "id-airflow"),)


@pytest.mark.parametrize(
    "change",
    [
        {"image": "sha256:2"},
        {"command": ("other",)},
        {"user": "1001:0"},
        {"environment": {"A": "2"}},
        {"mounts": ()},
        {"ports": {8080: 8081}},
        {"files": (PrivateFile("/run/astro/environment.json", '{"B": "1"}', 1000),)},
    ],
)
def test_only_the_container_whose_description_changed_is_replaced(change: dict[str, object]):
    changed = replace(AIRFLOW, **change)
    actions = plan([POSTGRES, changed], [seen(POSTGRES), seen(AIRFLOW)])
    assert actions == (Action(Act.REPLACE, "airflow", "id-airflow"),)


def test_a_container_the_stack_does_not_want_is_removed():
    worker = ObservedContainer("id-worker", "worker", "x", "running")
    assert plan([AIRFLOW], [worker, seen(AIRFLOW)]) == (Action(Act.REMOVE, "worker", "id-worker"),)


def test_a_second_container_of_one_name_is_removed():
    twin = ObservedContainer("id-twin", "airflow", AIRFLOW.config_hash, "running")
    assert plan([AIRFLOW], [seen(AIRFLOW), twin]) == (Action(Act.REMOVE, "airflow", "id-twin"),)


def test_the_content_of_private_files_is_not_in_the_text_of_a_spec():
    spec = replace(AIRFLOW, files=(PrivateFile("/run/astro/password", "canary", 999),))
    assert "canary" not in repr(spec)
