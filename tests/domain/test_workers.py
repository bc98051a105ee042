"""Celery workers as the project's file and the terminal describe them, and the shape of the sandbox they make."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from astro_cli.domain.project import Project
from astro_cli.domain.services import ServiceStatus, Stack
from astro_cli.domain.settings import load_settings
from astro_cli.domain.workers import WorkerGroup, member_number, read_workers, wanted_counts, written_counts
from astro_cli.foundation.errors import ProjectError, UsageError
from astro_cli.runtime.docker_workers import containers
from astro_cli.runtime.plan import ContainerSpec
from astro_cli.workflows.sandbox import Sandbox, StartOptions
from tests.fakes import FakeEngine, SilentReport

HEAD = "project: {id: abcdef0123, name: shop}\n"
CELERY = {"ASTRO_SANDBOX_EXECUTOR": "celery"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    (folder / ".astro").mkdir(parents=True)
    (folder / "dags").mkdir()
    (folder / ".astro/config.yaml").write_text(HEAD)
    return folder


def sandbox(root: Path, engine: FakeEngine, **environ: str) -> Sandbox:
    known = {"HOME": os.environ["HOME"], **environ}
    project = Project(root=root, project_id="abcdef0123", name="shop")
    return Sandbox(project, engine, load_settings(known, project_root=root), known)


def started(root: Path, workers: int | None = None, **environ: str) -> Stack:
    engine = FakeEngine()
    sandbox(root, engine, **environ).start(StartOptions(workers=workers), SilentReport())
    return engine.stacks[-1]


# arguments


def test_each_group_has_its_number():
    assert wanted_counts(["worker=3", "heavy=32"]) == {"worker": 3, "heavy": 32}


@pytest.mark.parametrize(
    "word",
    [
        *("worker", "=3", "worker=", "worker=0", "worker=-1", "worker=33", "worker=1000000", "worker=x"),
        *(
            "worker=1.5",
            "worker=٣",
            "worker=+3",
            "worker= 3",
            "Worker=3",
            "wor ker=3",
            "worker=" + "9" * 5000,
        ),
    ],
)
def test_another_number_or_form_is_refused_with_an_example(word: str):
    with pytest.raises(UsageError) as refused:
        wanted_counts([word])
    assert "astro airflow scale worker=3" in (refused.value.hint or "")


def test_a_group_named_twice_is_refused():
    with pytest.raises(UsageError, match="twice"):
        wanted_counts(["worker=1", "worker=2"])


def test_a_worker_is_told_from_a_worker_of_a_group_with_a_longer_name():
    assert [
        member_number(name, "worker") for name in ("worker-12", "worker-gpu-1", "broker", "worker-x")
    ] == [*(12, 0, 0, 0)]
    assert member_number("worker-gpu-1", "worker-gpu") == 1


# the file


def test_without_a_word_in_the_file_there_is_one_group_with_as_many_workers_as_last_time(root: Path):
    assert read_workers(root, count=None, known={}) == (WorkerGroup(),)
    assert read_workers(root, count=None, known={"worker": 3}) == (WorkerGroup(count=3),)
    assert read_workers(root, count=2, known={"worker": 3})[0].members == ("worker-1", "worker-2")


def test_the_file_has_groups_with_queues_and_its_count_wins_over_the_last_one(root: Path):
    (root / ".astro/config.yaml").write_text(
        f"{HEAD}workers:\n  worker: {{concurrency: 8}}\n  heavy: {{count: 2, queues: [heavy, gpu, heavy]}}\n"
    )
    groups = read_workers(root, count=None, known={"worker": 5, "heavy": 5})
    assert groups == (
        WorkerGroup(count=5, concurrency=8),
        WorkerGroup("heavy", count=2, queues=("heavy", "gpu")),
    )
    assert written_counts(root) == {"heavy": 2}
    load_settings({}, project_root=root)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("workers: 3\n", "mapping"),
        ("workers: {Worker: {}}\n", "cannot name a group"),
        ("workers: {scheduler: {}}\n", "one of astro's services"),
        ("workers: {broker: {}}\n", "one of astro's services"),
        ("workers: {worker: {conut: 2}}\n", "conut"),
        ("workers: {worker: {count: 0}}\n", "at least 1"),
        ("workers: {worker: {count: 33}}\n", "at most 32"),
        ("workers: {worker: {concurrency: many}}\n", "whole number"),
        ("workers: {worker: {queues: heavy}}\n", "list"),
        ("workers: {worker: {queues: ['a,b']}}\n", "cannot name a queue"),
        ("workers: {worker: {queues: [--purge]}}\n", "cannot name a queue"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_its_line(root: Path, text: str, words: str):
    (root / ".astro/config.yaml").write_text(HEAD + text)
    with pytest.raises(ProjectError, match=words) as refused:
        read_workers(root, count=None, known={})
    assert "config.yaml:2" in refused.value.message


def test_a_count_for_a_group_that_the_file_does_not_have_is_refused(root: Path):
    (root / ".astro/config.yaml").write_text(f"{HEAD}workers: {{heavy: {{}}}}\n")
    with pytest.raises(UsageError, match="no group `worker`"):
        read_workers(root, count=2, known={})


# the shape of the sandbox


def test_the_shape_and_the_number_of_workers_stay_until_another_is_asked_for(root: Path):
    first = started(root, workers=2, **CELERY)
    assert [group.count for group in first.workers] == [2]
    assert first.environment["AIRFLOW__CORE__EXECUTOR"] == "CeleryExecutor"
    assert started(root).workers == first.workers
    local = started(root, ASTRO_SANDBOX_EXECUTOR="local")
    assert local.workers == ()
    assert local.environment["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    assert not [name for name in (*local.environment, *local.private) if "CELERY" in name]
    assert started(root).workers == ()
    assert started(root, **CELERY).workers == first.workers, "the number is remembered meanwhile"


def test_workers_are_refused_where_there_can_be_none(root: Path):
    with pytest.raises(UsageError, match="only the Celery shape") as refused:
        started(root, workers=2)
    assert "--executor celery" in (refused.value.hint or "")
    engine = FakeEngine(name="standalone", runs_workers=False)
    with pytest.raises(UsageError, match="the standalone engine runs no Celery workers") as refused:
        sandbox(root, engine, **CELERY).start(StartOptions(), SilentReport())
    assert "--executor local" in (refused.value.hint or "")
    assert engine.calls == []


@pytest.mark.parametrize(
    ("executor", "environ", "words", "way_out"),
    [
        ("CeleryExecutor", {}, "no Celery workers", "--executor celery"),
        (
            "airflow.providers.celery.executors.celery_executor.CeleryExecutor",
            {},
            "no Celery workers",
            "celery",
        ),
        ("LocalExecutor,CeleryExecutor", {}, "no Celery workers", "--executor celery"),
        ("LocalExecutor", CELERY, "is to run Celery workers", "--executor local"),
        ("SequentialExecutor", CELERY, "is to run Celery workers", "--executor local"),
        ("KubernetesExecutor", {}, "no cluster to run pods in", "LocalExecutor"),
        ("CeleryExecutor,KubernetesExecutor", CELERY, "no cluster to run pods in", "remove that line"),
    ],
)
def test_an_executor_in_the_environment_file_that_contradicts_the_shape_is_refused(
    root: Path, executor: str, environ: dict[str, str], words: str, way_out: str
):
    (root / ".env").write_text(f"AIRFLOW__CORE__EXECUTOR={executor}\n")
    with pytest.raises(ProjectError, match=words) as refused:
        started(root, **environ)
    assert way_out in (refused.value.hint or "")


def test_the_broker_of_another_place_is_never_used(root: Path):
    (root / ".env").write_text("AIRFLOW__CELERY__BROKER_URL=redis://production/0\n")
    stack = started(root, **CELERY)
    assert stack.private["AIRFLOW__CELERY__BROKER_URL"] == f"redis://:{stack.broker_password}@broker:6379/0"


def test_no_secret_is_in_the_environment_or_the_arguments_of_a_container(root: Path):
    stack = started(root, workers=2, **CELERY)
    airflow = ContainerSpec("airflow", "image", (), "1000:0", stack.environment, (), {8080: 8080}, (), 20)
    made = containers(stack, airflow, "redis")
    assert [each.name for each in made] == ["broker", "worker-1", "worker-2"]
    secrets = (stack.broker_password, stack.database_password)
    for each in made:
        seen = repr((each.command, each.environment, each.marks))
        assert not [secret for secret in secrets if secret in seen]
        assert each.ports == {}
        assert each.user == "1000:0"
        assert stack.broker_password in each.files[0].content
    assert made[1].config_hash == made[2].config_hash, "so `scale` can copy one"


# scale


def test_scaling_without_workers_is_refused_with_the_way_to_them(root: Path):
    engine = FakeEngine(services=(ServiceStatus("scheduler", "running", "healthy"),))
    known = sandbox(root, engine)
    known.start(StartOptions(), SilentReport())
    with pytest.raises(UsageError, match="no workers that could be scaled") as refused:
        known.scale({"worker": 2}, SilentReport())
    assert "--executor celery" in (refused.value.hint or "")


def test_a_new_number_holds_for_later_starts_and_a_group_that_is_not_there_is_refused(root: Path):
    engine = FakeEngine(services=(ServiceStatus("worker-1", "running", "healthy", group="worker"),))
    known = sandbox(root, engine, **CELERY)
    known.start(StartOptions(), SilentReport())
    with pytest.raises(UsageError, match="no group `heavy`"):
        known.scale({"heavy": 2}, SilentReport())
    assert known.scale({"worker": 3}, SilentReport()).workers == {"worker": ("worker-1",)}
    assert "scale worker to 3" in engine.calls
    assert [group.count for group in started(root).workers] == [3]


def test_it_says_when_the_file_will_win_again(root: Path):
    (root / ".astro/config.yaml").write_text(f"{HEAD}workers: {{worker: {{count: 2}}}}\n")
    engine = FakeEngine(services=(ServiceStatus("worker-1", "running", "healthy", group="worker"),))
    known = sandbox(root, engine, **CELERY)
    known.start(StartOptions(), SilentReport())
    assert known.scale({"worker": 3}, SilentReport()).written == {"worker": 2}
    assert known.scale({"worker": 2}, SilentReport()).written == {}
