"""The file that goes with a bug report: what runs here, how it is set up and what it said, without secrets.

Two nets, one behind the other. Files whose values are secret by nature (`.env`, the objects file, `secrets/`) go in
with their names alone. And every text passes a `Redactor` that knows all the secrets on this machine which a
sandbox has to do with, wherever they turn up: in a log line, in an address, in an error.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from astro_cli.domain.envfile import load_env
from astro_cli.domain.settings import PROJECT_FILE, SETTINGS
from astro_cli.foundation import paths
from astro_cli.foundation.errors import AstroError, UsageError
from astro_cli.foundation.redact import MASK, Redactor, names_a_secret, passwords_in
from astro_cli.foundation.yamlfile import load
from astro_cli.runtime.engine import LogQuery

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from astro_cli.domain.settings import Settings
    from astro_cli.runtime.engine import Engine

LOG_LINES = 1000
"""Of each service, and of each of astro's own logs."""
LOG_FILES = 10
LINE_CHARACTERS = 4000
FILE_BYTES = 256 * 1024
SHORTEST_PLAIN = 8
"""Characters of a value that counts as secret whatever its name: shorter ones (`true`, `dev`) stand everywhere."""

_OBJECTS = "airflow_settings.yaml"
_WHOLE = ("Dockerfile", "packages.txt", "requirements.txt", ".dockerignore", str(PROJECT_FILE))
_NAMES_ONLY = (_OBJECTS, "secrets/connections.yaml", "secrets/variables.yaml")
_ENVIRONMENT = re.compile(
    r"(?:ASTRO|DOCKER|AIRFLOW|UV|PIP|SSL|REQUESTS|CURL|XDG)_\w+|(?:HTTPS?|NO|ALL)_PROXY|PATH|SHELL|TERM|LANG|CI",
    re.I,
)


