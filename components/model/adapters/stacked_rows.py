"""Rows of the embedding and of the head that several adapters have trained, each for its own tokens only."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from components.model.adapters.unmerged import Rows
from components.model.packed_product import product


class _Moves(NamedTuple):
    """Which scores replace which: of some rows, in their order."""

    rows: Int[Tensor, " moves"]
    tokens: Int[Tensor, " moves"]
    """Columns of the logits."""
    places: Int[Tensor, " moves"]
    """Columns of the scores by trained rows."""


class StackedRows:
    """The rows of all adapters, one below the other."""

    def __init__(self, adapters: Sequence[Rows], like: Float[Tensor, "vocab width"]) -> None:
        """``like``: whose device and dtype they get."""
        self._device = like.device
        self._places: list[dict[int, int]] = [{}]  # by the number of the adapter: token to row
        for adapter in adapters:
            start = sum(map(len, self._places))
            self._places.append({id: start + at for at, id in enumerate(adapter.ids)})
        self.any = any(self._places)
        """Whether there are any."""
        embedding = [adapter.embedding for adapter in adapters]
        self._embedding = torch.cat(embedding).to(like) if self.any else None
        self._head = product(torch.cat([adapter.head for adapter in adapters]).to(like)) if self.any else None
        self._last: tuple[tuple[int, ...], _Moves] | None = None

    def embed(self, hidden: Float[Tensor, "tokens width"], tokens: Sequence[int], numbers: Sequence[int]) -> None:
        """Put the rows of their own adapters into the embeddings of ``tokens``."""
        if self._embedding is None:
            return
        found = {
            at: self._places[number][token]
            for at, (token, number) in enumerate(zip(tokens, numbers, strict=True))
            if token in self._places[number]
        }
        if found:
            hidden[list(found)] = self._embedding[list(found.values())]

    def score(
        self, logits: Float[Tensor, "rows vocab"], hidden: Float[Tensor, "rows width"], numbers: Sequence[int]
    ) -> None:
        """Put the scores by the rows of their own adapters into ``logits``; at least two rows."""
        if self._head is None or not any(numbers):
            return
        key = tuple(numbers)
        if self._last is None or self._last[0] != key:  # the next token of the same texts: the same again
            self._last = key, self._moves(key)
        moves = self._last[1]
        logits[moves.rows, moves.tokens] = self._head(hidden)[moves.rows, moves.places]

    def _moves(self, numbers: Sequence[int]) -> _Moves:
        found = [
            (row, token, place) for row, number in enumerate(numbers) for token, place in self._places[number].items()
        ]
        columns = torch.tensor(found, dtype=torch.long, device=self._device).reshape(-1, 3).unbind(1)
        return _Moves(*columns)
