"""What a piece of work costs: seconds, and energy where the processor's counters can be read, else CPU seconds.

Intel and AMD processors count the energy of each package in microjoules (RAPL: ``Documentation/power/powercap`` of the
Linux kernel). Most systems let only root read them. They count the whole machine, whoever uses it.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from components.evaluation.score_table import Piece, Score

POWERCAP = Path("/sys/class/powercap")
CPU_SECONDS, JOULES = "cpu_seconds", "joules"
COST_METRICS = (CPU_SECONDS, JOULES)
"""Metrics of the rows by which a table of scores says what it cost."""

_ENERGY, _RANGE = "energy_uj", "max_energy_range_uj"
# A counter wraps once in some forty minutes at 100 W; more than one round cannot be told from the two ends.
_LONGEST_SECONDS = 1800.0


@dataclass(frozen=True)
class Cost:
    """What was spent between the beginning and the end of a ``with`` block."""

    seconds: float
    cpu_seconds: float
    """Of this process, its threads and the children that it has waited for."""
    joules: float | None
    """Of all packages of this machine; ``None`` where nobody counts or may look."""


class Meter:
    """``with Meter() as meter: ...``; afterwards ``meter.cost``."""

    def __init__(self, powercap: Path = POWERCAP) -> None:
        self._powercap = powercap
        self.cost = Cost(0.0, 0.0, None)

    def __enter__(self) -> "Meter":
        self._energy = _counters(self._powercap)
        self._cpu, self._start = _cpu_seconds(), time.monotonic()
        return self

    def __exit__(self, *error: object) -> None:
        seconds, cpu = time.monotonic() - self._start, _cpu_seconds() - self._cpu
        joules = _joules(self._energy, _counters(self._powercap)) if seconds <= _LONGEST_SECONDS else None
        self.cost = Cost(seconds, cpu, joules)


def measured(piece: Piece, name: str, meter: Callable[[], Meter] = Meter) -> Piece:
    """``piece``, with rows added that say what it cost, under ``name`` as their document.

    They have no weight, so they are part of no metric; a piece without scores costs nothing that anybody asks for.
    """

    def make() -> Sequence[Score]:
        with meter() as spent:
            scores = list(piece())
        return [*scores, *_rows(spent.cost, name, scores[0])] if scores else scores

    return make


def _rows(cost: Cost, name: str, like: Score) -> list[Score]:
    """One row for each kind of cost that could be measured."""
    kinds = {CPU_SECONDS: cost.cpu_seconds, JOULES: cost.joules}
    return [
        Score(like.model, like.task, name, kind, value, weight=0.0)
        for kind, value in kinds.items()
        if value is not None
    ]


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _counters(powercap: Path) -> dict[str, tuple[int, int]]:
    """Reading and range of each package's counter, in microjoules; nothing if one of them cannot be read."""
    # ``intel-rapl:0`` is a package (also on AMD); ``intel-rapl:0:1`` is a part of it and would count twice.
    packages = sorted(place for place in powercap.glob("intel-rapl:*") if place.name.count(":") == 1)
    try:
        return {
            place.name: (int((place / _ENERGY).read_text()), int((place / _RANGE).read_text())) for place in packages
        }
    except (OSError, ValueError):
        return {}


def _joules(before: Mapping[str, tuple[int, int]], after: Mapping[str, tuple[int, int]]) -> float | None:
    if not before or before.keys() != after.keys():
        return None
    used = sum((after[name][0] - start) % (limit + 1) for name, (start, limit) in before.items())
    return used / 1e6
