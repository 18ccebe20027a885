"""Which labelled texts are for training, for validation and for the test.

Texts are ordered by a hash of seed and text, so a choice depends neither on the order of the files nor on what else is
in them. Test texts that nearly repeat a training text are left out: to know them would be no merit.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from components.data.split import TEST, TRAIN, VALIDATION, position
from components.evaluation.contamination.near_duplicates import NearDuplicateIndex
from components.evaluation.contamination.words import WordHashes
from components.finetune.classify.config import LabelledTextsConfig
from components.finetune.classify.labelled import LabelledText


@dataclass(frozen=True)
class Splits:
    """The texts of each split, and what was left out."""

    texts: dict[str, list[LabelledText]]
    near_duplicates: int
    """Test texts that nearly repeat a text of the training files."""


def divided(train: Sequence[LabelledText], test: Sequence[LabelledText], config: LabelledTextsConfig) -> Splits:
    """The splits; without ``test``, it is held out of ``train``. Equal texts of ``train`` count once."""
    ordered = sorted({text.text: text for text in train}.values(), key=lambda text: _place(text, config.seed))
    if not test:
        share = round(len(ordered) * config.test_fraction)
        test, ordered = ordered[:share], ordered[share:]
    kept = without_near_duplicates(test, ordered, config.shingle_words, config.similarity)
    training, validation = _held_out(_chosen(ordered, config.per_class), config.validation_fraction)
    return Splits({TRAIN: training, VALIDATION: validation, TEST: kept}, len(test) - len(kept))


def without_near_duplicates(
    test: Sequence[LabelledText], train: Sequence[LabelledText], shingle_words: int, similarity: float
) -> list[LabelledText]:
    """The texts of ``test`` that resemble none of ``train``; those shorter than a run are compared as a whole."""
    hashes = WordHashes()
    words = [hashes.of(text.text) for text in test]
    learnt = [hashes.of(text.text) for text in train]
    index = NearDuplicateIndex(words, shingle_words, similarity)
    repeated = {found.known for found in index.duplicates(learnt)}
    whole = {each.tobytes() for each in learnt}
    return [text for number, text in enumerate(test) if number not in repeated and words[number].tobytes() not in whole]


def _place(text: LabelledText, seed: int) -> float:
    return position(f"{seed} {text.text}".encode())


def _chosen(texts: Sequence[LabelledText], per_class: int) -> list[LabelledText]:
    if not per_class:
        return list(texts)
    return [text for members in _by_label(texts).values() for text in members[:per_class]]


def _held_out(texts: Sequence[LabelledText], fraction: float) -> tuple[list[LabelledText], list[LabelledText]]:
    """What remains of each label, and the share of it that is held out; a label with one text keeps it."""
    training: list[LabelledText] = []
    validation: list[LabelledText] = []
    for members in _by_label(texts).values():
        count = min(max(1, round(len(members) * fraction)), len(members) - 1)
        validation += members[:count]
        training += members[count:]
    return training, validation


def _by_label(texts: Sequence[LabelledText]) -> dict[tuple[str, ...], list[LabelledText]]:
    groups: defaultdict[tuple[str, ...], list[LabelledText]] = defaultdict(list)
    for text in texts:
        groups[tuple(sorted(text.labels))].append(text)
    return dict(groups)
