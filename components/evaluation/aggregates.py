"""From the table of scores to the figures of a report: the value of every metric of every task, with its interval."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

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


class Example(NamedTuple):
    """One document of a task, put in one way."""

    task: str
    document: str
    format: str


@dataclass(frozen=True)
class Cost:
    """What some examples took."""

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
    members: dict[str, dict[Example, Cost]] = {}
    for example, cost in example_costs(scores).items():
        members.setdefault(example.task, {})[example] = cost
    return {
        task: Cost(
            len({example.document for example in each}),
            sum(cost.tokens for cost in each.values()),
            sum(cost.calls for cost in each.values()),
            sum(cost.seconds for cost in each.values()),
        )
        for task, each in members.items()
    }


def example_costs(scores: Iterable[Score]) -> Mapping[Example, Cost]:
    """By example. It was computed once for all of its metrics, so the largest of their rows counts."""
    found: dict[Example, Cost] = {}
    for row in scores:
        if row.metric not in COST_METRICS:
            example = Example(row.task, row.document, row.format)
            cost = found.get(example, Cost(1, 0, 0, 0.0))
            largest = (max(cost.tokens, row.tokens), max(cost.calls, row.calls), max(cost.seconds, row.seconds))
            found[example] = Cost(1, *largest)
    return found
