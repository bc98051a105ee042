"""Where astro keeps its own files, and how it writes them: whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import platformdirs

APP = "astro"


def user_config_file() -> Path:
    """The user's own settings, shared by all projects."""
    return Path(platformdirs.user_config_dir(APP)) / "config.yaml"


def state_dir() -> Path:
    """State that must survive: secrets, remembered ports, build logs."""
    return Path(platformdirs.user_state_dir(APP))


def cache_dir() -> Path:
    """What can be made again: the standalone engine's environments and database templates."""
    return Path(platformdirs.user_cache_dir(APP))


def log_dir() -> Path:
    """Build logs and the reports of astro's own bugs."""
    return Path(platformdirs.user_log_dir(APP))


def sandbox_dir(sandbox_id: str) -> Path:
    """The private folder of one sandbox below `state_dir()`."""
    return state_dir() / "sandboxes" / sandbox_id


def make_private_dir(path: Path) -> Path:
    """Create `path` (and what is missing above it) for this user only, and return it."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def write_atomic(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Write `text` under a temporary name beside `path`, then rename: a reader sees the old file or the new."""
    make_private_dir(path.parent)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, or an empty one when the file is missing or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
