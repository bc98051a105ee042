"""Releases of every shape, as the pure tests render them."""

from __future__ import annotations

import json
from typing import Any

from astro_cli.deploy import stack
from astro_cli.deploy.kubernetes import objects as rendered
from astro_cli.domain.deployments import CELERY, KUBERNETES, Deployment, Publish, Resources, Storage
from astro_cli.domain.releases import Release
from astro_cli.domain.workers import WorkerGroup

NAMES = stack.Names("abcdef123456", "My Shop!", "prod")
BUNDLED = {
    role: f"my-shop-prod-{role}-1"
    for role in ("keys", "connection", "environment", "login", "database", "address")
}
QUEUED = {**BUNDLED, "broker": "my-shop-prod-broker-1", "broker-config": "my-shop-prod-broker-config-1"}
OWN = {role: name for role, name in BUNDLED.items() if role != "database"}
PLAIN = Deployment("prod", (), target=KUBERNETES, registry="registry.example:5000/team/shop")
TASKS = Deployment("prod", (), target=KUBERNETES, registry="r.example/shop", executor=KUBERNETES)
WORKERS = Deployment(
    "prod",
    (),
    target=KUBERNETES,
    registry="r.example/shop",
    executor=CELERY,
    workers=(WorkerGroup("worker", 2, 4), WorkerGroup("heavy", 1, 1, ("heavy", "slow"))),
    resources={"heavy": Resources(memory=2 * 1024**3)},
    drain=90,
)
FULL = Deployment(
    "prod",
    (),
    target=KUBERNETES,
    registry="r.example/shop",
    registry_authority="ca.pem",
    executor=KUBERNETES,
    replicas={"api-server": 3, "scheduler": 2},
    resources={"scheduler": Resources(memory=2 * 1024**3, cpus=1.5), "postgres": Resources(memory=1024**3)},
    drain=90,
    env={"ENVIRONMENT": "production"},
    secrets=("TOKEN",),
    storage=Storage("fast", "20Gi", "shared"),
    publish=Publish(
        url="https://airflow.example", certificate="secret:TLS", service="LoadBalancer", ingress="nginx"
    ),
)
SHAPES = {
    "plain": (PLAIN, BUNDLED),
    "own database": (PLAIN, OWN),
    "tasks": (TASKS, BUNDLED),
    "workers": (WORKERS, QUEUED),
    "full": (FULL, BUNDLED),
}


def release(deployment: Deployment = PLAIN, secrets: dict[str, str] = BUNDLED) -> Release:
    return Release(
        id=7,
        time="",
        image="r.example/shop:1@sha256:1",
        content="c",
        airflow_version="3.3.2",
        heads="h",
        configuration=deployment.on_target(),
        secrets=secrets,
        companions={
            "postgres": "r.example/shop:postgres-1@sha256:2",
            **({"broker": "r.example/shop:broker-1@sha256:3"} if deployment.executor == CELERY else {}),
        },
    )


def objects(deployment: Deployment = PLAIN, secrets: dict[str, str] = BUNDLED) -> list[dict[str, Any]]:
    """Every object of a release."""
    made = release(deployment, secrets)
    parts = (("CERTIFICATE", "A"), ("PRIVATE KEY", "B"))
    pem = "".join(f"-----BEGIN {what}-----\n{text}\n-----END {what}-----\n" for what, text in parts)
    return [
        rendered.namespace(NAMES, "shop"),
        *rendered.base_objects(NAMES, made, "port = 5432\n"),
        *(rendered.airflow_deployment(NAMES, row, made, 300.0) for row in stack.services_of(made)),
        rendered.airflow_job(NAMES, "migrate", made, ["airflow", "db", "migrate"]),
        rendered.postgres_job(NAMES, "heads", made, "true"),
        rendered.image_job(NAMES, "pull", made.image),
        rendered.secret("keys-1", {"astro.role": "keys"}, {"astro.digest.A": "s$1"}, "{}"),
        rendered.registry_secret(NAMES, "r.example", "alice", "horse", "PEM"),
        rendered.certificate_secret(NAMES, pem, "s$1"),
        rendered.record(NAMES, made),
    ]


def by_name(deployment: Deployment = PLAIN, secrets: dict[str, str] = BUNDLED) -> dict[str, dict[str, Any]]:
    """Every object of a release by kind and name."""
    return {f"{each['kind']}/{each['metadata']['name']}": each for each in objects(deployment, secrets)}


def pods(deployment: Deployment = PLAIN, secrets: dict[str, str] = BUNDLED) -> dict[str, dict[str, Any]]:
    """The specification of every pod that a release makes."""
    found = {
        name: each["spec"]["template"]["spec"]
        for name, each in by_name(deployment, secrets).items()
        if "template" in each.get("spec", {})
    }
    if deployment.executor == KUBERNETES:
        found["task"] = json.loads(by_name(deployment, secrets)["ConfigMap/tasks-7"]["data"]["pod.yaml"])[
            "spec"
        ]
    return found
