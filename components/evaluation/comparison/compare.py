"""The comparison itself: every later model against the first, on each task and metric that both have."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import pyarrow as pa

from components.evaluation.bootstrap import difference_interval
from components.evaluation.comparison.config import ComparisonConfig
from components.evaluation.comparison.directions import direction
from components.evaluation.comparison.paired_tests import (
    holm,
    is_right_or_wrong,
    permutation_test,
    sign_test,
    smallest_detectable,
)
from components.evaluation.comparison.pairing import (
    Answered,
    Measure,
    Name,
    Pair,
    measures,
    pair,
    require_same_tasks,
    value,
)
from components.evaluation.comparison.results import Change, Finding, Verdict

Measures = Mapping[Name, Measure]


class Paired(NamedTuple):
    """A model and the one that it is compared with, on one metric."""

    model: str
    against: str
    pair: Pair
    """Its first is ``model``."""


@dataclass(frozen=True)
class Evaluated:
    """What is compared: the measures of each model, by its name, in the order given."""

    models: Mapping[str, Measures]

    @classmethod
    def of(cls, scores: Mapping[str, pa.Table], cfg: ComparisonConfig) -> "Evaluated":
        """Read the tables. Raises ``InputError`` unless all models have the same tasks."""
        models = {name: measures(name, table, cfg.tasks) for name, table in scores.items()}
        require_same_tasks({name: [each.task for each in found] for name, found in models.items()}, cfg.tasks)
        return cls(models)

    @property
    def measured(self) -> list[Name]:
        """What all models have."""
        first, *others = self.models.values()
        return [name for name in first if all(name in other for other in others)]

    def values(self) -> dict[str, dict[str, float | None]]:
        """Every value by name and model."""
        names = dict.fromkeys(name for each in self.models.values() for name in each)
        return {
            str(name): {model: value(each[name]) for model, each in self.models.items() if name in each}
            for name in names
        }

    def pairs(self) -> Iterator[Paired]:
        """Every later model with the first, where both have a value.

        A model that never calls wastes no calls: such a share has no denominator.
        """
        first, *others = self.models
        for name in self.measured:
            for model in others:
                both = pair(name, self.models[model][name], self.models[first][name])
                if both.one[1].any() and both.other[1].any():
                    yield Paired(model, first, both)


def findings(pairs: Iterable[Paired], cfg: ComparisonConfig) -> list[Finding]:
    """A finding for each pair; the p-values are corrected for all that get a verdict."""
    paired = list(pairs)
    decided = sum(direction(each.pair.name.metric) is not None for each in paired)
    level = (1 - cfg.confidence) / max(1, decided)
    found = [_finding(each, level, cfg) for each in paired]
    corrected = iter(holm([each.p_value for each in found if each.direction]))
    return [_decided(each, next(corrected), cfg) if each.direction else each for each in found]


def _finding(paired: Paired, level: float, cfg: ComparisonConfig) -> Finding:
    both = paired.pair
    test, p_value = _tested(both, cfg)
    return Finding(
        task=both.name.task,
        format=both.name.format,
        metric=both.name.metric,
        direction=direction(both.name.metric),
        model=paired.model,
        against=paired.against,
        value=float(both.one[0].sum() / both.one[1].sum()),
        value_against=float(both.other[0].sum() / both.other[1].sum()),
        documents=len(both.documents),
        unpaired=both.unpaired,
        difference=difference_interval(both.one, both.other, cfg),
        test=test,
        p_value=p_value,
        corrected=1.0,
        detectable=smallest_detectable(both.one, both.other, level),
        verdict="no direction",
    )


def _tested(both: Pair, cfg: ComparisonConfig) -> tuple[Literal["sign", "permutation"], float]:
    if is_right_or_wrong(both.one, both.other):
        return "sign", sign_test(both.one[0] - both.other[0])
    return "permutation", permutation_test(both.one, both.other, cfg.resamples, cfg.seed)


def _decided(finding: Finding, corrected: float, cfg: ComparisonConfig) -> Finding:
    gain = _gain(finding.difference.estimate, finding.metric)
    verdict: Verdict = "undecided" if corrected > 1 - cfg.confidence else "better" if gain > 0 else "worse"
    return finding.model_copy(update={"corrected": corrected, "verdict": verdict})


def changes(paired: Paired, measured: Evaluated) -> list[Change]:
    """The examples on which the two differ, the largest gain first; none for a metric without a direction."""
    name = paired.pair.name
    if direction(name.metric) is None:
        return []
    own, other = (measured.models[model][name] for model in (paired.model, paired.against))
    found = [
        Change(
            task=name.task,
            format=name.format,
            metric=name.metric,
            document=document,
            model=paired.model,
            against=paired.against,
            gain=_gain(_per_weight(own[document]) - _per_weight(other[document]), name.metric),
            said=own[document].detail,
            said_against=other[document].detail,
        )
        for document in paired.pair.documents
    ]
    return sorted((each for each in found if each.gain), key=lambda each: -each.gain)


def _per_weight(answered: Answered) -> float:
    return answered.score / answered.weight if answered.weight else 0.0


def _gain(difference: float, metric: str) -> float:
    """``difference`` with the sign that makes more of it better."""
    return -difference if direction(metric) == "lower" else difference
