"""What is typed after `astro deployment rollback`."""

from __future__ import annotations

import pytest

from astro_cli.commands.deployment import _name_and_release
from astro_cli.foundation.errors import UsageError


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ([], (None, None)),
        (["prod"], ("prod", None)),
        (["7"], (None, 7)),
        (["prod", "7"], ("prod", 7)),
        (["7", "prod"], ("prod", 7)),
    ],
)
def test_a_name_and_a_number_are_told_apart(words: list[str], meant: tuple[str | None, int | None]):
    assert _name_and_release(words) == meant


def test_two_of_a_kind_are_refused():
    with pytest.raises(UsageError, match="one deployment and one release"):
        _name_and_release(["7", "8"])
