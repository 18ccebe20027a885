"""What an annotator is: it reads texts and says which of their words state facts."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from components.labelling.alignment import Words


class Annotation(NamedTuple):
    """What was found in one text."""

    words: Words
    """The factual words."""
    annotator: str
    """Who found them."""
    judged: Words = np.empty((0, 2), dtype=np.int64)
    """Values alone, without names of subjects, where exact annotations tell them apart."""
    familiar: bool | None = None
    """Whether the text is in a language that the annotator knows; ``None`` if that cannot be told."""


class Annotator(Protocol):
    """Finds the factual words of texts. Deterministic: the same text has the same words, whatever is beside it."""

    def annotate(self, texts: Sequence[str]) -> list[Annotation]:
        """One annotation per text, in order."""
        ...


def as_words(spans: Sequence[tuple[int, int]]) -> Words:
    """An array of words from pairs of offsets, also from none."""
    return np.array(spans, dtype=np.int64).reshape(-1, 2)
