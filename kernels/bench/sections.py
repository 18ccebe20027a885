"""A run in sections: each measures one shape, is saved when it is done, and can be chosen by name.

A machine that is lent by the hour, and for ten minutes a command, must lose no more than the section under way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from kernels.bench.goals import GOALS, Kernel
from kernels.bench.record import Found, Record
from kernels.bench.timing import reason_of

Part = Literal["correctness", "goals", "choices", "tune"]
PARTS: tuple[Part, ...] = ("correctness", "goals", "choices", "tune")


@dataclass(frozen=True)
class Section:
    """The smallest piece of a run. What ``run`` returns, if anything, is JSON and is saved beside the rows."""

    part: Part
    kernel: Kernel
    what: str
    """What is measured, its shape included; no other section of the part says the same."""
    goals: tuple[str, ...]
    """Those that it adds rows for."""
    run: Callable[[Record], Any] = field(compare=False)

    @property
    def name(self) -> str:
        return f"{self.part}: {self.what}"


@dataclass(frozen=True)
class Choice:
    """Which sections a command is about; an empty choice is all of them."""

    kernels: Sequence[str] = ()
    goals: Sequence[str] = ()
    """Names of goals or their beginnings: ``A4``, ``C3``."""
    shapes: Sequence[str] = ()
    """Parts of what a section says: ``D64``, ``docs``."""

    def of(self, sections: Iterable[Section]) -> list[Section]:
        """The chosen ones. Correctness is checked whatever the goal or the shape is."""
        return [section for section in sections if self._has(section)]

    def _has(self, section: Section) -> bool:
        if self.kernels and section.kernel not in self.kernels:
            return False
        if section.part == "correctness":
            return not self.goals or any(GOALS[name].kernel == section.kernel for name in named(self.goals))
        of_goal = section.part != "goals" or not self.goals or bool(named(self.goals) & set(section.goals))
        return of_goal and (not self.shapes or any(text in section.what for text in self.shapes))


def named(beginnings: Sequence[str]) -> set[str]:
    """The goals whose names are, or begin with, one of ``beginnings``.

    Raises ``ValueError`` for one that no goal has.
    """
    found: set[str] = set()
    for beginning in beginnings:
        goals = {name for name in GOALS if name == beginning or name.startswith(f"{beginning} ")}
        if not goals:
            raise ValueError(f"there is no goal {beginning!r}; there are {', '.join(GOALS)}")
        found |= goals
    return found


def attempt(record: Record, section: Section) -> Found | None:
    """Measures one section. If it breaks, goals without a row get ``not run``, and there is nothing to save.

    Raises ``DeviceLostError`` if the device answers no more.
    """
    record.say(f"  {section.name}")
    rows, measurements = len(record.rows), len(record.measurements)
    try:
        result = section.run(record)
    except Exception as error:  # one section that breaks must not end the table
        record.say(f"    stopped: {reason_of(error)}")
        record.stopwatch.check()
        met = {row.goal.name for row in record.rows[rows:]}
        for goal in section.goals:
            if goal not in met:
                record.row(goal, section.what, reason=reason_of(error))
        return None
    return Found(record.rows[rows:], record.measurements[measurements:], result)
