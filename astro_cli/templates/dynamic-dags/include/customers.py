"""What a customer's configuration may say. Plain Python: the same for the sync, the DAGs and the tests."""

import json
import re

NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")
SCHEDULES = ("@hourly", "@daily", "@weekly")
VARIABLE = "customers"


def problem(customer) -> str | None:
    """Why no DAG can be made for this customer, or None."""
    if not isinstance(customer, dict) or not NAME.fullmatch(str(customer.get("name"))):
        return "its name is not made of lower-case letters, digits and _"
    if customer.get("schedule") not in SCHEDULES:
        return f"its schedule {customer.get('schedule')!r} is none of {', '.join(SCHEDULES)}"
    events = customer.get("events")
    if not isinstance(events, list) or not events or not all(NAME.fullmatch(str(one)) for one in events):
        return "its events are not a list of names"
    return None


def sort_out(answer: list) -> tuple[list[dict], list[str]]:
    """The customers that get a DAG, by name, and a sentence for each that cannot have one."""
    good, bad = {}, []
    for number, customer in enumerate(answer):
        if why := problem(customer):
            bad.append(f"customer {number + 1} is left out: {why}")
        elif customer["name"] in good:
            bad.append(f"customer {number + 1} is left out: {customer['name']} is there twice")
        elif customer.get("enabled", True):
            kept = {key: customer[key] for key in ("name", "schedule")}
            good[customer["name"]] = {**kept, "events": sorted(set(customer["events"]))}
    return [good[name] for name in sorted(good)], bad


def as_text(customers: list[dict]) -> str:
    """As it is kept: the same customers are always the same text, so that nothing changes without a reason."""
    return json.dumps(customers, sort_keys=True)
