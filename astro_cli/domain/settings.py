"""The table of settings, and where each value comes from: flag > environment > project > user > default."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from astro_cli.foundation import yamlfile
from astro_cli.foundation.errors import ProjectError, UsageError
from astro_cli.foundation.paths import user_config_file

if TYPE_CHECKING:
    from collections.abc import Mapping

PROJECT_FILE = Path(".astro/config.yaml")
MAX_DIGITS = 100


@dataclass(frozen=True)
class SettingSpec:
    """One row: a setting's name, kind, default and meaning.

    Attributes:
        key: section and name, as in the files: `sandbox.port`.
        minimum: for whole numbers, with `maximum`; both None for text.
        choices: the only texts allowed; empty for any.
        short: its environment variable, where the name made from the key would say too much.
        user_only: not read from a project, which may be a stranger's.
    """

    key: str
    help: str
    default: str | int | None = None
    minimum: int | None = None
    maximum: int | None = None
    choices: tuple[str, ...] = ()
    short: str = ""
    user_only: bool = False

    @property
    def variable(self) -> str:
        """Its environment variable: `ASTRO_SANDBOX_PORT`."""
        return self.short or "ASTRO_" + self.key.upper().replace(".", "_")

    @property
    def is_number(self) -> bool:
        """Whether values are whole numbers."""
        return self.minimum is not None


SETTINGS = (
    SettingSpec(
        "sandbox.engine",
        "What runs sandboxes; by default Docker where an engine answers, else standalone.",
        choices=("docker", "standalone"),
        short="ASTRO_ENGINE",
    ),
    SettingSpec(
        "sandbox.database_url",
        "SQLAlchemy address of your own metadata database, instead of the sandbox's (standalone engine only).",
    ),
    SettingSpec(
        "sandbox.executor",
        "What runs tasks: `local` beside the scheduler, or `celery` on workers of their own; default as last time.",
        choices=("local", "celery"),
    ),
    SettingSpec(
        "sandbox.metrics",
        "Whether Airflow's own metrics are collected, for `top` and Prometheus; default as last time.",
        choices=("on", "off"),
    ),
    SettingSpec("sandbox.port", "Port of the web UI on this machine.", minimum=1, maximum=65535),
    SettingSpec("sandbox.parallelism", "Tasks that run at once.", minimum=1, maximum=64),
    SettingSpec("image.base", "Debian image that the engine image is built on.", "debian:trixie-slim"),
    SettingSpec("build.apt_mirror", "Debian mirror for builds, instead of Debian's own."),
    SettingSpec(
        "updates.url",
        "Release folder in which to look for a newer astro, at most daily; without it nothing is looked for.",
        user_only=True,
    ),
)
"""Every setting there is; an unknown one is an error."""


@dataclass(frozen=True)
class Value:
    """A setting's value and where it came from: `default`, a file, or an environment variable."""

    value: str | int | None
    origin: str


class Settings:
    """All settings, resolved."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = values

    def origin_of(self, key: str) -> Value:
        """The value with its origin."""
        return self._values[key]

    def with_value(self, key: str, value: str | int, origin: str) -> Settings:
        """These settings with one value replaced."""
        return Settings({**self._values, key: Value(value, origin)})

    def number(self, key: str) -> int | None:
        """A whole number, or None when unset."""
        value = self._values[key].value
        return value if isinstance(value, int) else None

    def text(self, key: str) -> str | None:
        """A text, or None when unset."""
        value = self._values[key].value
        return value if isinstance(value, str) else None


def load_settings(environ: Mapping[str, str], *, project_root: Path | None) -> Settings:
    """Resolve every setting.

    Raises:
        ProjectError: a file or variable holds an unknown setting or a value of the wrong kind.
    """
    values = {spec.key: Value(spec.default, "default") for spec in SETTINGS}
    values.update(user_values())
    if project_root is not None:
        values.update(project_values(project_root))
    for spec in SETTINGS:
        if text := environ.get(spec.variable):
            values[spec.key] = Value(value_from(spec, text), spec.variable)
    return Settings(values)


def user_values() -> dict[str, Value]:
    """What the user's own file sets.

    Raises:
        ProjectError: it is not valid.
    """
    path = user_config_file()
    return _from_file(yamlfile.load(path)) if path.exists() else {}


def project_values(root: Path) -> dict[str, Value]:
    """What the file of the project in `root` sets.

    Raises:
        ProjectError: it is not valid.
    """
    return _from_file(yamlfile.load(root / PROJECT_FILE, name=str(PROJECT_FILE)), of_project=True)


def find_spec(key: str) -> SettingSpec:
    """The row of a setting.

    Raises:
        UsageError: there is no such setting; the hint has the nearest.
    """
    known = {spec.key: spec for spec in SETTINGS}
    if key not in known:
        from difflib import get_close_matches

        near = get_close_matches(key, known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else "`astro config list` shows all there are"
        raise UsageError(f"there is no setting `{key}`", hint=hint)
    return known[key]


def _from_file(root: yamlfile.Node, *, of_project: bool = False) -> dict[str, Value]:
    besides = ("project", "deployments", "services", "workers") if of_project else ()
    sections: dict[str, list[SettingSpec]] = {}
    for spec in SETTINGS:
        sections.setdefault(spec.key.partition(".")[0], []).append(spec)
    values = {}
    for section, node in root.mapping(optional=(*sections, *besides)).items():
        if section in besides:
            continue
        names = {spec.key.partition(".")[2]: spec for spec in sections[section]}
        for name, child in node.mapping(optional=names).items():
            spec = names[name]
            value = child.integer(spec.minimum, spec.maximum) if spec.is_number else child.string()
            if spec.choices and value not in spec.choices:
                raise child.error(f"{spec.key} must be one of {', '.join(spec.choices)}, not {value!r}")
            if of_project and spec.user_only:
                raise child.error(
                    f"{spec.key} is not for a project to say", hint=f"`astro config set --user {spec.key} …`"
                )
            values[spec.key] = Value(value, f"{child.file}:{child.line}")
    return values


def value_from(spec: SettingSpec, text: str, *, name: str = "") -> str | int:
    """A setting's value as it is written in an environment variable or an argument.

    Args:
        name: what messages call it; default its variable.

    Raises:
        ProjectError: it is of the wrong kind or out of bounds.
    """
    called = name or spec.variable
    hint = None if name else f"correct it, or remove it with `unset {spec.variable}`"
    if not spec.is_number:
        if spec.choices and text not in spec.choices:
            raise ProjectError(f"{called} must be one of {', '.join(spec.choices)}, not {text!r}", hint=hint)
        return text
    number = int(text) if len(text) <= MAX_DIGITS and text.strip().isdecimal() else None
    if number is None or not (spec.minimum or 0) <= number <= (spec.maximum or number):
        raise ProjectError(
            f"{called} must be a whole number between {spec.minimum} and {spec.maximum}, not {text[:40]!r}",
            hint=hint,
        )
    return number
