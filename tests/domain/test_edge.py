"""Machines outside of a deployment, as its configuration declares them."""

from __future__ import annotations

from pathlib import Path

import pytest

from astro_cli.domain.deployments import Deployment, Host, read_deployments
from astro_cli.domain.edge import EdgeGroup, machine_name, machine_of, release_of, worker_name
from astro_cli.foundation.errors import ProjectError

HEAD = "project:\n  id: abcdef123456\n  name: shop\ndeployments:\n  prod:\n"
HOST = "host: ssh://vm\npublish: {url: 'https://airflow.example/'}\n"


def read(tmp_path: Path, fields: str) -> Deployment:
    (tmp_path / ".astro").mkdir(exist_ok=True)
    text = "".join(f"    {line}\n" for line in fields.splitlines())
    (tmp_path / ".astro/config.yaml").write_text(HEAD + text)
    return read_deployments(tmp_path)["prod"]


def test_a_group_is_a_name_and_its_queue_is_called_like_it(tmp_path: Path):
    made = read(tmp_path, f"{HOST}edge:\n  onsite:\n  lab: {{}}")
    assert made.edge == (EdgeGroup("onsite", ("onsite",)), EdgeGroup("lab", ("lab",)))


def test_every_field_is_understood_and_no_address_goes_to_the_target(tmp_path: Path):
    made = read(
        tmp_path,
        f"{HOST}secrets: [A, B]\nedge:\n  onsite:\n    queues: [plc, camera]\n    concurrency: 2\n"
        "    hosts: [ssh://ops@plant-1.example:2222, unix:///run/docker.sock]\n    secrets: [B]\n"
        "    authority: certs/ca.pem",
    )
    assert made.edge == (
        EdgeGroup(
            "onsite",
            ("plc", "camera"),
            2,
            (
                Host("ssh://ops@plant-1.example:2222", "ops@plant-1.example", 2222),
                Host("unix:///run/docker.sock", socket="/run/docker.sock"),
            ),
            ("B",),
            "certs/ca.pem",
        ),
    )
    assert made.on_target()["edge"] == {
        "onsite": {"queues": ["plc", "camera"], "concurrency": 2, "secrets": ["B"]}
    }


def test_a_deployment_without_is_what_it_was(tmp_path: Path):
    assert "edge" not in read(tmp_path, HOST).on_target()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("host: ssh://vm\nedge: {onsite: {}}", "edge needs `publish: {url: …}`"),
        (f"{HOST}edge: {{}}", "must name a group of machines"),
        (f"{HOST}edge: {{onsite: {{queues: []}}}}", "must name a queue"),
        (f"{HOST}edge: {{onsite: {{queues: [default]}}}}", "is served by the deployment itself already"),
        (f"{HOST}edge: {{a: {{queues: [x]}}, b: {{queues: [x]}}}}", "is served by the machines `a` already"),
        (
            f"{HOST}executor: celery\nworkers: {{gpu: {{queues: [gpu]}}}}\nedge: {{gpu: {{}}}}",
            "is served by the workers `gpu` already",
        ),
        (f"{HOST}edge: {{onsite: {{secrets: [TOKEN]}}}}", "TOKEN is none of the deployment's `secrets`"),
        (f"{HOST}edge: {{On Site: {{}}}}", "cannot name a group of machines"),
        (f"{HOST}edge: {{onsite: {{hosts: [plant1]}}}}", "must be the address of a host"),
        (f"{HOST}edge: {{onsite: {{hosts: [ssh://a@vm, ssh://b@vm]}}}}", "would be called vm"),
        (f"{HOST}edge: {{onsite: {{count: 2}}}}", "count"),
        ("target: kubernetes\nregistry: r.example/a/b\nedge: {onsite: {}}", "edge"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, fields: str, words: str):
    with pytest.raises(ProjectError) as error:
        read(tmp_path, fields)
    assert words in error.value.message
    assert ".astro/config.yaml:" in error.value.message


def test_a_worker_is_called_by_group_machine_and_release():
    name = worker_name("onsite", machine_of(Host("ssh://ops@10.0.0.7:2222", "ops@10.0.0.7", 2222)), 12)
    assert name == "onsite-10-0-0-7-2222-12"
    assert release_of(name) == 12
    assert release_of("somebody-elses") is None
    assert machine_of(Host("unix:///run/docker.sock", socket="/run/docker.sock")) == "here"


def test_the_longest_name_is_one_that_airflow_keeps_and_a_container_may_have():
    assert len(worker_name("g" * 31, machine_name("Plant 1, " + "long" * 20), 999_999)) <= 63
    assert machine_name("Plant 1, hall B") == "plant-1-hall-b"
    assert machine_name("…") == "machine"
