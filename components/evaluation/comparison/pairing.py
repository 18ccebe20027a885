"""The scores of several models by task and metric, paired by example."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from components.core.errors import ArtifactError, InputError
from components.evaluation.cost import COST_METRICS

Example = tuple[str, str]
"""Document and format."""


@dataclass(frozen=True)
class Answered:
    """What one model scored on one example."""

    score: float
    weight: float
    detail: str


@dataclass(frozen=True)
class Measure:
    """One metric of one task, for one model."""

    task: str
    metric: str
    answers: Mapping[Example, Answered]

    @property
    def value(self) -> float | None:
        """The ratio of sums; ``None`` if the weights sum to nothing."""
        below = sum(each.weight for each in self.answers.values())
        return sum(each.score for each in self.answers.values()) / below if below else None


@dataclass(frozen=True)
class Pair:
    """One metric of one task for two models, on the examples that both have.

    The formats of a document are added up: documents are drawn independently of each other, their formats are not.
    """

    task: str
    metric: str
    examples: list[Example]
    documents: list[str]
    one: tuple[Float[np.ndarray, " documents"], Float[np.ndarray, " documents"]]
    """Numerator and denominator of the first model, by document."""
    other: tuple[Float[np.ndarray, " documents"], Float[np.ndarray, " documents"]]
    unpaired: int
    """Examples that only one of the two has."""


def measures(model: str, scores: pa.Table, tasks: Sequence[str] = ()) -> dict[tuple[str, str], Measure]:
    """The measures of one model by task and metric, in the order of the table; those of costs are left out.

    Raises ``ArtifactError`` if an example is there twice or its score is not finite.
    """
    found: dict[tuple[str, str], dict[Example, Answered]] = {}
    names = ("task", "metric", "document", "format", "score", "weight", "detail")
    columns = (scores.column(name).to_pylist() for name in names)
    for task, metric, document, written_as, score, weight, detail in zip(*columns, strict=True):
        if metric in COST_METRICS or (tasks and task not in tasks):
            continue
        if not (math.isfinite(score) and math.isfinite(weight)):
            raise ArtifactError(f"{model} has no finite {metric} on {document!r} of {task}: the model is damaged")
        answers = found.setdefault((task, metric), {})
        if (document, written_as) in answers:
            raise ArtifactError(f"{model} has two scores for {metric} on {document!r} of {task}: evaluate it again")
        answers[document, written_as] = Answered(score, weight, detail)
    return {(task, metric): Measure(task, metric, answers) for (task, metric), answers in found.items()}


def pair(one: Measure, other: Measure) -> Pair:
    """Both on the examples that both have; raises ``InputError`` if there is none."""
    examples = [example for example in one.answers if example in other.answers]
    if not examples:
        raise InputError(
            f"the evaluations share no example of {one.task} ({one.metric}): they were made from different data. "
            "Evaluate both with the same settings"
        )
    documents = list(dict.fromkeys(document for document, _ in examples))
    place = {document: position for position, document in enumerate(documents)}
    where = np.array([place[document] for document, _ in examples])
    unpaired = len(one.answers) + len(other.answers) - 2 * len(examples)
    return Pair(
        one.task,
        one.metric,
        examples,
        documents,
        _sums(one, examples, where, len(documents)),
        _sums(other, examples, where, len(documents)),
        unpaired,
    )


def _sums(
    measure: Measure, examples: Sequence[Example], where: np.ndarray, documents: int
) -> tuple[Float[np.ndarray, " documents"], Float[np.ndarray, " documents"]]:
    answers = [measure.answers[example] for example in examples]
    above, below = np.zeros(documents), np.zeros(documents)
    np.add.at(above, where, [each.score for each in answers])
    np.add.at(below, where, [each.weight for each in answers])
    return above, below


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
