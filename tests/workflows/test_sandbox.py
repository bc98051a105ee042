from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from astro_cli.domain.project import Project
from astro_cli.domain.services import ServiceStatus, Stack
from astro_cli.domain.settings import load_settings
from astro_cli.foundation.errors import AstroError, Interrupted, LockedError, ProjectError, UnhealthyError
from astro_cli.runtime.engine import Change, LogLine, PortTakenError
from astro_cli.workflows.sandbox import Sandbox, StartOptions
from tests.fakes import FakeAirflow, FakeEngine, SilentReport, airflow_answers, healthy_services, serve
from tests.free_port import free_port

CREATED = (Change("create", "container airflow"),)
WAIT = StartOptions(wait_seconds=60)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    (folder / ".astro").mkdir(parents=True)
    (folder / "dags").mkdir()
    (folder / ".astro/config.yaml").write_text("project:\n  id: abcdef0123\n  name: shop\n")
    return folder


def sandbox(root: Path, engine: FakeEngine, **environ: str) -> Sandbox:
    known = {"HOME": os.environ["HOME"], **environ}
    project = Project(root=root, project_id="abcdef0123", name="shop")
    return Sandbox(project, engine, load_settings(known, project_root=root), known)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (".env", "not a line\n"),
        (".env", "A=${NOT_SET_ANYWHERE}\n"),
        ("airflow_settings.yaml", "airflow:\n  pool: []\n"),
        ("airflow_settings.yaml", "airflow: [\n"),
    ],
)
def test_a_file_that_is_wrong_stops_a_start_before_the_engine_is_asked(root: Path, file: str, text: str):
    (root / file).write_text(text)
    engine = FakeEngine()
    with pytest.raises(ProjectError, match=file):
        sandbox(root, engine).start(WAIT, SilentReport())
    assert engine.calls == []


def test_a_project_without_dags_is_refused(root: Path):
    (root / "dags").rmdir()
    with pytest.raises(ProjectError, match="dags"):
        sandbox(root, FakeEngine()).start(WAIT, SilentReport())


def test_a_missing_environment_file_is_an_error_that_names_it(root: Path):
    options = replace(WAIT, env_files=(root / "prod.env",))
    with pytest.raises(ProjectError, match=r"prod\.env"):
        sandbox(root, FakeEngine()).start(options, SilentReport())


def test_a_healthy_sandbox_without_changes_is_left_alone(root: Path):
    engine = FakeEngine(services=healthy_services(), port=8099)
    result = sandbox(root, engine).start(WAIT, SilentReport())
    assert (result.changes, result.healthy, result.port) == ((), True, 8099)
    assert "tidy" not in engine.calls


def test_a_start_waits_for_this_airflow_then_writes_the_objects_once(root: Path):
    (root / "airflow_settings.yaml").write_text(
        "airflow:\n  pools:\n    - pool_name: small\n      pool_slot: 2\n"
    )
    port = free_port()
    engine = FakeEngine(services=healthy_services(), changes=CREATED)
    options = replace(WAIT, port=port)
    fake = FakeAirflow(airflow_answers())
    with serve(fake, port):
        engine.port = port  # the server above stands for the sandbox's own
        assert sandbox(root, engine).start(options, SilentReport()).healthy
        assert [path for path, _ in fake.patched] == ["/api/v2/pools"]
        sandbox(root, engine).start(options, SilentReport())
        assert len(fake.patched) == 1
        (root / "airflow_settings.yaml").write_text(
            "airflow:\n  pools:\n    - pool_name: small\n      pool_slot: 3\n"
        )
        sandbox(root, engine).start(options, SilentReport())
        assert len(fake.patched) == 2
    assert "tidy" in engine.calls


