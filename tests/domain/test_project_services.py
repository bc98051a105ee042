from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from astro_cli.domain.airflow import CONTAINER, Site
from astro_cli.domain.project_services import (
    PlacedService,
    ProjectService,
    address_url,
    read_services,
    seed_hash,
    task_environment,
)
from astro_cli.domain.settings import load_settings
from astro_cli.foundation.errors import ProjectError

LOOPBACK = Site("/h", "/p", "127.0.0.1", 8080, "sqlite://", services_on_loopback=True)
SECRETS = {"warehouse": "s3cret/!"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / ".astro").mkdir()
    (tmp_path / "seeds").mkdir()
    return tmp_path


def read(root: Path, services: str) -> tuple[ProjectService, ...]:
    text = f"project:\n  id: abcdef\n  name: shop\n{services}"
    (root / ".astro/config.yaml").write_text(text)
    load_settings({}, project_root=root)  # which reads the same file, must let it pass
    return read_services(root)


def placed(service: ProjectService, offset: int = 0) -> PlacedService:
    return PlacedService(service, {inside: inside + offset for inside in service.ports})


def connection(service: ProjectService, name: str, site: Site, offset: int = 0) -> dict[str, object]:
    found: dict[str, object] = json.loads(
        task_environment([placed(service, offset)], site, SECRETS)[f"AIRFLOW_CONN_{name}"]
    )
    return found


def test_a_project_without_services_has_none(root: Path):
    assert read(root, "") == ()
    assert read(root, "services:\n") == ()


def test_the_name_alone_is_enough_for_most(root: Path):
    services = read(root, "services:\n  s3:\n  warehouse:\n  mail:\n  redis:\n")
    assert [(service.name, dict(service.connections)) for service in services] == [
        ("s3", {"aws_default": ""}),
        ("warehouse", {"warehouse": ""}),
        ("mail", {"smtp_default": ""}),
        ("redis", {"redis_default": ""}),
    ]


def test_tasks_find_a_service_by_its_name_in_docker_and_on_its_port_elsewhere(root: Path):
    (service,) = read(root, "services:\n  http-stub:\n    fixtures: seeds\n    connections: {api: /v1/}\n")
    assert connection(service, "API", CONTAINER)["host"] == "http://http-stub:8180/v1"
    assert connection(service, "API", LOOPBACK, 5)["host"] == "http://127.0.0.1:8185/v1"


def test_the_warehouse_is_in_the_sandboxes_postgres(root: Path):
    (service,) = read(root, "services:\n  warehouse:\n    connections: [redshift]\n")
    told = connection(service, "REDSHIFT", CONTAINER)
    assert (told["host"], told["port"], told["password"]) == ("postgres", 5432, "s3cret/!")
    assert connection(service, "REDSHIFT", LOOPBACK)["port"] == 5442
    url = address_url(placed(service), LOOPBACK, "s3cret/!")
    assert url == "postgresql://warehouse:s3cret/%21@127.0.0.1:5442/warehouse"


def test_a_service_of_ones_own_is_reached_by_the_uri_it_gives(root: Path):
    text = (
        "services:\n  prices:\n    command: [serve, '{port}', '{other}']\n    ports: [9000, 9001]\n"
        "    connections: {prices: 'http://{host}:{port_9001}/x'}\n"
    )
    (service,) = read(root, text)
    found = task_environment([placed(service, 10)], LOOPBACK, SECRETS)
    assert found["AIRFLOW_CONN_PRICES"] == "http://127.0.0.1:9011/x"
    inside = task_environment([placed(service, 10)], CONTAINER, SECRETS)
    assert inside["AIRFLOW_CONN_PRICES"] == "http://prices:9001/x"
    assert service.command == ("serve", "{port}", "{other}")


@pytest.mark.parametrize(
    ("services", "message"),
    [
        ("  s4:\n    buckets: [a]\n", '6: unknown key "buckets"'),
        ("  s3:\n    bucket: [a]\n", '6: unknown key "bucket"'),
        ("  s3:\n    buckets: [UP]\n", '6: "UP" cannot name a bucket'),
        ("  s3:\n    seed: ../up\n", "6: services.s3.seed is a path in the project"),
        ("  s3:\n    seed: nowhere\n", "services.s3: nowhere does not exist"),
        ("  s3:\n    port: 70000\n", "6: services.s3.port must be at most 65535"),
        ("  http-stub:\n", 'missing key "fixtures"'),
        ("  postgres:\n", '"postgres" is the name of one of the sandbox'),
        ("  Mine:\n    image: x\n", '"Mine" cannot name a service'),
        ("  mine:\n    ports: [1]\n", "services.mine needs an image or a command"),
        ("  mine:\n    image: x\n    ports: [1, 1]\n", "names a port twice"),
        ("  mine:\n    image: x\n    port: 5\n", "7: port is where the first of"),
        ("  mine:\n    image: x\n    data: here\n", "must be a folder in the container"),
        ("  mine:\n    image: x\n    health: {http: ready}\n", "health asks a port that is not"),
        ("  mine:\n    image: x\n    ports: [1]\n    health: {http: ready}\n", "health.http is a path"),
        ("  mine:\n    command: []\n", "6: a command needs at least the program"),
        ("  mail:\n    connections: [a b]\n", '6: "a b" cannot be the id'),
        (
            "  mail:\n    connections: [x]\n  redis:\n    connections: [X]\n",
            "that of the service mail already",
        ),
        ("  mail:\n    port: 5000\n  redis:\n    port: 5000\n", "port 5000 is that of the service mail"),
        ("  mail:\n    port: 5000\n    page_port: 5000\n", "7: port and page_port are the same"),
    ],
)
def test_what_is_wrong_is_refused_with_its_line(root: Path, services: str, message: str):
    with pytest.raises(ProjectError) as failed:
        read(root, f"services:\n{services}")
    assert str(failed.value).startswith(".astro/config.yaml:")
    assert message in str(failed.value)


def test_a_near_miss_of_a_kind_is_named(root: Path):
    with pytest.raises(ProjectError) as failed:
        read(root, "services:\n  http-stubs:\n")
    assert failed.value.hint == "did you mean `http-stub`?"


def test_the_hash_of_a_seed_follows_its_files_and_buckets(root: Path):
    (service,) = read(root, "services:\n  s3:\n    seed: seeds\n    buckets: [one]\n")
    first = seed_hash(root, service)
    (root / "seeds/b").mkdir()
    (root / "seeds/b/x").write_text("1")
    second = seed_hash(root, service)
    (root / "seeds/b/x").write_text("2")
    assert len({first, second, seed_hash(root, service)}) == 3
    assert seed_hash(root, service) != seed_hash(root, replace(service, buckets=("two",)))