def write_bundle(path: Path, files: Mapping[str, str], redactor: Redactor) -> None:
    """Write a tar.gz of texts, every one without secrets. Only this user may read it.

    Raises:
        UsageError: there is a file of that name, or its folder is not there; it is never replaced.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as exc:
        raise UsageError(f"{path} exists already", hint="name a file that does not exist") from exc
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise UsageError(f"{path.parent} is not a folder", hint="name a file in one that exists") from exc
    try:
        with os.fdopen(descriptor, "wb") as stream, tarfile.open(fileobj=stream, mode="w:gz") as archive:
            for name, text in files.items():
                content = redactor.clean(_bounded(text)).encode("utf-8", "backslashreplace")
                member = tarfile.TarInfo(f"astro-bundle/{name}")
                member.size, member.mode = len(content), 0o600
                archive.addfile(member, io.BytesIO(content))
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _bounded(text: str) -> str:
    return "\n".join(line[:LINE_CHARACTERS] for line in text.split("\n"))


def collect(
    root: Path | None,
    sandbox_id: str | None,
    engines: Sequence[Engine],
    settings: Settings | None,
    environ: Mapping[str, str],
) -> Iterator[tuple[str, str]]:
    """Names and texts of what helps, as they are: they still hold secrets.

    Args:
        root: the project's folder, if there is one, and `sandbox_id` its sandbox.
        settings: None where they cannot be read.
    """
    shown = {
        name: value if not names_a_secret(name) else MASK
        for name, value in sorted(environ.items())
        if _ENVIRONMENT.fullmatch(name)
    }
    yield "environment.json", json.dumps(shown, indent=2)
    if settings is not None:
        yield (
            "settings.json",
            json.dumps({spec.key: asdict(settings.origin_of(spec.key)) for spec in SETTINGS}, indent=2),
        )
    for engine in engines:
        yield from _of_engine(engine, sandbox_id)
    for file in sorted(paths.log_dir().glob("*.log"), key=_changed)[-LOG_FILES:]:
        yield f"logs/astro/{file.name}", _tail(file)
    if root is not None:
        yield from _of_project(root)


def _of_engine(engine: Engine, sandbox_id: str | None) -> Iterator[tuple[str, str]]:
    try:
        found = engine.status()
        yield (
            f"status-{engine.name}.json",
            json.dumps([asdict(status) for status in found], indent=2),
        )
        if sandbox_id is not None and any(status.sandbox_id == sandbox_id for status in found):
            lines = engine.logs(sandbox_id, LogQuery(tail=LOG_LINES))
            text = "\n".join(f"{line.timestamp} {line.service} {line.text}" for line in lines)
            yield f"logs/{engine.name}.log", text
    except (AstroError, OSError) as exc:
        yield f"status-{engine.name}.txt", str(exc)


def _of_project(root: Path) -> Iterator[tuple[str, str]]:
    for name in _WHOLE:
        with suppress(OSError):
            yield f"project/{name}", _head(root / name)
    with suppress(OSError):
        yield "project/.env", "\n".join(_names_of_env(_head(root / ".env")))
    for name in _NAMES_ONLY:
        if (root / name).is_file():
            with suppress(AstroError):
                yield (
                    f"project/{name}",
                    json.dumps(_without_values(load(root / name, name=name).plain()), indent=2),
                )
    listing = (
        f"{path.relative_to(root)} {path.stat().st_size}" for path in sorted((root / "dags").rglob("*.py"))
    )
    with suppress(OSError):
        yield "project/dags.txt", "\n".join(listing)


def _names_of_env(text: str) -> list[str]:
    """Only lines that begin like an assignment show, and of these the name; the lines of a long value do not."""
    found = (re.match(r"\s*(?:export\s+)?([A-Za-z_]\w*)\s*=", line) for line in text.splitlines())
    return [f"{match[1]}={MASK}" for match in found if match]


_OPEN_FIELDS = ("conn_id", "conn_type", "conn_port", "variable_name", "pool_name", "pool_slot")


def _without_values(value: Any, key: str = "") -> Any:  # noqa: ANN401 - whatever YAML holds
    """The shape of data: keys, and of values only those that name something."""
    if isinstance(value, dict):
        return {name: _without_values(child, name) for name, child in value.items()}
    if isinstance(value, list):
        return [_without_values(child, key) for child in value]
    return value if key in _OPEN_FIELDS or value is None else MASK


# what must not be in it


def known_secrets(root: Path | None, environ: Mapping[str, str]) -> set[str]:
    """Every secret that a sandbox on this machine has to do with, as far as it can be read."""
    found: set[str] = set()
    for name, value in environ.items():
        found |= {value} if names_a_secret(name) else set(passwords_in(value))
    for file in paths.state_dir().glob("sandboxes/*/secrets.json"):
        found |= {str(value) for value in paths.read_json(file).values()}
    home = environ.get("HOME", "")
    for name in (".docker/config.json", ".netrc", ".pypirc", ".config/pip/pip.conf", ".pip/pip.conf"):
        with suppress(OSError):
            found |= _words_of_login(_head(Path(home, name)))
    if docker_config := environ.get("DOCKER_CONFIG"):
        with suppress(OSError):
            found |= _words_of_login(_head(Path(docker_config, "config.json")))
    if root is not None:
        found |= _of_project_files(root, environ)
    return {each for each in found if each.strip()}


def _words_of_login(text: str) -> set[str]:
    """The long words of a file that holds logins: its values, and what base64 hides in them."""
    import base64

    found = set(passwords_in(text))
    words = set(re.findall(r"[^\s\"',:={}\[\]]{6,}=*", text))
    for word in words:
        if not word.startswith(("http", "machine", "default", "password", "login")):
            found.add(word)
        with suppress(ValueError):
            decoded = base64.b64decode(word + "=" * (-len(word) % 4), validate=True).decode()
            if ":" in decoded:
                found |= {decoded, decoded.partition(":")[2]}
    return {
        each for each in found if not re.fullmatch(r"auths?|credsStore|[\w-]+(?:\.[\w-]+)+/?(?:v\d/)?", each)
    }


def _of_project_files(root: Path, environ: Mapping[str, str]) -> set[str]:
    found: set[str] = set()
    values: dict[str, str] = {}
    with suppress(AstroError):
        values = load_env(root / ".env", environ, name=".env")
    if not values:  # broken, and its values still are secrets
        with suppress(OSError):
            lines = _head(root / ".env").splitlines()
            values = {str(at): line.partition("=")[2].strip("\"' ") for at, line in enumerate(lines)}
    for name, value in values.items():
        if names_a_secret(name) or len(value) >= SHORTEST_PLAIN:
            found.add(value)
        found |= set(passwords_in(value))
    for file in _NAMES_ONLY:
        with suppress(AstroError):
            found |= _texts(load(root / file, name=file).plain())
    with suppress(OSError):
        found |= set(passwords_in(_head(root / PROJECT_FILE)))
    return found


def _texts(value: Any, key: str = "") -> set[str]:  # noqa: ANN401 - whatever YAML holds
    if isinstance(value, dict):
        return set().union(*(_texts(child, name) for name, child in value.items()))
    if isinstance(value, list):
        return set().union(*(_texts(child, key) for child in value))
    text = str(value)
    if value is None or key in _OPEN_FIELDS or text.startswith("${"):
        return set()
    if names_a_secret(key) or len(text) >= SHORTEST_PLAIN:
        return {text, *passwords_in(text)}
    return set(passwords_in(text))


def _head(file: Path) -> str:
    with file.open("rb") as stream:
        return stream.read(FILE_BYTES).decode("utf-8", "replace")


def _tail(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            stream.seek(max(file.stat().st_size - FILE_BYTES, 0))
            lines = stream.read(FILE_BYTES).decode("utf-8", "replace").splitlines()
    except OSError as exc:
        return str(exc)
    return "\n".join(lines[-LOG_LINES:])


def _changed(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0