def test_a_service_that_died_ends_the_wait_with_its_last_lines_and_a_fix(root: Path):
    dead = ServiceStatus("scheduler", "backoff", exit_code=1)
    engine = FakeEngine(
        services=(*healthy_services()[:2], dead),
        changes=CREATED,
        lines=(LogLine("t", "scheduler", "ModuleNotFoundError: No module named 'pandas'"),),
    )
    with pytest.raises(UnhealthyError) as caught:
        sandbox(root, engine).start(WAIT, SilentReport())
    assert "`scheduler` ended with exit code 1" in caught.value.message
    assert "`pandas` is not installed" in str(caught.value.hint)
    assert caught.value.details == ("ModuleNotFoundError: No module named 'pandas'",)


def test_a_database_of_a_newer_airflow_is_refused(root: Path):
    engine = FakeEngine(services=healthy_services(), changes=CREATED, database="newer")
    with pytest.raises(ProjectError, match="newer Airflow"):
        sandbox(root, engine).start(WAIT, SilentReport())


def test_when_the_time_is_up_the_late_services_are_named(root: Path):
    starting = tuple(replace(service, health="starting") for service in healthy_services())
    engine = FakeEngine(services=starting, changes=CREATED)
    with pytest.raises(UnhealthyError, match="postgres, api-server"):
        sandbox(root, engine).start(replace(WAIT, wait_seconds=0.1), SilentReport())


def test_a_port_that_is_taken_is_an_error_that_names_the_holder(root: Path):
    engine = FakeEngine()
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(AstroError, match="grafana"):
        sandbox(root, engine).start(replace(WAIT, port=server.getsockname()[1]), SilentReport())
    assert "up" not in engine.calls


def test_a_port_lost_in_a_race_is_replaced_by_the_next_one(root: Path):
    engine = FakeEngine(services=healthy_services())
    first = FakeEngine()
    sandbox(root, first).start(StartOptions(), SilentReport())
    wanted = first.stacks[0].port
    engine.up_errors.append(PortTakenError(wanted))
    result = sandbox(root, engine).start(StartOptions(), SilentReport())
    assert result.port != wanted


def test_the_port_is_remembered(root: Path):
    with socket.create_server(("127.0.0.1", 8080)) if _free(8080) else socket.socket():
        engine = FakeEngine()
        first = sandbox(root, engine).start(StartOptions(), SilentReport()).port
    assert sandbox(root, FakeEngine()).start(StartOptions(), SilentReport()).port == first


def _free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        (FakeEngine(prepare_error=KeyboardInterrupt()), "nothing was started"),
        (FakeEngine(up_errors=[KeyboardInterrupt()]), "partly started"),
    ],
)
def test_ctrl_c_says_in_what_state_it_leaves_the_sandbox(root: Path, engine: FakeEngine, words: str):
    with pytest.raises(Interrupted) as caught:
        sandbox(root, engine).start(WAIT, SilentReport())
    assert words in str(caught.value.hint)


def test_a_second_run_on_one_sandbox_is_refused(root: Path):
    first = sandbox(root, FakeEngine())
    with first.state.lock("start"), pytest.raises(LockedError, match="start"):
        sandbox(root, FakeEngine()).stop(SilentReport())


def test_a_reserved_variable_in_the_environment_file_is_warned_about(root: Path):
    (root / ".env").write_text("AIRFLOW__API__PORT=9999\n")
    report = SilentReport()
    sandbox(root, FakeEngine()).start(StartOptions(), report)
    assert "AIRFLOW__API__PORT" in report.warnings[0]


def test_folders_that_exist_are_shown_to_airflow(root: Path):
    (root / "include").mkdir()
    engine = FakeEngine()
    sandbox(root, engine).start(StartOptions(), SilentReport())
    assert engine.stacks[0].folders == ("dags", "include")


def test_an_executor_that_ran_one_task_at_a_time_still_does_and_one_that_is_gone_is_refused(root: Path):
    (root / ".env").write_text(
        "AIRFLOW__CORE__EXECUTOR=airflow.executors.sequential_executor.SequentialExecutor\n"
    )
    engine, report = FakeEngine(), SilentReport()
    sandbox(root, engine).start(StartOptions(), report)
    given = engine.stacks[0].private
    assert (given["AIRFLOW__CORE__EXECUTOR"], given["AIRFLOW__CORE__PARALLELISM"]) == ("LocalExecutor", "1")
    assert any("one task at a time" in text for text in report.warnings)
    (root / ".env").write_text("AIRFLOW__CORE__EXECUTOR=MesosExecutor\n")
    with pytest.raises(ProjectError, match="no MesosExecutor") as refused:
        sandbox(root, FakeEngine()).start(StartOptions(), SilentReport())
    assert "Celery, Kubernetes or Edge" in str(refused.value.hint)


