"""Who of those that are answered together used how much energy.

The processor counts for the whole machine. So from one beginning or end of an answer to the next, what was counted is
shared equally among the answers that were in the batch: each pays for its time, whatever was done in it. Time in which
nothing was answered is nobody's. What else runs on the machine counts too.
"""

import threading
import time
from collections.abc import Callable

from components.evaluation.cost import Meter


class EnergyShares:
    """What one answer is charged, from ``enter`` to ``leave``. Thread-safe."""

    def __init__(self, watts: float | None = None, meter: Callable[[], Meter] = Meter) -> None:
        """``watts``: what the machine takes while it answers, instead of what is counted: an estimate."""
        self.estimated = watts is not None
        self._watts, self._meter = watts, meter
        self._lock = threading.Lock()
        self._present = 0
        self._each = 0.0
        """Joules of somebody who had been here since the beginning."""
        self._unknown = 0
        """How often nobody could count."""
        self._began = 0.0
        self._running: Meter | None = None

    def enter(self) -> tuple[float, int]:
        """An answer begins; what ``leave`` and ``spent`` need to know of it."""
        with self._lock:
            self._settle()
            self._present += 1
            self._start()
            return self._each, self._unknown

    def leave(self, entered: tuple[float, int]) -> float | None:
        """An answer ends; its joules, or ``None`` if they are not known."""
        with self._lock:
            self._settle()
            self._present -= 1
            self._start()
            each, unknown = entered
            return self._each - each if self._unknown == unknown else None

    def _start(self) -> None:
        if not self._present:
            self._running = None
        elif self._watts is not None:
            self._began = time.monotonic()
        else:
            self._running = self._meter().__enter__()

    def _settle(self) -> None:
        """Share what has been used since the last event."""
        if not self._present:
            return
        if self._watts is not None:
            self._each += self._watts * (time.monotonic() - self._began) / self._present
            return
        assert self._running is not None
        self._running.__exit__()
        joules = self._running.cost.joules
        if joules is None:
            self._unknown += 1
        else:
            self._each += joules / self._present
