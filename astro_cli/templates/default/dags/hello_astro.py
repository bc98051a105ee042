"""What did the coffee bar earn today? A first DAG with a bit of everything.

`extract` reads the orders, `clean` runs three times side by side, `total` adds up and updates the asset
`earnings`, which starts the DAG `asset_report`. `receipt` is a shell command between a setup and a teardown.
`flaky` fails on its first try **on purpose**: open its log, then the log of its second try.
"""

import csv
import shutil
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

from airflow.sdk import Asset, dag, setup, task, teardown

ORDERS = Path(__file__).parents[1] / "include" / "orders.csv"
CHUNKS = 3

earnings = Asset("earnings")


@task
def extract() -> list[list[dict]]:
    """Read the orders and deal them out into chunks."""
    with ORDERS.open(newline="") as file:
        orders = list(csv.DictReader(file))
    return [orders[start::CHUNKS] for start in range(CHUNKS)]


@task
def clean(orders: list[dict]) -> list[int]:
    """Keep the paid orders, as cents."""
    return [round(float(order["price"]) * 100) for order in orders if order["status"].strip() == "paid"]


@task(outlets=[earnings])
def total(chunks: list[list[int]], *, outlet_events) -> str:
    """Add up all chunks, and tell the asset's readers the result."""
    euros = f"{sum(map(sum, chunks)) / 100:.2f}"
    outlet_events[earnings].extra["total"] = euros
    print(f"The coffee bar earned {euros} euros")
    return euros


@setup
@task
def open_folder() -> str:
    """Make a folder for the receipt."""
    return tempfile.mkdtemp(prefix="coffee-")


@task.bash
def receipt(folder: str, euros: str) -> str:
    """Write the receipt with a shell command; on several machines this one may not have the folder yet."""
    return f"mkdir -p {folder} && echo 'Total: {euros} euros' | tee {folder}/receipt.txt"


@teardown
@task
def remove_folder(folder: str) -> None:
    """Clean up, whether the receipt succeeded or not."""
    shutil.rmtree(folder, ignore_errors=True)


@task(retries=1, retry_delay=timedelta(seconds=1))
def flaky(*, ti) -> None:
    """Fail once, to show what a failure looks like."""
    if ti.try_number == 1:
        raise RuntimeError("The milk is off. This failure is on purpose: Airflow tries again.")
    print("The second try found fresh milk")


@dag(
    schedule=None,  # runs when you trigger it
    start_date=datetime(2026, 1, 1),
    catchup=False,
    is_paused_upon_creation=False,  # ready at once; leave this out and a new DAG waits for its switch
    tags=["example"],
    doc_md=__doc__,
)
def hello_astro():
    euros = total(clean.expand(orders=extract()))
    folder = open_folder()
    receipt(folder, euros) >> remove_folder(folder)
    flaky()


hello_astro()