def test_metrics_are_collected_where_asked_for_and_then_until_told_otherwise(root: Path):
    def started(**environ: str) -> Stack:
        engine = FakeEngine()
        sandbox(root, engine, **environ).start(StartOptions(), SilentReport())
        return engine.stacks[0]

    def sends(stack: Stack) -> bool:
        assert bool(stack.added) == ("AIRFLOW__METRICS__STATSD_ON" in stack.environment)
        return bool(stack.added)

    assert not sends(started())
    first = started(ASTRO_SANDBOX_METRICS="on")
    assert sends(first)
    (metrics,) = first.added
    assert first.environment["AIRFLOW__METRICS__STATSD_HOST"] == "airflow"
    again = started()
    assert sends(again)
    assert again.added[0].ports == metrics.ports
    assert not sends(started(ASTRO_SANDBOX_METRICS="off"))
    assert not sends(started())


def test_settings_of_ones_own_for_metrics_win(root: Path):
    (root / ".env").write_text("AIRFLOW__METRICS__STATSD_HOST=mine.example\n")
    engine = FakeEngine()
    sandbox(root, engine, ASTRO_SANDBOX_METRICS="on").start(StartOptions(), SilentReport())
    assert "AIRFLOW__METRICS__STATSD_HOST" not in engine.stacks[0].environment
    assert engine.stacks[0].private["AIRFLOW__METRICS__STATSD_HOST"] == "mine.example"


def test_a_service_of_the_project_reaches_tasks_and_keeps_its_port(root: Path):
    with (root / ".astro/config.yaml").open("a") as config:
        config.write("services:\n  redis:\n")
    engine = FakeEngine()
    for _ in range(2):
        sandbox(root, engine).start(StartOptions(), SilentReport())
    first, second = (stack.added[0] for stack in engine.stacks)
    assert first == second
    assert engine.stacks[0].private["ASTRO_SERVICE_REDIS_URL"] == "redis://redis:6379"


def test_a_services_port_lost_in_a_race_is_replaced_by_the_next_one(root: Path):
    with (root / ".astro/config.yaml").open("a") as config:
        config.write("services:\n  redis:\n")
    first = FakeEngine()
    sandbox(root, first).start(StartOptions(), SilentReport())
    (port,) = first.stacks[0].added[0].ports.values()
    engine = FakeEngine(up_errors=[PortTakenError(port)])
    sandbox(root, engine).start(StartOptions(), SilentReport())
    assert [port] != list(engine.stacks[1].added[0].ports.values())
    assert engine.stacks[1].port == engine.stacks[0].port


def test_what_hides_a_services_connection_or_is_hidden_by_it_is_told(root: Path):
    with (root / ".astro/config.yaml").open("a") as config:
        config.write("services:\n  redis:\n  mail:\n")
    (root / ".env").write_text("AIRFLOW_CONN_REDIS_DEFAULT=redis://elsewhere\n")
    (root / "airflow_settings.yaml").write_text(
        "airflow:\n  connections:\n    - conn_id: smtp_default\n      conn_type: smtp\n"
    )
    engine, report = FakeEngine(), SilentReport()
    sandbox(root, engine).start(StartOptions(), report)
    assert engine.stacks[0].private["AIRFLOW_CONN_REDIS_DEFAULT"] == "redis://elsewhere"
    told = [text for text in report.warnings if "service" in text]
    assert any("AIRFLOW_CONN_REDIS_DEFAULT" in text for text in told)
    assert any("smtp_default leads to the service mail" in text for text in told)
