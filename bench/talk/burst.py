"""S3: one hour's burst of the talk, with real files and a real warehouse, and every row counted.

    python bench/talk/burst.py [--customers 137] [--events 10] [--workers 8] [--json FILE]

It is the template `clickstream-redshift` with many customers: for each, ten sensors, ten loads and the totals.
For 137 customers that is 2,877 task instances. All runs are triggered at once; the time counts until the last has
ended. Takes 15 minutes and more.
"""

from __future__ import annotations

import argparse

from clickstream import Shops, load, prepare
from load import Talk, machine, tell


def main() -> None:
    """Run the scenario once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--customers", type=int, default=137)
    parser.add_argument("--events", type=int, default=10)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--limit", type=float, default=7200, help="seconds")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    before = machine()
    talk = Talk(parallelism=options.workers, template="clickstream-redshift")
    shops = Shops("shop", options.customers, options.events)
    try:
        prepare(talk, shops)
        talk.start()
        figures = load(talk, shops, options.limit)
    finally:
        talk.clean()
    parameters = {name: getattr(options, name) for name in ("customers", "events", "workers")}
    tell("S3 hourly burst", before, parameters, figures, options.json)


if __name__ == "__main__":
    main()
