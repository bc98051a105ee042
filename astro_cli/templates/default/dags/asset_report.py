"""Runs whenever `hello_astro` updates the asset `earnings`, and reports what it says."""

from datetime import datetime

from airflow.sdk import Asset, dag, task

earnings = Asset("earnings")


@task
def report(*, triggering_asset_events) -> list[str]:
    """Print the total of every update that led to this run; none if you triggered it by hand."""
    totals = [event.extra["total"] for event in triggering_asset_events[earnings]]
    for euros in totals:
        print(f"Reported: {euros} euros")
    return totals


@dag(
    schedule=[earnings],  # runs when the asset is updated
    start_date=datetime(2026, 1, 1),
    catchup=False,
    is_paused_upon_creation=False,
    tags=["example"],
    doc_md=__doc__,
)
def asset_report():
    report()


asset_report()
