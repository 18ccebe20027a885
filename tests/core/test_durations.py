"""Durations as people say them."""

import pytest

from components.core.durations import duration


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 seconds"),
        (0.42, "0.4 seconds"),
        (1, "1 second"),
        (12.3, "12 seconds"),
        (59.7, "1 minute"),
        (185, "3 minutes and 5 seconds"),
        (7800, "2 hours and 10 minutes"),
        (90_000, "1 day and 1 hour"),
    ],
)
def test_a_duration_is_said_no_more_exactly_than_anybody_cares(seconds: float, said: str) -> None:
    assert duration(seconds) == said
