"""Connections and variables that Airflow reads from the project's files at every look-up: an edit is at once true.

`secrets/connections.yaml` and `secrets/variables.yaml` are files of Airflow's own local filesystem secrets backend
(Airflow's documentation, "Local Filesystem Secrets Backend"). What is wrong in such a file Airflow at most notes in
the task's log, and goes on as if the file was not there; hence the strict reading here. They have a folder to
themselves because a sandbox sees a file that an editor saves under a new name only if it sees the folder.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from astro_cli.foundation.yamlfile import load

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from astro_cli.foundation.yamlfile import Node

FOLDER = "secrets"
FILES = {"connections": f"{FOLDER}/connections.yaml", "variables": f"{FOLDER}/variables.yaml"}
"""What a file holds, and where it is in the project."""

BACKEND = "airflow.secrets.local_filesystem.LocalFilesystemBackend"
PREFIX = "AIRFLOW__SECRETS__"
"""Configuration of a secrets backend; one that the user sets is not mixed with ours."""

_PARTS = ("conn_type", "description", "host", "login", "password", "schema", "port")
_EXTRAS = ("extra", "extra_dejson")


def read_hot_files(root: Path) -> dict[str, tuple[str, ...]]:
    """The ids in each of the files that a project has: `connections`, `variables`, or neither.

    Raises:
        ProjectError: Airflow would not understand one of them; with the line.
    """
    found = {}
    for kind, file in FILES.items():
        if (root / file).is_file():
            node = load(root / file, name=file)
            if node.is_null:
                raise node.error(
                    "the file is empty, which Airflow takes for an error",
                    hint=f"put `{{}}` there, or remove {file}",
                )
            entries = node.entries()
            for entry in entries.values():
                _check_connection(entry) if kind == "connections" else _check_variable(entry)
            found[kind] = tuple(entries)
    return found


def backend_environment(kinds: Iterable[str], project: str) -> dict[str, str]:
    """The configuration that has Airflow read the files of these kinds below `project`; empty without any."""
    files = {f"{kind}_file_path": f"{project}/{FILES[kind]}" for kind in kinds}
    if not files:
        return {}
    return {f"{PREFIX}BACKEND": BACKEND, f"{PREFIX}BACKEND_KWARGS": json.dumps(files, sort_keys=True)}


def _check_connection(node: Node) -> None:
    if isinstance(node.value, str):
        if ":" not in node.value:
            raise node.error(
                f"{node.path} is neither a URI nor a mapping",
                hint="for example postgres://me@db.example:5432/sales",
            )
        return
    known = (*_PARTS, *_EXTRAS, "uri", "conn_id")
    entries = node.mapping(optional=known)
    if "uri" in entries and len(set(entries) - {"uri", "conn_id"}) > 0:
        raise node.error(f"{node.path} has a `uri` and other parts", hint="write one or the other")
    if "uri" not in entries and "conn_type" not in entries:
        raise node.error(f'missing key "conn_type" in {node.path}', hint="or write it as a `uri`")
    if all(extra in entries for extra in _EXTRAS):
        raise node.error(f"{node.path} has both `extra` and `extra_dejson`", hint="write one or the other")
    for name, part in entries.items():
        if name == "port":
            part.integer(0, 65535)
        elif name not in _EXTRAS and not isinstance(part.value, str):
            raise part.error(f"{part.path} must be text", hint="put it in quotes")


def _check_variable(node: Node) -> None:
    if not isinstance(node.value, str):
        raise node.error(
            f"{node.path} must be text", hint="put it in quotes; a list or mapping as JSON in quotes"
        )
