"""The way back: what Airflow's API tells of connections, variables and pools, as an objects file or a comparison.

Airflow never gives a secret away: its API shows `***` for passwords, and for values under names that sound like
one, inside JSON too. So a file written from it has `${NAME}` there: the reference that the project's own file has
in that place, else a new one. In a comparison `***` stands for any value. Pure.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from astro_cli.domain.objects import Connection, Objects, Pool, Variable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from astro_cli.foundation.yamlfile import Plain

MASK = "***"
DEFAULT_POOL = Pool("default_pool", 128, "Default pool")
"""Airflow makes it by itself; it counts only where it is in the file or was changed."""

_FIELDS = {
    "conn_type": "conn_type",
    "conn_host": "host",
    "conn_schema": "schema",
    "conn_login": "login",
    "conn_password": "password",
    "conn_port": "port",
    "conn_description": "description",
}
_REFERENCE = re.compile(r"(?<!\$)\$\{[A-Za-z_][A-Za-z0-9_]*\}", re.ASCII)
_SECRET = re.compile(
    r"secret|token|passw(?:or)?d|passphrase|apikey|accesskey|privatekey|authorization|credential|keyfiledict"
)
_PLAIN_STYLE = re.compile(r"[^\W\d_](?:[\w ./@-]*[\w./@-])?")
_WIDTH = 10**6  # folding long lines would change nothing, and read worse

Raw = dict[str, dict[str, dict[str, Any]]]
"""What an objects file says before references are replaced; see `objects.raw_entries`."""


@dataclass(frozen=True)
class Template:
    """The project's own file: what it says, and what that comes to with the environment's values."""

    objects: Objects = field(default_factory=Objects)
    raw: Raw = field(default_factory=dict)


@dataclass(frozen=True)
class Exported:
    """An objects file.

    Attributes:
        text: the file.
        references: names of new references, for secrets that the file does not have.
        kept: names of the file's own references that stand for a secret.
        left_out: what the file cannot hold, in words.
    """

    text: str
    references: tuple[str, ...]
    kept: tuple[str, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """One object that is not the same; `what` is `only in the file`, `only in the sandbox` or the parts."""

    collection: str
    name: str
    what: str


@dataclass(frozen=True)
class Comparison:
    """The differences, and the secrets that nobody but Airflow could compare, such as `warehouse.password`."""

    differences: tuple[Difference, ...]
    not_compared: tuple[str, ...]


def from_api(bodies: Mapping[str, Sequence[Mapping[str, Any]]]) -> Objects:
    """The objects in the API's answers, by collection. Empty parts are as good as none."""
    return Objects(
        connections=tuple(
            Connection(
                conn_id=body["connection_id"],
                conn_type=body["conn_type"],
                host=body["host"] or None,
                schema=body["schema"] or None,
                login=body["login"] or None,
                password=body["password"] or None,
                port=body["port"],
                extra=body["extra"] if body["extra"] and body["extra"].strip() != "{}" else None,
                description=body["description"] or None,
            )
            for body in bodies.get("connections", ())
        ),
        variables=tuple(
            Variable(body["key"], body["value"] or "", body["description"] or None)
            for body in bodies.get("variables", ())
        ),
        pools=tuple(
            Pool(body["name"], body["slots"], body["description"] or "", body["include_deferred"])
            for body in bodies.get("pools", ())
        ),
    )


# export


def export(found: Objects, template: Template, *, show_secrets: bool = False) -> Exported:
    """An objects file that makes another sandbox like this one.

    Args:
        found: from the API, see `from_api`.
        template: the project's present file, whose references are kept where they fit.
        show_secrets: write secrets as far as they can be known: what the API does not mask, and for what it
            does the values that the template has for it here.
    """
    writer = _Writer(show_secrets)
    lists: dict[str, list[dict[str, Any]]] = {
        "connections": [writer.connection(each, template) for each in found.connections],
        "pools": [writer.pool(each, template) for each in found.pools if not _is_default(each)],
        "variables": [writer.variable(each, template) for each in found.variables],
    }
    head = "# Connections, pools and variables, as `astro airflow object export` wrote them.\n"
    if writer.references:
        head += "# Secrets are not in it: set these in .env\n"
        head += "".join(f"#   {name}\n" for name in writer.references)
    return Exported(
        text=head + _yaml({"airflow": lists}),
        references=tuple(writer.references),
        kept=tuple(dict.fromkeys(writer.kept)),
        left_out=tuple(writer.left_out),
    )


def _is_default(pool: Pool) -> bool:
    return pool.name == DEFAULT_POOL.name and pool.slots == DEFAULT_POOL.slots and not pool.include_deferred


