"""What applying objects would change on a cluster, in words. Pure; the cluster is asked through a function."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from astro_cli.deploy.target import Difference
from astro_cli.foundation import labels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    Object = Mapping[str, Any]

LONGEST = 160
"""Characters of a value that are shown."""
_OF_THE_CLUSTER = ("creationTimestamp", "generation", "managedFields", "resourceVersion", "selfLink", "uid")


def differences(
    wanted: Iterable[Object],
    present: Mapping[tuple[str, str], Object],
    applied: Callable[[Object], Object],
) -> tuple[Difference, ...]:
    """Compare what is there with what would be there.

    Args:
        present: the deployment's objects on the cluster, by kind and name.
        applied: what the cluster would make of an object that is applied.
    """
    found, names = [], set()
    for each in wanted:
        key = (each["kind"], each["metadata"]["name"])
        names.add(key)
        if key not in present:
            found.append(Difference("create", *key))
            continue
        fields = tuple(_changes("", _own(present[key]), _own(applied(each))))
        if fields:
            found.append(Difference("change", *key, fields))
    gone = [key for key, each in present.items() if key not in names and _is_pruned(each)]
    return (*found, *(Difference("remove", *key) for key in gone))


def _is_pruned(thing: Object) -> bool:
    return (thing["metadata"].get("labels") or {}).get(labels.KIND) == "object"


def _own(thing: Object) -> dict[str, Any]:
    """Without what the cluster itself writes."""
    metadata = {key: value for key, value in thing["metadata"].items() if key not in _OF_THE_CLUSTER}
    notes = {
        key: value
        for key, value in (metadata.pop("annotations", None) or {}).items()
        if not key.startswith("deployment.kubernetes.io/")
    }
    rest = {
        key: value for key, value in thing.items() if key not in ("apiVersion", "kind", "metadata", "status")
    }
    return {"metadata": {**metadata, "annotations": notes}, **rest}


def _changes(path: str, old: Any, new: Any) -> Iterator[str]:  # noqa: ANN401 - any JSON
    old, new = _decoded(old), _decoded(new)
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _changes(f"{path}.{key}" if path else key, old.get(key), new.get(key))
    elif _are_named(old) and _are_named(new):
        one, other = ({each["name"]: each for each in items} for items in (old, new))
        for name in dict.fromkeys((*one, *other)):
            yield from _changes(f"{path}[{name}]", one.get(name), other.get(name))
    elif old != new:
        yield f"{path}: {_shown(old)} → {_shown(new)}"


def _decoded(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """What a text says, where it is JSON itself."""
    if isinstance(value, str) and value.startswith("{"):
        with suppress(ValueError):
            return json.loads(value)
    return value


def _are_named(items: object) -> bool:
    return (
        isinstance(items, list)
        and bool(items)
        and all(isinstance(each, dict) and "name" in each for each in items)
    )


def _shown(value: object) -> str:
    text = "(none)" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
