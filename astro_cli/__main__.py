"""The entry point: `astro`, and `python -m astro_cli`."""

from __future__ import annotations

import signal
import sys

AGAIN_SECONDS = 0.01


def main() -> None:
    """Run astro; Ctrl-C while it is still being imported is no traceback either."""
    try:
        _never_lose_an_interrupt()
        from astro_cli.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\nhint: nothing was done yet\n")
        sys.exit(130)


def _never_lose_an_interrupt() -> None:
    """Let a Ctrl-C strike again that Python dropped.

    Python cannot raise out of a destructor or a weak reference's callback (each import runs one): it reports
    what happened there as "ignored", and the program would go on as if nobody had pressed a key.
    """
    report = sys.unraisablehook

    def strike_again(ignored: sys.UnraisableHookArgs) -> None:
        if issubclass(ignored.exc_type, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)
        else:
            report(ignored)

    sys.unraisablehook = strike_again
    signal.signal(signal.SIGALRM, signal.default_int_handler)


if __name__ == "__main__":
    main()
