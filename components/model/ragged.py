"""A key-value cache of several documents with different lengths, so that they can be decoded together.

The rows of one tensor hold the documents. A forward pass names the rows that it extends, and by how many tokens each.
Rotary positions and the mask follow from that. When a row is removed, the last row moves into its place, so that all
rows in use are adjacent and are read without a copy.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from components.model.config import ModelConfig

_FIRST_CAPACITY = 64


class RaggedCache:
    """Keys and values of many documents. Memory grows with the longest of them and with their number, by doubling."""

    def __init__(
        self, config: ModelConfig, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        self.lengths: list[int] = []
        """Tokens held by each row."""
        self._context = config.context_length
        # Zeros, not garbage: a masked place still takes part in a product, and zero times NaN is NaN.
        shape = (config.layers, 1, min(_FIRST_CAPACITY, config.context_length), config.kv_heads, config.head_dim)
        self.keys: Float[Tensor, "layers rows capacity kv_heads head"] = torch.zeros(shape, device=device, dtype=dtype)
        self.values: Float[Tensor, "layers rows capacity kv_heads head"] = torch.zeros_like(self.keys)

    def add(self) -> int:
        """A new, empty row: its number, the last."""
        self.lengths.append(0)
        self._make_room(len(self.lengths), self.keys.shape[2])
        return len(self.lengths) - 1

    @torch.inference_mode()
    def adopt(
        self, keys: Float[Tensor, "layers length kv_heads head"], values: Float[Tensor, "layers length kv_heads head"]
    ) -> int:
        """A new row that holds what another cache has read of a document: its number, the last."""
        row, length = self.add(), keys.shape[1]
        self._make_room(len(self.lengths), length)
        self.keys[:, row, :length], self.values[:, row, :length] = keys, values
        self.lengths[row] = length
        return row

    @torch.inference_mode()  # its tensors may have been made in it, and may then be changed nowhere else
    def remove(self, row: int) -> None:
        """Forget a row. The last row takes its number."""
        last = len(self.lengths) - 1
        length = self.lengths[last]
        if row != last:
            for stored in (self.keys, self.values):
                stored[:, row, :length] = stored[:, last, :length]
            self.lengths[row] = length
        self.lengths.pop()

    def truncate(self, row: int, length: int) -> None:
        """Forget all but the first ``length`` tokens of a row."""
        if not 0 <= length <= self.lengths[row]:
            raise ValueError(f"cannot truncate row {row} of {self.lengths[row]} tokens to {length}")
        self.lengths[row] = length

    def extending(self, rows: Sequence[int], counts: Sequence[int]) -> "RowsToExtend":
        """What the model takes as its cache to read ``counts[i]`` new tokens into row ``rows[i]``.

        Raises ``ValueError`` if a row would exceed the context, a count is not positive or a row is named twice.
        """
        if len(rows) != len(counts) or len(set(rows)) != len(rows) or not rows or min(counts) < 1:
            raise ValueError(f"rows {list(rows)} cannot be extended by {list(counts)}: one positive count for each row")
        end = max(self.lengths[row] + count for row, count in zip(rows, counts, strict=True))
        if end > self._context:
            raise ValueError(
                f"{end} tokens exceed the context of {self._context}: shorten the sequence, "
                "or train with a larger model.context_length"
            )
        self._make_room(len(self.lengths), end)
        return RowsToExtend(self, rows, counts, end)

    def _make_room(self, rows: int, capacity: int) -> None:
        has_rows, has_capacity = self.keys.shape[1:3]
        if rows <= has_rows and capacity <= has_capacity:
            return
        new_rows = has_rows if rows <= has_rows else max(rows, 2 * has_rows)
        new_capacity = has_capacity if capacity <= has_capacity else min(max(capacity, 2 * has_capacity), self._context)
        for name in ("keys", "values"):
            old: Tensor = getattr(self, name)
            new = old.new_zeros((old.shape[0], new_rows, new_capacity, *old.shape[3:]))
            new[:, :has_rows, :has_capacity] = old
            setattr(self, name, new)


class RowsToExtend:
    """Some rows of a ``RaggedCache`` during one forward pass over ``[len(rows), max(counts)]`` tokens.

    Tokens beyond a row's count are padding: they are computed, not stored, and nothing sees them.
    """

    def __init__(self, cache: RaggedCache, rows: Sequence[int], counts: Sequence[int], end: int) -> None:
        self.end = end
        """Tokens of the longest row after the pass."""
        self._cache, self._rows, self._counts = cache, list(rows), list(counts)
        device, seq = cache.keys.device, max(counts)
        starts = [cache.lengths[row] for row in rows]
        self._alone = len(rows) == 1
        self._start = starts[0]
        place = torch.tensor(starts, device=device)[:, None] + torch.arange(seq, device=device)
        self.positions: Int[Tensor, "batch seq"] = place.clamp_max(cache._context - 1)
        """Position of every token in its document; padding stands at a legal one."""
        self._level = seq == 1 and len(set(starts)) == 1
        self._batch, self._column = (
            torch.arange(seq, device=device) < torch.tensor(self._counts, device=device)[:, None]
        ).nonzero(as_tuple=True)
        self._stored_row = torch.tensor(self._rows, device=device)[self._batch]
        self._stored_place = place[self._batch, self._column]
        neighbours = self._rows == list(range(self._rows[0], self._rows[0] + len(rows)))
        self._read: slice | Tensor = (
            slice(self._rows[0], self._rows[0] + len(rows)) if neighbours else torch.tensor(self._rows, device=device)
        )

    def mask(self, dtype: torch.dtype) -> Float[Tensor, "batch 1 seq keys"] | None:
        """Additive mask over the longest row's keys; ``None`` where plain causal attention sees the same."""
        if self._level or (self._alone and self._start == 0):
            return None
        visible = torch.arange(self.end, device=self.positions.device) <= self.positions[:, :, None]
        return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, float("-inf"))[
            :, None
        ]

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new tokens of one layer; return the keys and values of these rows, up to the longest."""
        stored = []
        for held, new in ((self._cache.keys[layer], key), (self._cache.values[layer], value)):
            if self._alone:
                held[self._read, self._start : self.end] = new
            else:
                held[self._stored_row, self._stored_place] = new[self._batch, self._column].to(held.dtype)
            stored.append(held[self._read, : self.end])
        return stored[0], stored[1]

    def advance(self) -> None:
        """All layers have stored their part: the rows are longer now."""
        for row, count in zip(self._rows, self._counts, strict=True):
            self._cache.lengths[row] += count