class _Writer:
    """Turns objects into the entries of a file, and remembers which references it made on the way."""

    def __init__(self, show_secrets: bool) -> None:
        self.show_secrets = show_secrets
        self.references: list[str] = []
        self.kept: list[str] = []
        self.left_out: list[str] = []

    def connection(self, found: Connection, template: Template) -> dict[str, Any]:
        raw = template.raw.get("connections", {}).get(found.conn_id, {})
        known = next((each for each in template.objects.connections if each.conn_id == found.conn_id), None)
        entry: dict[str, Any] = {"conn_id": _escape(found.conn_id)}
        name = f"CONN_{found.conn_id}"
        if known is not None and (uri := raw.get("conn_uri")) and self._keeps_uri(found, known, uri):
            return {**entry, "conn_uri": uri}
        for key, part in _FIELDS.items():
            value = getattr(found, part)
            if value is not None:
                entry[key] = self.value(
                    value, raw.get(key), getattr(known, part, None), f"{name}_{key.removeprefix('conn_')}"
                )
        if found.extra:
            extra = _parsed(found.extra)
            if not isinstance(extra, dict):
                self.left_out.append(f"the extra of connection {found.conn_id}, which is no JSON object")
            else:
                before = raw.get("conn_extra")
                before = _parsed(before) if isinstance(before, str) else before
                after = _parsed(known.extra) if known is not None and known.extra else None
                entry["conn_extra"] = self.value(extra, before, after, f"{name}_EXTRA")
        return entry

    def _keeps_uri(self, found: Connection, known: Connection, uri: str) -> bool:
        """Whether the file's URI says the same and has no secret in it but by reference."""
        if self.show_secrets or compare_connection(found, known):
            return False
        address, _, query = uri.partition("://")[2].partition("?")
        password = address.rpartition("@")[0].partition(":")[2]
        open_password = bool(password) and not _REFERENCE.fullmatch(password)
        open_extra = MASK in (found.extra or "") and not _REFERENCE.search(query)
        if open_password or open_extra:
            return False
        self.kept += [match[2:-1] for match in _REFERENCE.findall(uri)]
        return True

    def variable(self, found: Variable, template: Template) -> dict[str, Any]:
        raw = template.raw.get("variables", {}).get(found.name, {})
        known = next((each for each in template.objects.variables if each.name == found.name), None)
        name = f"VARIABLE_{found.name}"
        before: Any = raw.get("variable_value")
        data = _parsed(found.value)
        value: Any
        if (
            isinstance(data, (dict, list))
            and (isinstance(before, (dict, list)) or found.value in _json_texts(data))
            and not isinstance(before, str)
        ):
            value = self.value(data, before, _parsed(known.value) if known else None, name, key=found.name)
        else:
            after = known.value if known else None
            value = self.value(found.value, before, after, name, key=found.name, equal=same_text)
        entry = {"variable_name": _escape(found.name), "variable_value": value}
        if found.description:
            after = known.description if known else None
            entry["variable_description"] = self.value(
                found.description, raw.get("variable_description"), after, name
            )
        return entry

    def pool(self, found: Pool, template: Template) -> dict[str, Any]:
        raw = template.raw.get("pools", {}).get(found.name, {})
        known = next((each for each in template.objects.pools if each.name == found.name), None)
        name = f"POOL_{found.name}"
        entry: dict[str, Any] = {"pool_name": _escape(found.name)}
        entry["pool_slot"] = self.value(found.slots, raw.get("pool_slot"), known and known.slots, name)
        if found.description:
            after = known.description if known else None
            entry["pool_description"] = self.value(
                found.description, raw.get("pool_description"), after, name
            )
        if found.include_deferred:
            entry["pool_include_deferred"] = True
        return entry

    def value(
        self,
        found: Plain,
        before: Any,  # noqa: ANN401 - of a file
        after: Any,  # noqa: ANN401
        name: str,
        *,
        key: str = "",
        equal: Callable[[Any, Any], bool] | None = None,
    ) -> Plain:
        """One value as the file is to have it.

        Args:
            found: what Airflow has, perhaps masked.
            before: what the template has in this place, as written.
            after: what that comes to.
            name: of a new reference, should one be needed.
            key: what the value is called where it stands, which may tell that it is a secret.
            equal: what counts as unchanged.
        """
        if isinstance(found, dict):
            before, after = (each if isinstance(each, dict) else {} for each in (before, after))
            return {
                each: self.value(value, before.get(each), after.get(each), f"{name}_{each}", key=each)
                for each, value in found.items()
            }
        if isinstance(found, list):
            befores = (
                before if isinstance(before, list) and len(before) == len(found) else [None] * len(found)
            )
            afters = after if isinstance(after, list) and len(after) == len(found) else [None] * len(found)
            return [
                self.value(value, befores[i], afters[i], f"{name}_{i + 1}", key=key)
                for i, value in enumerate(found)
            ]
        masked = isinstance(found, str) and MASK in found
        secret = masked or (isinstance(found, str) and not self.show_secrets and sounds_secret(key))
        if after is not None and (equal or same)(found, after):
            if masked and self.show_secrets and isinstance(after, str):
                return _escape(after)
            if isinstance(before, str) and (names := _REFERENCE.findall(before)):
                self.kept += [each[2:-1] for each in names] if secret else []
                return before
            if not secret:
                return _escape(after) if isinstance(after, str) else found
        if secret:
            return self.reference(name)
        return _escape(found) if isinstance(found, str) else found

    def reference(self, name: str) -> str:
        """A new reference, of a name that is free."""
        wanted = re.sub(r"[^A-Z0-9]+", "_", name.upper()).strip("_") or "VALUE"
        free, number = wanted, 1
        while free in self.references:
            number += 1
            free = f"{wanted}_{number}"
        self.references.append(free)
        return f"${{{free}}}"


