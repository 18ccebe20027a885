"""Random choices built on ``Random.random()`` alone.

That method's sequence is promised to stay the same between Python releases; ``choice`` and ``shuffle`` are not.
"""

from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate
from random import Random
from typing import Generic, TypeVar

T = TypeVar("T")


def pick(rng: Random, options: Sequence[T]) -> T:
    """One of ``options``, all equally likely."""
    return options[int(rng.random() * len(options))]


def between(rng: Random, low: int, high: int) -> int:
    """A whole number from ``low`` to ``high``, both included."""
    return low + int(rng.random() * (high - low + 1))


def shuffled(rng: Random, options: Sequence[T]) -> list[T]:
    """``options`` in random order."""
    return [options[index] for _, index in sorted((rng.random(), index) for index in range(len(options)))]


def zipf_weights(n: int, exponent: float) -> list[float]:
    """Popularity of ranks 1 to ``n``: rank to the minus ``exponent``, not normalised."""
    return [rank**-exponent for rank in range(1, n + 1)]


class ByPopularity(Generic[T]):
    """Draws from ``options``, given most popular first, by Zipf's law."""

    def __init__(self, options: Sequence[T], exponent: float) -> None:
        self.options = options
        self._cumulative = list(accumulate(zipf_weights(len(options), exponent)))

    def pick(self, rng: Random) -> T:
        return self.options[bisect(self._cumulative, rng.random() * self._cumulative[-1], hi=len(self.options) - 1)]
