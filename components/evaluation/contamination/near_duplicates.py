"""Near-duplicates of texts by their resemblance: the runs of words that two have in common, by all runs of both.

Broder (1997), On the resemblance and containment of documents. MinHash and its bands (locality-sensitive hashing) find
the candidates, and each is then compared exactly, so there are no false alarms. A pair of resemblance s is a candidate
with probability 1 - (1 - s^4)^24: 99.9 % at 0.7, and 4 % at 0.2.

Written in numpy: the words are hashed already for the shared runs, and a block of texts is one array operation per
permutation. ``datasketch`` is healthy, but hashes each run again with SHA-1 in Python, text by text.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt64

from components.evaluation.contamination.lookup import Lookup
from components.evaluation.contamination.words import Hashes, runs

_BANDS, _ROWS = 24, 4
_SEED = 0


class Resemblance(NamedTuple):
    """A known text, one of the texts compared with it, and how much of both is the same."""

    known: int
    text: int
    similarity: float


class NearDuplicateIndex:
    """The texts whose near-duplicates are looked for; those with fewer words than a run have none."""

    def __init__(self, texts: Sequence[Hashes], run_words: int, similarity: float) -> None:
        """
        Arguments:
            texts: the words of each.
            run_words: words of the runs that are compared.
            similarity: the least resemblance that counts, from 0 to 1.
        """
        self._words = run_words
        self._similarity = similarity
        self._shingles = [np.unique(runs(text, run_words)) for text in texts]
        self._known = Lookup(*self._buckets(self._shingles))

    def duplicates(self, texts: Sequence[Hashes]) -> Iterator[Resemblance]:
        """Every pair of a known text and one of ``texts`` that resemble each other enough."""
        shingles = [np.unique(runs(text, self._words)) for text in texts]
        buckets, numbers = self._buckets(shingles)
        candidates = {(known, int(numbers[place])) for place, known in self._known.matches(buckets)}
        for known, text in sorted(candidates):
            similarity = _resemblance(self._shingles[known], shingles[text])
            if similarity >= self._similarity:
                yield Resemblance(known, text, similarity)

    def _buckets(
        self, shingles: Sequence[Hashes]
    ) -> tuple[UInt64[np.ndarray, " buckets"], Int[np.ndarray, " buckets"]]:
        """A hash of each band of each text that has runs, and the number of the text."""
        numbers = np.array([number for number, each in enumerate(shingles) if len(each)], dtype=np.int64)
        if not len(numbers):
            return np.zeros(0, dtype=np.uint64), numbers
        signatures = _signatures([shingles[number] for number in numbers])
        banded = signatures.reshape(len(numbers), _BANDS, _ROWS)
        return _hashed_bands(banded).ravel(), np.repeat(numbers, _BANDS)


def _hashed_bands(banded: UInt64[np.ndarray, "texts bands rows"]) -> UInt64[np.ndarray, "texts bands"]:
    """One hash of each band, different for equal rows of different bands."""
    found = np.broadcast_to(np.arange(_BANDS, dtype=np.uint64), banded.shape[:2]).copy()
    for row in range(banded.shape[2]):
        found = found * np.uint64(0x9E3779B97F4A7C15) + banded[:, :, row]
    return found


def _signatures(shingles: Sequence[Hashes]) -> UInt64[np.ndarray, "texts permutations"]:
    """For each permutation the smallest image of a run. An odd factor and an offset permute the 64-bit numbers."""
    joined = np.concatenate(shingles)
    starts = np.cumsum([0, *(len(each) for each in shingles[:-1])])
    random = np.random.default_rng(_SEED)
    factors = random.integers(0, 1 << 63, _BANDS * _ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    offsets = random.integers(0, 1 << 63, _BANDS * _ROWS, dtype=np.uint64)
    found = np.empty((len(shingles), _BANDS * _ROWS), dtype=np.uint64)
    for number, (factor, offset) in enumerate(zip(factors, offsets, strict=True)):
        found[:, number] = np.minimum.reduceat(joined * factor + offset, starts)
    return found


def _resemblance(one: Hashes, other: Hashes) -> float:
    both = len(np.intersect1d(one, other, assume_unique=True))
    return both / (len(one) + len(other) - both)
