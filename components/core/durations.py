"""How long something took, as a person says it."""

from datetime import timedelta

from humanize import precisedelta

_HOUR = 3600


def duration(seconds: float) -> str:
    """``0.4 seconds``, ``12 seconds``, ``3 minutes and 5 seconds``, ``2 hours and 10 minutes``."""
    return precisedelta(
        timedelta(seconds=seconds),
        minimum_unit="seconds" if seconds < _HOUR else "minutes",
        format="%0.1f" if seconds < 10 else "%0.0f",
    )
