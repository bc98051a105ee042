"""Salesforce's types of fields, and the tables that follow them."""

import re

BUCKET = "salesforce"
OBJECTS = ("Account", "Contact")
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,60}")
TYPES = {
    "boolean": "boolean",
    "int": "bigint",
    "double": "double precision",
    "percent": "double precision",
    "currency": "numeric",
    "date": "date",
    "datetime": "timestamptz",
}
"""A field's type and its column's; all others are text."""


def columns(description: dict) -> dict[str, str]:
    """The columns that an object's description asks for, by name."""
    fields = {one["name"]: TYPES.get(one["type"], "text") for one in description["fields"]}
    return {name.lower(): fields[name] for name in sorted(fields) if NAME.fullmatch(name)}


def drift(wanted: dict[str, str], present: dict[str, str]) -> dict[str, list[str]]:
    """How a table differs from its object: what to add, what only the table has, and what has another type.

    :param present: the table's columns, with types as PostgreSQL's catalog names them.
    """
    names = {"timestamptz": "timestamp with time zone"}
    return {
        "add": [name for name in wanted if name not in present],
        "gone": [name for name in present if name not in wanted],
        "changed": [
            name
            for name in wanted
            if name in present and present[name] != names.get(wanted[name], wanted[name])
        ],
    }
