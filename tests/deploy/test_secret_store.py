"""Secrets on an engine that gives none back: what is new, what is the same, what is made once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from astro_cli.deploy.secret_store import SecretStore, digest_of, is_digest_of
from astro_cli.deploy.stack import Names
from astro_cli.deploy.target import Secrets

NAMES = Names("abcdef123456", "shop", "prod")


class FakeSwarm:
    """Keeps secrets as an engine does: by name, with labels; `data` is what an engine would never tell."""

    def __init__(self) -> None:
        self.data: dict[str, str] = {}
        self._labels: dict[str, dict[str, str]] = {}

    def stored(self, kind: str, label: str) -> dict[str, dict[str, Any]]:
        return {
            name: {"ID": f"id-{name}", "Spec": {"Name": name, "Labels": marks}}
            for name, marks in self._labels.items()
        }

    def store(self, kind: str, name: str, data: str, marks: dict[str, str]) -> str:
        assert name not in self.data, "an engine never changes a secret"
        self.data[name], self._labels[name] = data, dict(marks)
        return f"id-{name}"

    def lose(self, name: str) -> None:
        del self.data[name], self._labels[name]


@pytest.fixture
def swarm() -> FakeSwarm:
    return FakeSwarm()


@pytest.fixture
def store(swarm: FakeSwarm) -> SecretStore:
    return SecretStore(swarm, NAMES)


def test_keys_and_the_databases_password_are_made_once(store, swarm):
    first, _ = store.ensure(Secrets(), login=False)
    second, _ = store.ensure(Secrets(), login=False)

    assert first == second
    assert set(first) == {"keys", "connection", "address", "database"}
    password = swarm.data[first["database"]]
    assert password in swarm.data[first["connection"]]
    assert swarm.data[first["address"]] == f"postgresql://airflow@postgres:5432/airflow\n{password}\n"
    assert len(json.loads(swarm.data[first["keys"]])["AIRFLOW__CORE__FERNET_KEY"]) == 44


def test_an_interrupted_first_deploy_leaves_no_password_that_fits_nowhere(store, swarm):
    first, _ = store.ensure(Secrets(), login=False)
    swarm.lose(first["database"])

    second, _ = store.ensure(Secrets(), login=False)

    password = swarm.data[second["database"]]
    assert password in swarm.data[second["connection"]]
    assert password in swarm.data[second["address"]]


def test_the_password_of_the_admin_is_told_when_it_is_made(store, swarm):
    names, password = store.ensure(Secrets(), login=True)
    again, none = store.ensure(Secrets(), login=False)

    assert json.loads(swarm.data[names["login"]]) == {"admin": password}
    assert (again["login"], none) == (names["login"], "")


def test_only_a_changed_value_makes_a_new_secret(store, swarm):
    first, _ = store.ensure(Secrets({"A": "1", "B": "2"}), login=False)
    same, _ = store.ensure(Secrets({"A": "1", "B": "2"}), login=False)
    other, _ = store.ensure(Secrets({"A": "1", "B": "3"}), login=False)

    assert first["environment"] == same["environment"] == "shop-prod-environment-1"
    assert other["environment"] == "shop-prod-environment-2"
    assert json.loads(swarm.data[other["environment"]]) == {"A": "1", "B": "3"}


def test_what_differs_is_named(store):
    assert store.changed(Secrets({"A": "1"})) == ("A",)
    store.ensure(Secrets({"A": "1", "B": "2"}), login=False)

    assert store.changed(Secrets({"A": "1", "B": "2"})) == ()
    assert store.changed(Secrets({"A": "x", "C": "3"})) == ("A", "B", "C")


def test_a_database_of_the_users_own_needs_no_password_of_ours(store, swarm):
    url = "postgresql+psycopg2://me:pw@db.example/airflow"
    names, _ = store.ensure(Secrets(database=url), login=False)

    assert "database" not in names
    assert swarm.data[names["address"]] == "postgresql://me@db.example/airflow\npw\n"
    assert store.changed(Secrets(database=url)) == ()
    assert store.changed(Secrets(database=f"{url}2")) == ("database",)


def test_new_keys_can_read_what_the_old_ones_wrote_and_tokens_stay(store, swarm):
    names, _ = store.ensure(Secrets(), login=False)
    old = json.loads(swarm.data[names["keys"]])

    new = json.loads(swarm.data[store.next_keys(old)])
    newest = json.loads(swarm.data[store.next_keys(new, {"MORE": "x"})])

    fernet = "AIRFLOW__CORE__FERNET_KEY"
    assert new[fernet].split(",")[1:] == [old[fernet]]
    assert newest[fernet].split(",")[1:] == [new[fernet].split(",")[0]]
    assert new["AIRFLOW__API_AUTH__JWT_SECRET"] == old["AIRFLOW__API_AUTH__JWT_SECRET"]
    assert new["AIRFLOW__API__SECRET_KEY"] != old["AIRFLOW__API__SECRET_KEY"]
    assert newest["MORE"] == "x"


def test_a_digest_tells_the_same_value_and_nothing_else():
    digest = digest_of("canary")

    assert is_digest_of("canary", digest)
    assert not is_digest_of("canar", digest)
    assert not is_digest_of("", "")
    assert "canary" not in digest
    assert digest_of("canary") != digest


def test_celery_and_its_broker_know_one_password_that_is_made_once(store, swarm):
    first = store.ensure_broker()
    assert store.ensure_broker() == first
    password = swarm.data[first["broker-config"]].partition("requirepass ")[2].split("\n")[0]
    assert len(password) == 48
    address = json.loads(swarm.data[first["broker"]])["AIRFLOW__CELERY__BROKER_URL"]
    assert address == f"redis://:{password}@broker:6379/0"
    swarm.lose(first["broker-config"])
    second = store.ensure_broker()
    assert not set(second.values()) & set(first.values()), "half of a pair is of no use"


def test_a_text_is_a_new_secret_only_when_it_is_another(store, swarm):
    first = store.ensure_text("registry", "one")
    assert store.ensure_text("registry", "one") == first
    assert store.has_text("registry", "one")
    assert not store.has_text("registry", "two")
    assert swarm.data[store.ensure_text("registry", "two")] == "two"
    assert len(swarm.data) == 2
