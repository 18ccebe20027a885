"""BM25 over passages (the library bm25s): which of them share most rare words with a query."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import bm25s
import numpy as np


class Bm25:
    """Ranks passages, which it knows by their numbers. Thread-safe: it only reads."""

    def __init__(self, index: Any, vocabulary: dict[str, int], passages: int) -> None:
        self._index = index
        self._vocabulary = vocabulary
        self._passages = passages

    @classmethod
    def over(cls, passages: Iterable[Sequence[str]]) -> "Bm25":
        """An index of passages given by their words.

        Memory holds the word ids of all passages (4 bytes a word) and, while bm25s weighs them, about 20 bytes a word.
        """
        vocabulary: dict[str, int] = {}
        ids = [[vocabulary.setdefault(word, len(vocabulary)) for word in words] for words in passages]
        index = bm25s.BM25()
        if vocabulary:
            index.index((ids, vocabulary), create_empty_token=False, show_progress=False)
        return cls(index, vocabulary, len(ids))

    @classmethod
    def load(cls, folder: Path, passages: int) -> "Bm25":
        """The index that ``save`` wrote, through memory maps; raises what bm25s does if it is missing or damaged."""
        index = bm25s.BM25.load(folder, mmap=True, show_progress=False)
        return cls(index, index.vocab_dict, passages)

    def save(self, folder: Path) -> None:
        """As .npy and .json, no pickle."""
        self._index.save(folder, show_progress=False)

    @property
    def words(self) -> int:
        """Different words."""
        return len(self._vocabulary)

    def share(self, word: str) -> float:
        """Share of the passages that hold ``word``."""
        id = self._vocabulary.get(word)
        if id is None:
            return 0.0
        starts = self._index.scores["indptr"]
        return float(starts[id + 1] - starts[id]) / self._passages

    def best(self, query: Iterable[str], count: int) -> list[int]:
        """At most ``count`` passages that have words of ``query``, best first; of equals the earlier."""
        ids = list(dict.fromkeys(self._vocabulary[word] for word in query if word in self._vocabulary))
        if not ids:
            return []
        scores = self._index.get_scores_from_ids(ids)
        found = np.flatnonzero(scores > 0)
        if len(found) > count:
            found = found[scores[found] >= np.partition(scores[found], -count)[-count]]
        order = np.argsort(-scores[found], kind="stable")[:count]
        return [int(number) for number in found[order]]
