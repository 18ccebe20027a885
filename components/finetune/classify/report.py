"""The report on a classifier as sections of a page."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import matplotlib
import numpy as np
from jaxtyping import Int
from matplotlib.figure import Figure

from components.evaluation.curve import FIGURE_STYLE
from components.evaluation.report_page import Part, Picture, Sample, Section, Table, Words, svg
from components.evaluation.results import Interval
from components.finetune.classify.labels import LabelSet
from components.finetune.classify.measures import Decisions, LabelScores
from components.finetune.classify.results import FINETUNED, Contender, Mistake

_NUMBERED_LABELS = 15
"""Up to so many labels, the squares of the confusion matrix hold their numbers."""
_CONFUSIONS = 15

TITLE = "How well the labels are told"


def sections(
    contenders: Sequence[Contender],
    labels: LabelSet,
    true: Decisions,
    said: Mapping[str, Decisions],
    scores: Mapping[str, Sequence[LabelScores]],
    mistakes: Sequence[Mistake],
    data: Mapping[str, float],
) -> Iterator[Section]:
    """Everything there is to say.

    Arguments:
        contenders: the finetuned model first.
        true: the labels of the test texts; ``said``: what the contenders that were given all of them say, by name.
        scores: the labels one by one, by contender.
        data: metrics of the labelled texts.
    """
    yield Section("In short", [*verdicts(contenders), _contenders(contenders)])
    yield Section("By label", [_labels(labels, scores)])
    if labels.kind == "single":
        counts = confusion(true, said[FINETUNED])
        yield Section("What is taken for what", list(_confusions(labels, counts)))
    if mistakes:
        yield Section("Mistakes", [Sample(f"{each.true}, said {each.said}", each.text) for each in mistakes])
    yield Section("Texts", [_texts(data)])


def verdicts(contenders: Sequence[Contender]) -> Iterator[Words]:
    """What the finetuned model comes to, and whether it beats each of the others, in words."""
    finetuned, *others = contenders
    yield Words(
        f"The finetuned model tells {_percent(finetuned.accuracy)} of {finetuned.texts:,} test texts right; its "
        f"macro-F1 is {_percent(finetuned.macro_f1)}."
    )
    for other in others:
        assert other.behind is not None
        on = "" if other.texts == finetuned.texts else f" on the {other.texts:,} texts that both were given"
        yield Words(
            f"It is {other.verdict} {other.name}{on}: {100 * other.behind.estimate:+.1f} points of macro-F1 "
            f"({100 * other.behind.low:+.1f} to {100 * other.behind.high:+.1f})."
        )


def confusion(true: Decisions, said: Decisions) -> Int[np.ndarray, "labels labels"]:
    """How often each label (row) was taken for each (column)."""
    return true.astype(np.int64).T @ said.astype(np.int64)


def _contenders(contenders: Sequence[Contender]) -> Table:
    rows = [
        [each.name, each.about, f"{each.texts:,}", _percent(each.accuracy), _percent(each.macro_f1)]
        for each in contenders
    ]
    return Table(["", "", "texts", "right", "macro-F1"], rows)


def _labels(labels: LabelSet, scores: Mapping[str, Sequence[LabelScores]]) -> Table:
    own = scores[FINETUNED]
    others = [name for name in scores if name != FINETUNED]
    rows = [
        [
            label,
            f"{score.texts:,}",
            *(f"{100 * value:.1f}" for value in (score.precision, score.recall, score.f1)),
            *(f"{100 * scores[other][number].f1:.1f}" for other in others),
        ]
        for number, (label, score) in enumerate(zip(labels.labels, own, strict=True))
    ]
    return Table(["label", "texts", "precision", "recall", "F1", *(f"F1 of {other}" for other in others)], rows)


def _confusions(labels: LabelSet, counts: Int[np.ndarray, "labels labels"]) -> Iterator[Part]:
    yield Picture(
        svg(_matrix(labels, counts), "confusion"),
        "Confusion matrix: of the texts of each label (row), the share that was given each label (column)",
    )
    wrong = Counter({place: int(counts[place]) for place in np.ndindex(counts.shape) if place[0] != place[1]})
    rows = [
        [labels.labels[true], labels.labels[said], f"{count:,}"]
        for (true, said), count in wrong.most_common(_CONFUSIONS)
        if count
    ]
    if rows:
        yield Table(["label", "taken for", "texts"], rows)


def _matrix(labels: LabelSet, counts: Int[np.ndarray, "labels labels"]) -> Figure:
    count = len(labels.labels)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    with matplotlib.rc_context({**FIGURE_STYLE, "axes.grid": False}):
        side = min(12.0, 2.5 + 0.35 * count)
        figure = Figure(figsize=(side, side), layout="constrained")
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        size = 9 if count <= _NUMBERED_LABELS else 4
        axes.set_xticks(range(count), labels.labels, rotation=90, fontsize=size)
        axes.set_yticks(range(count), labels.labels, fontsize=size)
        axes.set_xlabel("said")
        axes.set_ylabel("true")
        if count <= _NUMBERED_LABELS:
            for true, said in np.ndindex(counts.shape):
                colour = "white" if shares[true, said] > 0.5 else "black"
                axes.text(said, true, f"{counts[true, said]:,}", ha="center", va="center", color=colour, fontsize=8)
    return figure


def _texts(data: Mapping[str, float]) -> Table:
    names = {
        "train_texts": "texts to train on",
        "validation_texts": "texts for validation",
        "test_texts": "texts for the test",
        "near_duplicates": "test texts left out, which nearly repeat a training text",
        "cut_texts": "texts cut, longer than the context",
    }
    return Table(["", "texts"], [[words, f"{data[name]:,.0f}"] for name, words in names.items()])


def _percent(interval: Interval) -> str:
    return f"{100 * interval.estimate:.1f} % ({100 * interval.low:.1f} to {100 * interval.high:.1f})"
