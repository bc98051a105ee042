"""What the supervisor is told in its folder, and the words between it and others; supervisor.py describes them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONTROL_SOCKET = "control.sock"
RUNNER, DEBUGGER = "astro-runner", "astro-debug"
"""What `exec` takes for the client of the warm runner, and for the other side of the debugger's hook."""
EXIT_CONFIG, EXIT_NEWER, EXIT_MIGRATION = 1, 3, 4


class ConfigError(Exception):
    """RUN_DIR does not hold a usable configuration."""


@dataclass(frozen=True)
class Config:
    """config.json, checked."""

    services: dict[str, list[str]]
    health_url: str | None = None
    database: tuple[str, int] | None = None
    server: list[str] | None = None
    programs: dict[str, list[str]] = field(default_factory=dict)
    log: Path | None = None
    migrations: Path | None = None
    migrate: list[str] = field(default_factory=lambda: ["airflow", "db", "migrate"])
    grace_seconds: float = 15.0
    fork: bool = True
    entry: str = "airflow.__main__:main"
    debugger: bool = False

    @classmethod
    def load(cls, path: Path) -> Config:
        """Read and check the file; ConfigError says what is wrong with it."""
        data = read_json_object(path)
        unknown = set(data) - set(cls.__dataclass_fields__)
        if unknown:
            raise ConfigError(f"{path}: unknown keys: {', '.join(sorted(unknown))}")
        try:
            values = {key: value for key, value in data.items() if value is not None}
            values["services"] = {str(name): _argv(argv) for name, argv in data["services"].items()}
            if "programs" in values:
                values["programs"] = {str(name): _argv(argv) for name, argv in values["programs"].items()}
            for key in ("migrate", "server"):
                if key in values:
                    values[key] = _argv(values[key])
            for key in ("migrations", "log"):
                if key in values:
                    values[key] = Path(values[key])
            if "database" in values:
                values["database"] = (str(values["database"]["host"]), int(values["database"]["port"]))
            return cls(**values)
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise ConfigError(f"{path}: {type(exc).__name__}: {exc}") from exc


def _argv(value: object) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise ValueError("a command must be a list of strings")
    return value


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises ConfigError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ConfigError(f"cannot read {path}: {type(exc).__name__}") from exc
    if not isinstance(data, dict):
        raise ConfigError(f"{path} is not a JSON object")
    return data


def load_environment(path: Path) -> None:
    """Add the sandbox's variables to this process; no value ever reaches an error message."""
    values = read_json_object(path)
    if not all(isinstance(value, str) for value in values.values()):
        raise ConfigError(f"{path}: every value must be a string")
    os.environ.update(values)
