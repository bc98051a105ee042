"""S4: four ways to wait for files, on the same data: what each costs, and whether any of them fails for nothing.

    python bench/talk/waiting.py [--customers 6] [--events 10] [--workers 4] [--json FILE]

Two hours of files for each customer; in the second one, two types' files do not come and are waited for in vain.
`poke` holds a worker while it waits, `reschedule` gives it back between two looks, `deferrable` waits in the
triggerer, and `listing` has one sensor for the whole hour. Takes 10 minutes.
"""

from __future__ import annotations

import argparse

from clickstream import WAITS, Shops, load, prepare
from load import Talk, machine, tell

WAIT_SECONDS = 30


def main() -> None:
    """Run the scenario once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--customers", type=int, default=6)
    parser.add_argument("--events", type=int, default=10)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--styles", nargs="+", choices=WAITS, default=list(WAITS))
    parser.add_argument("--limit", type=float, default=1800, help="seconds for each style")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    before = machine()
    talk = Talk(parallelism=options.workers, template="clickstream-redshift")
    figures = {}
    try:
        with (talk.project / "requirements.txt").open("a") as file:
            file.write("aiobotocore\n")
        for style in options.styles:
            shops = Shops(style, options.customers, options.events, 2, WAIT_SECONDS, style)
            prepare(talk, shops)
            talk.start()
            figures[style] = load(talk, shops, options.limit)
    finally:
        talk.clean()
    parameters = {name: getattr(options, name) for name in ("customers", "events", "workers")}
    tell("S4 ways to wait", before, {**parameters, "wait_seconds": WAIT_SECONDS}, figures, options.json)


if __name__ == "__main__":
    main()
