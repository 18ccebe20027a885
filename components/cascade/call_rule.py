"""When to call: at a running quantile of the scores, which keeps to a budget also where the text drifts.

A threshold from calibration is right on average over text like the calibration's. What a model writes is not such text
(it follows its own tokens and the helper's), and a subject full of facts is not the average either. So the threshold is
the quantile of the last scores, begun with the calibration's, and moved by how far the calls are from the budget.
"""

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from components.cascade.calibration import CallCalibration, check_budget
from components.cascade.config import CascadeConfig

WINDOW = 512
# Calls ahead of or behind the budget at most, at any time and on any input: after 512 decisions, 0.8 points.
BAND = 4.0
_GOLDEN = 0.6180339887498949


class CallRule(Protocol):
    """Decides from the score of each position, in order."""

    def wants(self, score: float) -> bool:
        """Whether to call here."""

    def record(self, score: float, called: bool) -> None:
        """What became of it: the request's limit may have refused the call."""


class RunningQuantile:
    """Calls the positions whose score is above the (1 - budget) quantile of the window.

    With e calls ahead of the budget the quantile is that of budget * 2 ** (-e / BAND). Two stops make it a promise: no
    call that would lead more than BAND ahead, and a call, whatever the score, rather than fall more than BAND behind.
    As long as every wish is followed, e stays within BAND either way: not calling moves it by -budget, calling by
    1 - budget, and as these lie less than twice BAND apart, one of them at least does not leave the band.
    """

    def __init__(self, budget: float, quantiles: Sequence[float], window: int = WINDOW) -> None:
        """``quantiles``: of the calibration, ascending at even steps. The window is filled from them."""
        check_budget(budget)
        self.budget = budget
        self.decisions = 0
        self.calls = 0
        # By the golden ratio, so that at any time those that have not left the window yet are spread evenly.
        places = ((i * _GOLDEN) % 1.0 for i in range(window))
        self._recent = deque(quantiles[int(place * len(quantiles))] for place in places)
        self._sorted = sorted(self._recent)

    @property
    def ahead(self) -> float:
        """Calls made more than the budget foresees; negative: fewer."""
        return self.calls - self.budget * self.decisions

    @property
    def threshold(self) -> float:
        """The score that must be exceeded now, the stops aside."""
        share = min(1.0, self.budget * math.exp2(-self.ahead / BAND))
        above = math.floor(share * len(self._sorted) + 0.5)
        if above >= len(self._sorted):
            return float("-inf")
        return self._sorted[len(self._sorted) - 1 - above]

    def wants(self, score: float) -> bool:
        if self.budget in (0.0, 1.0):
            return self.budget == 1.0
        ahead = self.ahead
        if ahead + 1.0 - self.budget > BAND:
            return False
        return ahead - self.budget < -BAND or score > self.threshold

    def record(self, score: float, called: bool) -> None:
        if math.isnan(score):
            raise ValueError("the score of a position is NaN: the model has diverged or its weights are damaged")
        self.decisions += 1
        self.calls += called
        oldest = self._recent.popleft()
        del self._sorted[bisect_left(self._sorted, oldest)]
        self._recent.append(score)
        insort(self._sorted, score)


class FixedThreshold:
    """Calls the positions whose score is above a threshold that does not move."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def wants(self, score: float) -> bool:
        return score > self.threshold

    def record(self, score: float, called: bool) -> None:
        """Nothing to learn."""


def call_rule(config: CascadeConfig, budget: float, calibration: CallCalibration) -> CallRule:
    """The rule for ``budget``; never a call where the calibration text stated no facts."""
    fixed = calibration.threshold(budget, config.call_score)
    if config.rule == "fixed" or math.isinf(fixed):
        return FixedThreshold(fixed)
    return RunningQuantile(budget, calibration.levels(config.call_score))
