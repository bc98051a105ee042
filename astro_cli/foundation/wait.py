"""Waiting for a condition, with the clock as an argument so that tests need no real time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Clock(Protocol):
    """What of `time` is needed: a monotonic reading and a sleep, both in seconds."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; never goes back."""

    def sleep(self, seconds: float, /) -> None:
        """Do nothing for `seconds`."""


def wait_until(
    check: Callable[[], T | None], *, seconds: float, clock: Clock = time, pause: float = 0.25
) -> T | None:
    """Call `check` until it returns something other than None, or `seconds` have passed.

    `check` is always called at least once; what it raises ends the wait. Returns its answer, or None when
    the time was up.
    """
    end = clock.monotonic() + seconds
    while True:
        answer = check()
        if answer is not None or clock.monotonic() >= end:
            return answer
        clock.sleep(pause)
