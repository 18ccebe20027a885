"""From the table of scores to the figures of a report: the value of every metric of every task, with its interval."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from components.evaluation.bootstrap import ratio_interval
from components.evaluation.config import BootstrapConfig
from components.evaluation.cost import COST_METRICS
from components.evaluation.results import Interval
from components.evaluation.score_table import Score

_BOOTSTRAP = BootstrapConfig(resamples=2_000)


@dataclass(frozen=True)
class Aggregate:
    """One metric of one model on one task, put in one way."""

    model: str
    task: str
    format: str
    metric: str
    scores: Float[np.ndarray, " examples"]
    weights: Float[np.ndarray, " examples"]

    @property
    def value(self) -> float:
        return float(self.scores.sum() / self.weights.sum())

    @cached_property
    def interval(self) -> Interval:
        """The 95 % interval of the value when examples are drawn again."""
        return ratio_interval(self.scores, self.weights, _BOOTSTRAP)


@dataclass(frozen=True)
class Cost:
    """What one task took."""

    examples: int
    tokens: int
    calls: int
    seconds: float


def aggregates(scores: Iterable[Score]) -> list[Aggregate]:
    """In the order in which they first stand in the table; what has no weight is left out."""
    members: dict[tuple[str, str, str, str], list[Score]] = {}
    for score in scores:
        if score.weight > 0:
            members.setdefault((score.model, score.task, score.format, score.metric), []).append(score)
    return [
        Aggregate(*key, np.array([each.score for each in rows]), np.array([each.weight for each in rows]))
        for key, rows in members.items()
    ]


def costs(scores: Iterable[Score]) -> Mapping[str, Cost]:
    """By task."""
    members: dict[str, list[Score]] = {}
    for score in scores:
        if score.metric not in COST_METRICS:
            members.setdefault(score.task, []).append(score)
    return {
        task: Cost(
            len({row.document for row in rows}),
            sum(row.tokens for row in rows),
            sum(row.calls for row in rows),
            sum(row.seconds for row in rows),
        )
        for task, rows in members.items()
    }
