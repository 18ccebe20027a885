"""How well labels are told: accuracy and macro-F1 with bootstrap intervals, and each label by itself.

Decisions are a matrix, a row for each text and a column for each label. Accuracy is the share of texts all of whose
labels are right. Macro-F1 is the mean over the labels of 2 tp / (2 tp + fp + fn); a label that neither occurs nor is
said counts for nothing. All contenders are resampled by the same draws, so differences are paired.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from components.evaluation.config import BootstrapConfig
from components.evaluation.results import Interval
from components.finetune.classify.labelled import LabelledText
from components.finetune.classify.labels import LabelSet

Decisions = Bool[np.ndarray, "texts labels"]
_DRAWS_AT_ONCE = 1_000_000


@dataclass(frozen=True)
class LabelScores:
    """How well one label is found."""

    texts: int
    """Texts that have it."""
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Measures:
    """One contender on some texts."""

    accuracy: Interval
    macro_f1: Interval


def decisions(texts: Sequence[Sequence[str]], labels: LabelSet) -> Decisions:
    """The labels of every text as a row of decisions."""
    found = np.zeros((len(texts), len(labels.labels)), dtype=bool)
    for row, given in zip(found, texts, strict=True):
        row[labels.numbers(given)] = True
    return found


def commonest(train: Sequence[LabelledText], texts: int, labels: LabelSet) -> tuple[str, Decisions]:
    """The labels that most training texts have, in words, and as the answer to each of so many texts."""
    most = Counter(tuple(text.labels) for text in train).most_common(1)[0][0]
    return " and ".join(most) or "no label", decisions([most] * texts, labels)


def measures(true: Decisions, said: Decisions, config: BootstrapConfig) -> Measures:
    """Accuracy and macro-F1, at least one text."""
    accuracy, f1 = _resampled(true, said, config)
    return Measures(
        _interval(float((true == said).all(axis=1).mean()), accuracy, config),
        _interval(_macro_f1(np.ones((1, len(true))), true, said)[0], f1, config),
    )


def macro_f1_gain(true: Decisions, said: Decisions, other: Decisions, config: BootstrapConfig) -> Interval:
    """Macro-F1 of ``said`` less that of ``other``, on the same texts."""
    once = np.ones((1, len(true)))
    estimate = _macro_f1(once, true, said)[0] - _macro_f1(once, true, other)[0]
    return _interval(estimate, _resampled(true, said, config)[1] - _resampled(true, other, config)[1], config)


def label_scores(true: Decisions, said: Decisions) -> list[LabelScores]:
    """Precision, recall and F1 of every label; 0 where there is nothing to divide by."""
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(true, said, average=None, zero_division=0.0)
    return [
        LabelScores(int(texts), float(precision), float(recall), float(f1))
        for precision, recall, f1, texts in zip(*columns, strict=True)
    ]


def _interval(estimate: float, resampled: Float[np.ndarray, " resamples"], config: BootstrapConfig) -> Interval:
    tail = (1 - config.confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Interval(float(estimate), float(low), float(high))


def _resampled(
    true: Decisions, said: Decisions, config: BootstrapConfig
) -> tuple[Float[np.ndarray, " resamples"], Float[np.ndarray, " resamples"]]:
    """Accuracy and macro-F1 of every resample; the draws depend on the seed and the number of texts alone."""
    texts = len(true)
    random = np.random.default_rng(config.seed)
    step = max(1, _DRAWS_AT_ONCE // texts)
    right = (true == said).all(axis=1)
    accuracy, f1 = np.empty(config.resamples), np.empty(config.resamples)
    for start in range(0, config.resamples, step):
        size = min(step, config.resamples - start)
        drawn = random.multinomial(texts, np.full(texts, 1 / texts), size=size).astype(np.float64)
        accuracy[start : start + size] = drawn @ right / texts
        f1[start : start + size] = _macro_f1(drawn, true, said)
    return accuracy, f1


def _macro_f1(
    drawn: Float[np.ndarray, "resamples texts"], true: Decisions, said: Decisions
) -> Float[np.ndarray, " resamples"]:
    """``drawn`` says how often each text counts."""
    both = 2 * drawn @ (true & said)
    either = drawn @ true.astype(np.float64) + drawn @ said.astype(np.float64)
    with np.errstate(invalid="ignore"):
        f1: Float[np.ndarray, " resamples"] = np.nanmean(both / either, axis=1)
    return f1