def sounds_secret(key: str) -> bool:
    """Whether a value of that name is a secret. Airflow's own list misses spellings such as `privateKey`."""
    return _SECRET.search(re.sub(r"[^a-z]", "", key.lower())) is not None


def _escape(text: str) -> str:
    return text.replace("${", "$${")


def _parsed(text: str | None) -> Plain:
    """The data of a JSON text, or the text itself."""
    try:
        data: Plain = json.loads(text or "")
    except (ValueError, RecursionError):
        return text
    return data


def _json_texts(data: Plain) -> tuple[str, str]:
    """How the reader and Airflow's API write data as JSON."""
    return json.dumps(data, ensure_ascii=False), json.dumps(data)


def _yaml(data: Mapping[str, Any]) -> str:
    """YAML that the strict reader reads back as the same data: text that could be anything else is quoted."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
            super().increase_indent(flow, False)

        def ignore_aliases(self, data: Any) -> bool:  # noqa: ANN401, ARG002
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = "|" if "\n" in value else None if _PLAIN_STYLE.fullmatch(value) else '"'
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    dumped: str = yaml.dump(data, Dumper=Dumper, allow_unicode=True, sort_keys=False, width=_WIDTH)
    return dumped


# compare


def compare(wanted: Objects, found: Objects) -> Comparison:
    """Where a file and a sandbox differ; the file's wish to leave a part alone is no difference."""
    differences: list[Difference] = []

    def pairs(
        collection: str, first: Iterable[Any], second: Iterable[Any], key: str
    ) -> list[tuple[Any, Any]]:
        ours = {getattr(each, key): each for each in first}
        theirs = {getattr(each, key): each for each in second}
        for name in [*ours, *(name for name in theirs if name not in ours)]:
            if name not in theirs:
                differences.append(Difference(collection, name, "only in the file"))
            elif name not in ours and not (collection == "pools" and _is_default(theirs[name])):
                differences.append(Difference(collection, name, "only in the sandbox"))
        return [(ours[name], theirs[name]) for name in ours if name in theirs]

    hidden: list[str] = []
    for ours, theirs in pairs("connections", wanted.connections, found.connections, "conn_id"):
        if parts := compare_connection(theirs, ours):
            differences.append(Difference("connections", ours.conn_id, ", ".join(parts)))
        hidden += [
            f"{ours.conn_id}.{part}"
            for part in ("password", "extra")
            if MASK in (getattr(theirs, part) or "")
        ]
    for ours, theirs in pairs("variables", wanted.variables, found.variables, "name"):
        parts = [] if same_text(theirs.value, ours.value) else ["value"]
        if ours.description is not None and ours.description != theirs.description:
            parts.append("description")
        if parts:
            differences.append(Difference("variables", ours.name, ", ".join(parts)))
        if MASK in theirs.value:
            hidden.append(ours.name)
    for ours, theirs in pairs("pools", wanted.pools, found.pools, "name"):
        parts = [
            f"{what}: {mine} in the file, {other} in the sandbox"
            for what, mine, other in (
                ("slots", ours.slots, theirs.slots),
                ("description", repr(ours.description), repr(theirs.description)),
            )
            if mine != other
        ]
        if ours.include_deferred is not None and ours.include_deferred != theirs.include_deferred:
            parts.append("include_deferred")
        if parts:
            differences.append(Difference("pools", ours.name, ", ".join(parts)))
    return Comparison(tuple(differences), tuple(hidden))


def compare_connection(found: Connection, wanted: Connection) -> list[str]:
    """The parts in which a connection differs from the wanted one; no values, for they may be secrets."""
    parts = [
        part
        for part in ("conn_type", "host", "schema", "login", "password", "port")
        if not same(getattr(found, part), getattr(wanted, part))
    ]
    if not same_text(found.extra or "", wanted.extra or ""):
        parts.append("extra")
    if wanted.description is not None and wanted.description != found.description:
        parts.append("description")
    return parts


def same_text(found: str, wanted: str) -> bool:
    """Whether texts are the same, or the same JSON: the API writes JSON anew, with its own spaces."""
    if same(found, wanted):
        return True
    first, second = _parsed(found), _parsed(wanted)
    return not (first is found or second is wanted) and same(first, second)


def same(found: Plain, wanted: Plain) -> bool:
    """Whether values are the same as far as can be seen: `***` in `found` stands for anything but null."""
    if isinstance(found, str) and MASK in found:
        if found == MASK:
            return wanted is not None
        pattern = ".*".join(re.escape(piece) for piece in found.split(MASK))
        return isinstance(wanted, str) and re.fullmatch(pattern, wanted, re.DOTALL) is not None
    if isinstance(found, dict) and isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(same(found[key], wanted[key]) for key in found)
    if isinstance(found, list) and isinstance(wanted, list):
        return len(found) == len(wanted) and all(same(a, b) for a, b in zip(found, wanted, strict=True))
    return type(found) is type(wanted) and found == wanted
