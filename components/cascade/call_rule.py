"""When to call: at a running quantile of the scores, which keeps to the budget even if the text drifts.

A threshold from calibration is right on average, for text like that of the calibration. The text that a model writes is
different, because it continues the model's own tokens and the helper's, and a subject with many facts is not average.
So the threshold is the quantile of the most recent scores. It starts with the scores of the calibration, and it is
adjusted by the difference between the calls made and the budget.
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
        """Record what happened: the limit of the request may have refused the call."""


class RunningQuantile:
    """Calls the positions whose score is above the (1 - budget) quantile of the window.

    With e calls ahead of the budget, the quantile is that of budget * 2 ** (-e / BAND). Two limits make this a
    guarantee: no call that would lead more than BAND ahead, and a call at any score rather than fall more than BAND
    behind. As long as every decision is carried out, e stays within BAND on both sides: not calling changes it by
    -budget, calling by 1 - budget. These differ by less than twice BAND, so at least one of them stays inside the band.
    """

    def __init__(self, budget: float, quantiles: Sequence[float], window: int = WINDOW) -> None:
        """``quantiles``: of the calibration, ascending at even steps. The window is filled from them."""
        check_budget(budget)
        self.budget = budget
        self.decisions = 0
        self.calls = 0
        # Ordered by the golden ratio, so that those that are still in the window are always spread evenly.
        places = ((i * _GOLDEN) % 1.0 for i in range(window))
        self._recent = deque(quantiles[int(place * len(quantiles))] for place in places)
        self._sorted = sorted(self._recent)

    @property
    def ahead(self) -> float:
        """Calls made beyond the budget; negative if there were fewer."""
        return self.calls - self.budget * self.decisions

    @property
    def threshold(self) -> float:
        """The score that must be exceeded now, apart from the two limits."""
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
        """A fixed threshold does not change."""


class Least:
    """Calls where ``rule`` does, but never below the score ``least``: the calls that are left over are not made up."""

    def __init__(self, rule: CallRule, least: float) -> None:
        self._rule = rule
        self.least = least

    def wants(self, score: float) -> bool:
        return score >= self.least and self._rule.wants(score)

    def record(self, score: float, called: bool) -> None:
        self._rule.record(score, called)


def call_rule(config: CascadeConfig, budget: float, calibration: CallCalibration) -> CallRule:
    """The rule for ``budget``; never a call where the calibration text stated no facts."""
    fixed = calibration.threshold(budget, config.call_score)
    rule: CallRule = FixedThreshold(fixed)
    if config.rule == "running_quantile" and not math.isinf(fixed):
        rule = RunningQuantile(budget, calibration.levels(config.call_score))
    return Least(rule, config.least_score) if config.least_score else rule
