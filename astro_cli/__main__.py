"""The entry point: `astro`, and `python -m astro_cli`."""

import sys


def main() -> None:
    """Run astro; Ctrl-C while it is still being imported is no traceback either."""
    try:
        from astro_cli.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\nhint: nothing was done yet\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
