"""Acceptance: a person vouches that an artifact of older code or packages counts as current.

The record of the artifact says so, and so do the records and reports of everything that is made from it.
"""

from collections.abc import Iterable
from datetime import datetime

from pydantic import BaseModel, ConfigDict


class Acceptance(BaseModel):
    """Who vouched for what, when and why."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    stage: str
    """Stage whose artifact was accepted."""
    from_key: str
    """Key under which the artifact was made."""
    changes: list[str]
    """What has changed since it was made, in words."""
    reason: str
    """Why it counts as current all the same, in the words of the person."""
    by: str
    """Who says so."""
    time: datetime
    """When, in UTC."""

    def __str__(self) -> str:
        return (
            f"{self.stage} accepted on {self.time:%Y-%m-%d} by {self.by}: {self.reason} "
            f"(made before: {'; '.join(self.changes)})"
        )


def joined(*several: Iterable[Acceptance]) -> tuple[Acceptance, ...]:
    """All of them, each once, oldest first."""
    found = {(each.stage, each.from_key, each.time): each for accepted in several for each in accepted}
    return tuple(sorted(found.values(), key=lambda each: each.time))


def accepted_section(accepted: Iterable[Acceptance]) -> str:
    """A section for the end of a report in markdown; empty if nothing was accepted."""
    lines = [f"- {each}" for each in accepted]
    return "\n".join(["", "## Accepted by hand", "", *lines, ""]) if lines else ""
