from __future__ import annotations

from astro_cli.foundation.wait import wait_until


class FakeClock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float, /) -> None:
        self.now += seconds


def test_the_answer_comes_back_as_soon_as_there_is_one():
    clock = FakeClock()
    answers = iter([None, None, "up"])
    assert wait_until(lambda: next(answers), seconds=60, clock=clock, pause=1) == "up"
    assert clock.now == 2


def test_none_comes_back_when_the_time_is_up():
    clock = FakeClock()
    assert wait_until(lambda: None, seconds=5, clock=clock, pause=1) is None
    assert clock.now == 5


def test_the_check_is_made_once_even_without_time():
    assert wait_until(lambda: "up", seconds=0, clock=FakeClock()) == "up"
