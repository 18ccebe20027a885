"""How a version answers: how many answers failed, how long the first piece took, and the pauses between pieces.

The canary rule compares these figures of two versions over the same time.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from components.core.errors import LacewingError
from components.deployment.decoding import Delta

# Of the latest answers only: what was long ago says little about now.
_FIRSTS, _PAUSES = 1000, 4000


@dataclass
class Figures:
    """Of one version."""

    answers: int = 0
    """Answers that have ended, failed ones included."""
    failures: int = 0
    """Answers that ended with an error of the server, or with a call to the helper that failed."""
    first_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_FIRSTS))
    """From the submission of a prompt to the first piece of its answer."""
    pause_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_PAUSES))
    """Between neighbouring pieces of an answer."""

    def add(self, failed: bool, first_seconds: Sequence[float] = (), pause_seconds: Sequence[float] = ()) -> None:
        """An answer has ended."""
        self.answers += 1
        self.failures += failed
        self.first_seconds.extend(first_seconds)
        self.pause_seconds.extend(pause_seconds)


class AnswerTimes:
    """When the pieces of an answer to several prompts came, as the engine delivered them, whoever reads them later."""

    def __init__(self, prompts: int) -> None:
        self._start = time.perf_counter()
        self._last: list[float | None] = [None] * prompts
        self.first_seconds: list[float] = []
        self.pause_seconds: list[float] = []
        self.failed = False

    def note(self, prompt: int, delta: "Delta | LacewingError") -> None:
        """A piece of the answer to the prompt of this number has come, or an error in its place."""
        now, last = time.perf_counter(), self._last[prompt]
        if isinstance(delta, LacewingError):
            self.failed = True
            return
        self.failed = self.failed or delta.degraded
        if last is None:
            self.first_seconds.append(now - self._start)
        else:
            self.pause_seconds.append(now - last)
        self._last[prompt] = now

    def end(self) -> None:
        """Nothing follows: whoever has no piece yet has waited at least until now, which counts too."""
        waited = time.perf_counter() - self._start
        self.first_seconds += [waited] * self._last.count(None)


def p95(seconds: Sequence[float]) -> float:
    """The value that 95 % do not exceed; 0 of none."""
    ordered = sorted(seconds)
    return ordered[int(0.95 * (len(ordered) - 1))] if ordered else 0.0
