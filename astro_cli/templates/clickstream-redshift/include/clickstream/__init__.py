"""The parts of the loader that need no Airflow: names, generator, parser, load."""

import re

BUCKET = "clickstream"
VARIABLE = "clickstream_customers"
NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")
STYLES = ("sensors", "listing")


def key_of(customer: str, event: str, hour: str) -> str:
    """Where the events of one hour (`2026-01-01T00`) arrive."""
    return f"events/{customer}/{event}/{hour}.jsonl.gz"


def marker_of(customer: str, hour: str) -> str:
    """What says that no more files of this hour will come in time."""
    return f"events/{customer}/_complete/{hour}"


def problem(customer) -> str | None:
    """Why no DAG can be made for this customer, or None."""
    if not isinstance(customer, dict) or not NAME.fullmatch(str(customer.get("name"))):
        return "its name is not made of lower-case letters, digits and _"
    events = customer.get("events")
    if not isinstance(events, list) or not events or not all(NAME.fullmatch(str(one)) for one in events):
        return "its events are not a list of names"
    if customer.get("style") not in STYLES:
        return f"its style is none of {', '.join(STYLES)}"
    if not isinstance(customer.get("wait_seconds"), int):
        return "its wait_seconds is not a number"
    return None
