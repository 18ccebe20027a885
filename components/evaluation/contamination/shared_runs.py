"""Which examples share a run of words with the training text? The examples are indexed, the text streams by.

Brown et al. (2020, arXiv 2005.14165, appendix C): 13 words. An example that is shorter is looked for as a whole.
Memory: 12 bytes for each run of the examples, and 16 MiB for each length of runs. Runs are compared by 64-bit hashes:
with 1e9 training words and 1e7 runs of examples, one false match is expected in 2,000 comparisons of that size.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from components.evaluation.contamination.lookup import Lookup
from components.evaluation.contamination.words import Hashes, WordHashes, runs

_BETWEEN = np.array([WordHashes()["\n"]], dtype=np.uint64)  # no word, so that no run reaches over two documents


class Shared(NamedTuple):
    """An example and where it shares a run."""

    example: int
    text: int
    """Which of the texts of the block."""
    start: int
    """The run's first word, counted within that text."""
    length: int
    """Words of the run."""


class RunIndex:
    """The runs of all examples, by their length."""

    def __init__(self, examples: Sequence[Hashes], length: int, shortest: int) -> None:
        """
        Arguments:
            examples: the words of each.
            length: words of a run.
            shortest: examples of fewer words than this match nothing.
        """
        by_length: dict[int, list[int]] = defaultdict(list)
        for number, example in enumerate(examples):
            if len(example) >= shortest:
                by_length[min(length, len(example))].append(number)
        self._runs = {size: _lookup(examples, numbers, size) for size, numbers in by_length.items()}

    def shared(self, texts: Sequence[Hashes]) -> Iterator[Shared]:
        """Every run that one of ``texts`` shares with an example."""
        joined = np.concatenate([part for text in texts for part in (text, _BETWEEN)])
        starts = np.cumsum([0, *(len(text) + 1 for text in texts)])
        for length, known in self._runs.items():
            for place, example in known.matches(runs(joined, length)):
                text = int(np.searchsorted(starts, place, "right")) - 1
                yield Shared(example, text, place - int(starts[text]), length)


def _lookup(examples: Sequence[Hashes], numbers: Sequence[int], length: int) -> Lookup:
    found = [runs(examples[number], length) for number in numbers]
    owners = np.repeat(np.array(numbers, dtype=np.int32), [len(each) for each in found])
    return Lookup(np.concatenate(found), owners)
