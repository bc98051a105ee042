"""The Secrets of a namespace, as `SecretStore` knows them from engines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from astro_cli.deploy.kubernetes import objects
from astro_cli.foundation import labels

if TYPE_CHECKING:
    from collections.abc import Mapping

    from astro_cli.deploy.kubernetes.api import KubernetesApi


class SecretDoor:
    """The namespace's secrets; digests, which are too long for labels here, are annotations."""

    def __init__(self, api: KubernetesApi, mine: str) -> None:
        self._api = api
        self._mine = mine

    def stored(self, _kind: str, _label: str) -> dict[str, dict[str, Any]]:
        """Every secret of a role, by name."""
        found = {}
        for each in self._api.list("Secret", f"{self._mine},{labels.ROLE}"):
            metadata = each["metadata"]
            marks = {**metadata["labels"], **(metadata.get("annotations") or {})}
            found[metadata["name"]] = {
                "ID": metadata["uid"],
                "Spec": {"Name": metadata["name"], "Labels": marks},
            }
        return found

    def store(self, _kind: str, name: str, content: str, marks: Mapping[str, str]) -> str:
        """Make a secret; it never changes."""
        notes = {key: value for key, value in marks.items() if key.startswith(labels.DIGEST)}
        plain = {key: value for key, value in marks.items() if key not in notes}
        return str(self._api.create(objects.secret(name, plain, notes, content))["metadata"]["uid"])
