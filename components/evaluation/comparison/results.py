"""What a comparison finds: records for its file and its pages. No numpy."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from components.evaluation.comparison.directions import Direction
from components.evaluation.results import Interval

Verdict = Literal["better", "worse", "undecided", "no direction"]


def label(task: str, written_as: str, metric: str) -> str:
    """What a line is called."""
    return f"{f'{task} {written_as}'.strip()} ({metric})"


class Finding(BaseModel):
    """One metric of one task: a model against the first."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    task: str
    format: str
    metric: str
    direction: Direction | None
    model: str
    against: str
    value: float
    """Of ``model``, on the examples that both have; so is that of the other."""
    value_against: float
    documents: int
    unpaired: int
    """Examples that only one of the two has; they are left out."""
    difference: Interval
    """``value - value_against``, with its interval over documents that are drawn again, not corrected."""
    test: Literal["sign", "permutation"]
    p_value: float
    """Two-sided, of one test on its own."""
    corrected: float
    """After Holm, for all verdicts of the comparison; 1 where there is none."""
    detectable: float | None
    """The smallest difference that would have been found with a power of 80 %, corrected by Bonferroni."""
    verdict: Verdict


class Change(BaseModel):
    """One example on which a model does better or worse than the first."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    task: str
    format: str
    metric: str
    document: str
    model: str
    against: str
    gain: float
    """How much better, in the unit of the metric; negative: worse."""
    said: str
    said_against: str


class Spent(BaseModel):
    """What the evaluation of one model cost."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    model: str
    examples: int
    tokens: int
    """Read and written."""
    calls: int
    """Of the helper."""
    seconds: float
    cpu_seconds: float | None
    """``None`` where the evaluation did not measure it."""
    joules: float | None
    """Of the whole machine while it ran; ``None`` where that cannot be read."""


class ComparisonResults(BaseModel):
    """Everything that a comparison found; ``comparison.json``."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    models: list[str]
    """In the order given; the others are compared with the first."""
    confidence: float
    values: dict[str, dict[str, float | None]]
    """By ``task format (metric)`` and model, on all of its own examples; ``None`` without a denominator."""
    findings: list[Finding]
    spent: list[Spent]
    counts: dict[str, tuple[int, int]]
    """Examples won and lost, by ``model: task format (metric)``."""
