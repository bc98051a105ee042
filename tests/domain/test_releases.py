"""Release records, and what a new release would change."""

from __future__ import annotations

import json
from dataclasses import replace

from astro_cli.domain.releases import Release, make_plan, read_release

CURRENT = Release(
    id=4,
    time="2026-11-22T18:00:00+00:00",
    image="registry.example/shop:abc@sha256:1",
    content="c1",
    airflow_version="3.3.2",
    heads="h1",
    configuration={"env": {"A": "1"}, "publish": {"port": 8080, "bind": "127.0.0.1"}},
    secrets={"keys": "shop-prod-keys-1"},
    files={"dags/a.py": "1", "dags/b.py": "2"},
    gates=("parse",),
)
SAME = {
    "content": "c1",
    "heads": "h1",
    "configuration": CURRENT.configuration,
    "files": CURRENT.files,
    "secrets": (),
}


def test_a_record_comes_back_as_it_was():
    assert read_release(CURRENT.to_json()) == CURRENT


def test_a_record_of_a_newer_astro_can_be_read():
    text = json.dumps({**json.loads(CURRENT.to_json()), "weather": "fine"})

    assert read_release(text) == CURRENT


def test_the_same_again_is_nothing():
    assert make_plan(CURRENT, **SAME).nothing


def test_the_first_release_is_never_nothing():
    plan = make_plan(None, **SAME)

    assert (plan.nothing, plan.image, plan.added) == (False, True, ("dags/a.py", "dags/b.py"))


def test_files_are_told_apart():
    plan = make_plan(CURRENT, **{**SAME, "content": "c2", "files": {"dags/b.py": "3", "dags/c.py": "4"}})

    assert (plan.added, plan.changed, plan.removed) == (("dags/c.py",), ("dags/b.py",), ("dags/a.py",))
    assert plan.image
    assert not plan.nothing


def test_settings_are_named_with_old_and_new_value():
    wanted = {"env": {"B": "2"}, "publish": {"port": 80, "bind": "127.0.0.1"}}

    plan = make_plan(CURRENT, **{**SAME, "configuration": wanted})

    assert plan.settings == ('env.A: "1" → (none)', 'env.B: (none) → "2"', "publish.port: 8080 → 80")
    assert not plan.nothing


def test_a_changed_secret_or_other_migrations_are_something():
    assert not make_plan(CURRENT, **{**SAME, "secrets": ("TOKEN",)}).nothing
    assert make_plan(replace(CURRENT, heads="h0"), **SAME).migration
