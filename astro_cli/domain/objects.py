"""The connections, variables and pools a project brings: `airflow_settings.yaml`, read strictly.

The file has Astronomer's shape, so that users can bring theirs; nothing wrong in it is passed over:

    airflow:
      connections:
        - conn_id: warehouse
          conn_type: postgres
          conn_host: db.example.com
          conn_password: ${WAREHOUSE_PASSWORD}
          conn_port: 5432
          conn_extra: {sslmode: require}
      pools:
        - {pool_name: warehouse, pool_slot: 4, pool_description: one slot a query}
      variables:
        - {variable_name: greeting, variable_value: hello}

`${NAME}` in any value comes from the environment given by the caller; `$${` is a literal `${`. Keys of
mappings are never touched. An entry whose values are all empty, as in a fresh scaffold, is skipped. Error
messages show no values. Beyond Astronomer's keys there are `conn_description`, `variable_description` and
`pool_include_deferred`.

The bodies are those of Airflow 3's REST API (`/api/v2/connections`, `/variables`, `/pools`).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from astro_cli.foundation.yamlfile import load, parse

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from astro_cli.foundation.yamlfile import Node, Plain

_PARTS = ("conn_type", "conn_host", "conn_schema", "conn_login", "conn_password", "conn_port", "conn_extra")
_CONNECTION = ("conn_id", *_PARTS, "conn_uri", "conn_description")
_POOL = ("pool_name", "pool_slot", "pool_description", "pool_include_deferred")
_VARIABLE = ("variable_name", "variable_value", "variable_description")
_KINDS = {"connections": _CONNECTION, "pools": _POOL, "variables": _VARIABLE}

# The placeholder in the file that Astronomer's `init` writes.
_SCAFFOLD_EXTRA = {"example_extra_field": "example-value"}

# Limits of Airflow's REST models; a longer or odd id would be refused there without a line number.
_CONN_ID = re.compile(r"[\w.-]{1,200}")
_VARIABLE_NAME_MAX = 250
_POOL_NAME_MAX = 256

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+._-]*", re.ASCII)
_REFERENCE = re.compile(r"\$(\$?)\{([A-Za-z_][A-Za-z0-9_]*)?(\})?", re.ASCII)


@dataclass(frozen=True)
class Connection:
    """One Airflow connection; `extra` is a JSON object as text. Secret parts stay out of the `repr`."""

    conn_id: str
    conn_type: str
    host: str | None = None
    schema: str | None = None
    login: str | None = None
    password: str | None = field(default=None, repr=False)
    port: int | None = None
    extra: str | None = field(default=None, repr=False)
    description: str | None = None


@dataclass(frozen=True)
class Variable:
    """One Airflow variable; lists and mappings are JSON as text."""

    name: str
    value: str = field(repr=False)
    description: str | None = None


@dataclass(frozen=True)
class Pool:
    """One Airflow pool; -1 slots means unlimited. `include_deferred` None leaves it as it is in Airflow."""

    name: str
    slots: int
    description: str = ""
    include_deferred: bool | None = None


@dataclass(frozen=True)
class Objects:
    """What one objects file holds, in the order of the file."""

    connections: tuple[Connection, ...] = ()
    variables: tuple[Variable, ...] = ()
    pools: tuple[Pool, ...] = ()


def load_objects(path: Path, environment: Mapping[str, str], *, name: str | None = None) -> Objects:
    """Read an objects file.

    Args:
        path: the file.
        environment: where `${NAME}` is looked up.
        name: what messages call the file (default: the path as given).

    Raises:
        ProjectError: missing or invalid, with the line.
    """
    hint = "create it, or name another file with `--settings-file FILE`"
    return _objects(load(path, name=name, hint=hint), environment)


def parse_objects(text: str, environment: Mapping[str, str], *, name: str) -> Objects:
    """The same for a text; see `load_objects`."""
    return _objects(parse(text, name=name), environment)


def raw_entries(
    text: str, environment: Mapping[str, str], *, name: str
) -> dict[str, dict[str, dict[str, Plain]]]:
    """What an objects file says before its references are replaced: by collection, by id, by key.

    Scalars are texts as written; mappings and lists are data. `environment` is for references in ids.
    """
    entries = parse(text, name=name).mapping(optional=("airflow",))
    if "airflow" not in entries:
        return {kind: {} for kind in _KINDS}
    return {
        kind: {
            _expand(row[known[0]], row[known[0]].string(), environment): {
                key: value.plain() if isinstance(value.value, (dict, list)) else value.text
                for key, value in row.items()
            }
            for _, row in _rows(entries["airflow"], kind, environment)
        }
        for kind, known in _KINDS.items()
    }


def connection_body(connection: Connection) -> dict[str, Any]:
    """The body that creates or replaces a connection over REST; parts that are not set are cleared.

    Descriptions, which the file seldom has, stay as they are if it has none.
    """
    return {
        "connection_id": connection.conn_id,
        "conn_type": connection.conn_type,
        "host": connection.host,
        "schema": connection.schema,
        "login": connection.login,
        "password": connection.password,
        "port": connection.port,
        "extra": connection.extra,
        **_if_set(description=connection.description),
    }


def variable_body(variable: Variable) -> dict[str, Any]:
    """The body that creates or replaces a variable over REST."""
    return {"key": variable.name, "value": variable.value, **_if_set(description=variable.description)}


def pool_body(pool: Pool) -> dict[str, Any]:
    """The body that creates or replaces a pool over REST."""
    return {
        "name": pool.name,
        "slots": pool.slots,
        "description": pool.description,
        **_if_set(include_deferred=pool.include_deferred),
    }


def _if_set(**parts: str | bool | None) -> dict[str, Any]:
    return {key: value for key, value in parts.items() if value is not None}


def api_bodies(objects: Objects) -> dict[str, list[dict[str, Any]]]:
    """The REST collections and what each is to hold, in the order of writing."""
    return {
        "pools": [pool_body(pool) for pool in objects.pools],
        "variables": [variable_body(variable) for variable in objects.variables],
        "connections": [connection_body(connection) for connection in objects.connections],
    }


def _objects(root: Node, environment: Mapping[str, str]) -> Objects:
    entries = root.mapping(optional=("airflow",))
    if "airflow" not in entries:
        return Objects()
    node = entries["airflow"]
    return Objects(
        connections=tuple(_connection(*row, environment) for row in _rows(node, "connections", environment)),
        variables=tuple(_variable(*row, environment) for row in _rows(node, "variables", environment)),
        pools=tuple(_pool(*row, environment) for row in _rows(node, "pools", environment)),
    )


def _rows(airflow: Node, kind: str, environment: Mapping[str, str]) -> list[tuple[Node, dict[str, Node]]]:
    """The entries of one collection that are not blank, each with its keys."""
    lists = airflow.mapping(optional=("connections", "pools", "variables"))
    known = _KINDS[kind]
    rows = [(node, node.mapping(optional=known)) for node in lists[kind].items()] if kind in lists else []
    rows = [(node, row) for node, row in rows if not all(_is_blank(value) for value in row.values())]
    _check_ids(rows, known[0], environment)
    return rows


def _is_blank(node: Node) -> bool:
    value = node.plain()
    return value in (None, "", {}, []) or value == _SCAFFOLD_EXTRA


def _check_ids(rows: list[tuple[Node, dict[str, Node]]], key: str, environment: Mapping[str, str]) -> None:
    """Every entry has an id, and no two have the same."""
    lines: dict[str, int] = {}
    for node, row in rows:
        identity = _required(node, row, key, environment)
        if identity in lines:
            raise row[key].error(f'{key} "{row[key].text}" is already on line {lines[identity]}')
        lines[identity] = row[key].line


def _connection(node: Node, row: dict[str, Node], environment: Mapping[str, str]) -> Connection:
    conn_id = _required(node, row, "conn_id", environment)
    if not _CONN_ID.fullmatch(conn_id):
        raise row["conn_id"].error(
            f"{row['conn_id'].path} is not an id Airflow accepts",
            hint="up to 200 letters, digits, `_`, `-` and `.`",
        )
    if _optional(row, "conn_uri", environment):
        if both := [key for key in _PARTS if key in row and not _is_blank(row[key])]:
            raise row[both[0]].error(
                f"{row[both[0]].path} and conn_uri are both set", hint="keep the URI or the parts, not both"
            )
        description = _optional(row, "conn_description", environment)
        return replace(_from_uri(conn_id, row["conn_uri"], environment), description=description)
    return Connection(
        conn_id=conn_id,
        conn_type=_required(node, row, "conn_type", environment),
        host=_optional(row, "conn_host", environment),
        schema=_optional(row, "conn_schema", environment),
        login=_optional(row, "conn_login", environment),
        password=_optional(row, "conn_password", environment),
        port=_port(row.get("conn_port"), environment),
        extra=_extra(row.get("conn_extra"), environment),
        description=_optional(row, "conn_description", environment),
    )


def _variable(node: Node, row: dict[str, Node], environment: Mapping[str, str]) -> Variable:
    name = _required(node, row, "variable_name", environment)
    if len(name) > _VARIABLE_NAME_MAX:
        raise row["variable_name"].error(
            f"{row['variable_name'].path} has over {_VARIABLE_NAME_MAX} characters"
        )
    if "variable_value" not in row:
        raise node.error(f"{node.path} has no variable_value", hint='write "" for an empty value')
    value = row["variable_value"]
    description = _optional(row, "variable_description", environment)
    if isinstance(value.value, (dict, list)):
        return Variable(name, _json(value, value.plain(), environment), description)
    return Variable(name, _expand(value, value.string(), environment), description)


def _pool(node: Node, row: dict[str, Node], environment: Mapping[str, str]) -> Pool:
    name = _required(node, row, "pool_name", environment)
    if len(name) > _POOL_NAME_MAX:
        raise row["pool_name"].error(f"{row['pool_name'].path} has over {_POOL_NAME_MAX} characters")
    slots = _whole_number(_required(node, row, "pool_slot", environment))
    if slots is None or not -1 <= slots < 2**31:
        raise row["pool_slot"].error(f"{row['pool_slot'].path} must be a whole number, or -1 for unlimited")
    deferred = row["pool_include_deferred"].boolean() if "pool_include_deferred" in row else None
    return Pool(name, slots, _optional(row, "pool_description", environment) or "", deferred)


def _required(node: Node, row: dict[str, Node], key: str, environment: Mapping[str, str]) -> str:
    value = _optional(row, key, environment)
    if not value:
        raise row.get(key, node).error(f"{node.path} has no {key}")
    return value


def _optional(row: dict[str, Node], key: str, environment: Mapping[str, str]) -> str | None:
    """The text of a value, or None where it is missing or empty."""
    return _expand(row[key], row[key].string(), environment) or None if key in row else None


def _port(node: Node | None, environment: Mapping[str, str]) -> int | None:
    if node is None or not (text := _expand(node, node.string(), environment)):
        return None
    port = _whole_number(text)
    if port is None or not 1 <= port <= 65535:
        raise node.error(f"{node.path} must be a port, 1 to 65535")
    return port


def _whole_number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[-+]?[0-9]{1,10}", text, re.ASCII) else None


def _extra(node: Node | None, environment: Mapping[str, str]) -> str | None:
    """A mapping, or JSON text, as a JSON object with the same keys and values."""
    if node is None or _is_blank(node):
        return None
    data = node.plain()
    if isinstance(data, str):
        try:
            data = json.loads(data)
        except (ValueError, RecursionError):
            # Without `from`: the cause would carry the text, secrets included.
            raise node.error(
                f"{node.path} is not valid JSON",
                hint='write a mapping, or JSON with references inside quotes: {"token": "${TOKEN}"}',
            ) from None
    if not isinstance(data, dict):
        raise node.error(f"{node.path} must be a mapping or a JSON object")
    return _json(node, data, environment)


def _json(node: Node, data: Plain, environment: Mapping[str, str]) -> str:
    """`data` with its references replaced, as JSON."""
    try:
        text = json.dumps(_expand_all(node, data, environment), ensure_ascii=False, allow_nan=False)
        text.encode("utf-8")
    except (ValueError, RecursionError):
        raise node.error(f"{node.path} has a value that JSON cannot hold") from None
    return text


def _expand_all(node: Node, data: Plain, environment: Mapping[str, str]) -> Plain:
    """`data` with references in all its texts replaced; keys stay."""
    if isinstance(data, str):
        return _expand(node, data, environment)
    if isinstance(data, list):
        return [_expand_all(node, item, environment) for item in data]
    if isinstance(data, dict):
        return {key: _expand_all(node, item, environment) for key, item in data.items()}
    return data


def _expand(node: Node, text: str, environment: Mapping[str, str]) -> str:
    """`text` with `${NAME}` replaced and `$${` turned into `${`."""

    def replace(match: re.Match[str]) -> str:
        escaped, name, end = match.groups()
        if escaped:
            return match.group()[1:]
        if not name or not end:
            raise node.error(
                f"{node.path} has a `${{` that is no reference", hint="write ${NAME}, or $${ for a literal ${"
            )
        if name not in environment:
            raise node.error(f"{node.path}: ${{{name}}} is not set", hint=f"add {name}=… to .env")
        return environment[name]

    return _REFERENCE.sub(replace, text)


def _from_uri(conn_id: str, node: Node, environment: Mapping[str, str]) -> Connection:
    """A connection from its URI, read as Airflow reads `AIRFLOW_CONN_*`.

    `type://login:password@host:port/schema?key=value`, every part percent-encoded; the host may carry a
    protocol of its own (`http://https://example.com`); extras are query parameters, JSON where they parse,
    or one `__extra__`.
    Rules: https://airflow.apache.org/docs/apache-airflow/stable/howto/connection.html#uri-format
    """
    uri = _expand(node, node.string(), environment)
    scheme, separator, rest = uri.partition("://")
    protocol, inner, address = rest.partition("://")
    if inner and not set(protocol) & set("@:/?#"):
        prefix = f"{protocol.lower()}://"
    else:
        prefix, address = "", rest
    try:
        if not separator or not _SCHEME.fullmatch(scheme) or "://" in address.partition("?")[0]:
            raise ValueError
        parts = urlsplit(f"//{address}")
        port = parts.port
    except ValueError:
        # Without the cause, which quotes pieces of the URI: they may be the password.
        raise node.error(
            f"{node.path} is not a connection URI",
            hint="type://login:password@host:port/schema?key=value, special characters percent-encoded",
        ) from None
    conn_type = scheme.lower().replace("-", "_")
    host = unquote(parts.hostname or "")
    if "/" in host:  # a socket's path, which `hostname` has put in lower case
        host = unquote(parts.netloc.rpartition("@")[2].partition(":")[0])
    return Connection(
        conn_id=conn_id,
        conn_type="postgres" if conn_type == "postgresql" else conn_type,
        host=f"{prefix}{host}" if host else None,
        schema=unquote(parts.path[1:]) or None,
        login=unquote(parts.username or "") or None,
        password=unquote(parts.password or "") or None,
        port=port,
        extra=_uri_extra(node, parts.query),
    )


def _uri_extra(node: Node, query: str) -> str | None:
    try:
        texts = dict(parse_qsl(query, keep_blank_values=True))
    except ValueError:
        raise node.error(f"{node.path}: too many query parameters") from None
    extra: Plain = {key: _json_or_text(value) for key, value in texts.items()}
    if "__extra__" in texts:
        extra = _json_or_text(texts["__extra__"])
        if not isinstance(extra, dict):
            raise node.error(f"{node.path}: __extra__ must be a JSON object")
    return json.dumps(extra, ensure_ascii=False) if extra else None


def _json_or_text(text: str) -> Plain:
    try:
        data: Plain = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return data
