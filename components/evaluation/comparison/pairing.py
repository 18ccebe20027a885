"""The scores of several models by task, format and metric, paired by document."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from components.core.errors import ArtifactError, InputError
from components.evaluation.comparison.directions import NOT_COMPARED
from components.evaluation.comparison.paired_tests import Sums
from components.evaluation.comparison.results import label
from components.evaluation.cost import COST_METRICS


class Name(NamedTuple):
    """Of what is compared: documents that are put in several ways give several lines."""

    task: str
    format: str
    metric: str

    def __str__(self) -> str:
        return label(*self)


@dataclass(frozen=True)
class Answered:
    """What one model scored on one document."""

    score: float
    weight: float
    detail: str


Measure = Mapping[str, Answered]
"""One metric of one model, by document."""


@dataclass(frozen=True)
class Pair:
    """One metric for two models, on the documents that both have."""

    name: Name
    documents: list[str]
    one: Sums
    """Numerator and denominator of the first model, by document."""
    other: Sums
    unpaired: int
    """Documents that only one of the two has."""


def value(measure: Measure) -> float | None:
    """The ratio of sums; ``None`` if the weights sum to nothing."""
    below = sum(each.weight for each in measure.values())
    return sum(each.score for each in measure.values()) / below if below else None


def measures(model: str, scores: pa.Table, tasks: Sequence[str] = ()) -> dict[Name, Measure]:
    """The measures of one model in the order of the table, but for costs and parts of other metrics.

    Raises ``ArtifactError`` if a document is there twice or its score is not finite.
    """
    found: dict[Name, dict[str, Answered]] = {}
    columns = ("task", "format", "metric", "document", "score", "weight", "detail")
    for task, written_as, metric, document, score, weight, detail in zip(
        *(scores.column(name).to_pylist() for name in columns), strict=True
    ):
        if metric in (*COST_METRICS, *NOT_COMPARED) or (tasks and task not in tasks):
            continue
        name = Name(task, written_as, metric)
        if not (math.isfinite(score) and math.isfinite(weight)):
            raise ArtifactError(f"{model} has no finite {metric} on {document!r} of {task}: the model is damaged")
        answers = found.setdefault(name, {})
        if document in answers:
            raise ArtifactError(f"{model} has two scores for {name} on {document!r}: evaluate it again")
        answers[document] = Answered(score, weight, detail)
    return {**found}


def pair(name: Name, one: Measure, other: Measure) -> Pair:
    """Both on the documents that both have; raises ``InputError`` if there is none."""
    documents = [document for document in one if document in other]
    if not documents:
        raise InputError(
            f"the evaluations share no example of {name}: they were made from different data. Evaluate both with the "
            "same settings"
        )
    unpaired = len(one) + len(other) - 2 * len(documents)
    return Pair(name, documents, _sums(one, documents), _sums(other, documents), unpaired)


def _sums(measure: Measure, documents: Sequence[str]) -> Sums:
    answers = [measure[document] for document in documents]
    return np.array([each.score for each in answers]), np.array([each.weight for each in answers])


def require_same_tasks(models: Mapping[str, Iterable[str]], wanted: Iterable[str] = ()) -> None:
    """Raise ``InputError`` naming what is missing unless all models have the same tasks, and those ``wanted``."""
    tasks = {name: set(each) for name, each in models.items()}
    everything = sorted(set(wanted).union(*tasks.values()))
    lacking = {name: [task for task in everything if task not in own] for name, own in tasks.items()}
    if missing := [f"{name} lacks {', '.join(each)}" for name, each in lacking.items() if each]:
        shared = sorted(set.intersection(*tasks.values()))
        advice = f", or compare on what all have: compare.tasks=[{','.join(shared)}]" if shared else ""
        raise InputError(
            f"the models were evaluated on different tasks: {'; '.join(missing)}. Evaluate them on the same{advice}"
        )
