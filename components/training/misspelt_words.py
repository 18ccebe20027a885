"""Training text with misspelt words, so that a model asks for a fact however the sentence before it is spelled.

A person's prompt has slips that an encyclopaedia has not. A model that never saw one is unsure after it, asks less
readily, and guesses. So some words of every batch are read misspelt. They are words in lower case, which state no
fact. What is misspelt is read and never learnt: its targets are masked.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random

import numpy as np
import torch

from components.data.misspelling import misspelt
from components.data.tokenizer import TextTokenizer
from components.training.loader import IGNORED, Batch, document_starts, mixed

_WORD = re.compile(r" [a-z]{3,}")


@dataclass
class MisspeltWords:
    """Batches in which the share ``rate`` of the words in lower case is misspelt; rows keep their length."""

    tokenizer: TextTokenizer
    rate: float
    seed: int
    _texts: list[str] = field(init=False)

    def __post_init__(self) -> None:
        special = set(self.tokenizer.special.ids.values())
        self._texts = ["" if id in special else self.tokenizer.decode([id]) for id in range(self.tokenizer.vocab_size)]
        self._spelled = lru_cache(1 << 16)(self.tokenizer.encode)

    def __call__(self, batch: Batch, *place: int) -> Batch:
        """``batch`` as read at ``place`` in the training, which together with the seed decides what is misspelt."""
        rows = [self._row(batch, row, Random(mixed(self.seed, *place, row))) for row in range(len(batch.tokens))]
        inputs, targets, sources = (np.stack(each) for each in zip(*rows, strict=True))
        index = torch.from_numpy(sources)
        return Batch(
            torch.from_numpy(inputs),
            torch.from_numpy(targets),
            torch.from_numpy(document_starts(inputs, self.tokenizer.special.end_of_text)),
            {name: _moved(column, index) for name, column in batch.columns.items()},
        )

    def _row(self, batch: Batch, row: int, rng: Random) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Inputs, targets, and for each target the place where it stood (0 for what is masked)."""
        tokens = [*batch.tokens[row].tolist(), int(batch.targets[row, -1])]
        ids, places = [], []
        after = 0
        for start, stop, spelled in self._slips(tokens, rng):
            ids += [*tokens[after:start], *spelled]
            places += [*range(after, start), *[-1] * len(spelled)]
            after = stop
        ids += tokens[after:]
        places += range(after, len(tokens))
        # A misspelling may take more tokens than the word, or fewer: the row is cut, or padded as behind a text.
        short = max(0, len(tokens) - len(ids))
        kept = np.array([*ids, *[IGNORED] * short][: len(tokens)], dtype=np.int64)
        origin = np.array([*places, *[-1] * short][1 : len(tokens)], dtype=np.int64) - 1
        known = batch.targets[row].numpy()
        targets = np.where(origin >= 0, known[np.maximum(origin, 0)], IGNORED)
        inputs = np.where(kept[:-1] == IGNORED, self.tokenizer.special.end_of_text, kept[:-1])
        return inputs, targets, np.maximum(origin, 0)

    def _slips(self, tokens: list[int], rng: Random) -> Iterator[tuple[int, int, list[int]]]:
        """Which tokens are replaced, and by which, from left to right."""
        texts = [self._texts[id] if id >= 0 else "" for id in tokens]
        at = 0
        while at < len(tokens):
            stop = at + 1
            if texts[at].startswith(" "):
                while stop < len(tokens) and texts[stop][:1].islower():
                    stop += 1
                word = "".join(texts[at:stop])
                if _WORD.fullmatch(word) and rng.random() < self.rate:
                    yield at, stop, self._spelled(" " + misspelt(word[1:], rng))
            at = stop


def _moved(column: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    return torch.stack([row[place] for row, place in zip(column, places, strict=True)])
