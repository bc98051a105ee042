"""What applying objects would change, in words."""

from __future__ import annotations

import copy
import json
from typing import Any

from astro_cli.deploy.kubernetes.diff import LONGEST, differences
from astro_cli.deploy.target import Difference


def thing(name: str = "api", **parts: Any) -> dict[str, Any]:
    return {"kind": "Deployment", "metadata": {"name": name, "labels": {"astro.kind": "object"}}, **parts}


def found(old: dict[str, Any] | None, new: dict[str, Any]) -> tuple[Difference, ...]:
    present = {("Deployment", "api"): old} if old is not None else {}
    return differences([thing()], present, lambda wanted: new)


def test_what_is_not_there_is_made():
    assert found(None, thing()) == (Difference("create", "Deployment", "api"),)


def test_what_is_as_it_should_be_is_not_told():
    live = thing(spec={"replicas": 1}, status={"replicas": 1})
    live["metadata"] |= {"resourceVersion": "5", "uid": "u", "generation": 2, "managedFields": [1]}
    live["metadata"]["annotations"] = {"deployment.kubernetes.io/revision": "3"}
    answer = copy.deepcopy(live)
    answer["metadata"] |= {"resourceVersion": "6", "managedFields": [2]}

    assert found(live, answer) == ()


def test_a_change_is_a_path_with_the_old_and_the_new():
    (one,) = found(thing(spec={"replicas": 1}), thing(spec={"replicas": 2, "paused": True}))

    assert one.fields == ("spec.paused: (none) → true", "spec.replicas: 1 → 2")


def test_parts_with_names_are_compared_by_them():
    def containers(*pairs: tuple[str, str]) -> dict[str, Any]:
        return thing(spec={"env": [{"name": name, "value": value} for name, value in pairs]})

    (one,) = found(containers(("A", "1"), ("B", "2")), containers(("B", "3"), ("C", "4"), ("A", "1")))

    assert one.fields == ('spec.env[B].value: "2" → "3"', 'spec.env[C]: (none) → {"name": "C", "value": "4"}')


def test_a_text_that_is_json_is_compared_by_what_it_says():
    def text(image: str) -> dict[str, Any]:
        return thing(data={"pod.yaml": json.dumps({"image": image, "more": "x" * 500})})

    (one,) = found(text("a"), text("b"))

    assert one.fields == ('data.pod.yaml.image: "a" → "b"',)


def test_long_values_are_cut():
    (one,) = found(thing(data="a" * 500), thing(data="b" * 500))

    assert len(one.fields[0]) < 2 * LONGEST + 20


def test_what_nothing_wants_any_more_is_removed_unless_it_is_data():
    claim = {"kind": "PersistentVolumeClaim", "metadata": {"name": "logs", "labels": {}}}
    present = {("Deployment", "old"): thing("old"), ("PersistentVolumeClaim", "logs"): claim}

    assert differences([], present, lambda wanted: wanted) == (Difference("remove", "Deployment", "old"),)
