"""For templates in DAGs: `{{ macros.acme_ops.weekday(dag_run.run_after) }}`."""

from datetime import date


def weekday(day: date) -> str:
    """The English name of a day, whatever language the machine speaks."""
    names = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
    return names[day.weekday()]
