"""Keys and values of the documents that are decoded together, which come, grow and go at different times.

The rows of one tensor hold the documents. When a row is removed, the last row moves into its place, so that all rows in
use are adjacent and attention reads them without a copy. A row's capacity is a multiple of ``ALIGNED``, and so is the
number of keys that attention reads: the sum over keys is made in groups of that size, so further masked keys, which
a longer neighbour needs, change no bit of a row's result.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from components.model.config import ModelConfig

ALIGNED = 16
_FIRST_CAPACITY = 64


def aligned(tokens: int) -> int:
    """The next multiple of ``ALIGNED``."""
    return -(-tokens // ALIGNED) * ALIGNED


class DecoderCache:
    """Keys and values of many documents. Memory grows with the longest of them and with their number, by doubling."""

    def __init__(
        self, config: ModelConfig, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        self.lengths: list[int] = []
        """Tokens held by each row."""
        self.context = config.context_length
        # Zeros, not garbage: a masked place still takes part in a product, and zero times NaN is NaN.
        capacity = aligned(min(_FIRST_CAPACITY, config.context_length))
        shape = (config.layers, 1, capacity, config.kv_heads, config.head_dim)
        self.keys: Float[Tensor, "layers rows capacity kv_heads head"] = torch.zeros(shape, device=device, dtype=dtype)
        self.values: Float[Tensor, "layers rows capacity kv_heads head"] = torch.zeros_like(self.keys)

    @property
    def capacity(self) -> int:
        """Tokens for which every row has room now."""
        return self.keys.shape[2]

    def add(self) -> int:
        """A new, empty row: its number, the last."""
        self.lengths.append(0)
        self._make_room(len(self.lengths), self.capacity)
        return len(self.lengths) - 1

    @torch.inference_mode()
    def adopt(
        self, keys: Float[Tensor, "layers length kv_heads head"], values: Float[Tensor, "layers length kv_heads head"]
    ) -> int:
        """A new row that holds what has been read of a document already: its number, the last."""
        row, length = self.add(), keys.shape[1]
        self.reserve(length)
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

    def reserve(self, end: int) -> None:
        """Make room for ``end`` tokens in every row; raises ``ValueError`` if that exceeds the context."""
        if end > self.context:
            raise ValueError(f"{end} tokens exceed the context of {self.context}: shorten the sequence")
        self._make_room(len(self.lengths), end)

    def _make_room(self, rows: int, capacity: int) -> None:
        has_rows, has_capacity = self.keys.shape[1:3]
        if rows <= has_rows and capacity <= has_capacity:
            return
        new_rows = has_rows if rows <= has_rows else max(rows, 2 * has_rows)
        grown = min(max(capacity, 2 * has_capacity), self.context)
        new_capacity = has_capacity if capacity <= has_capacity else aligned(grown)
        for name in ("keys", "values"):
            old: Tensor = getattr(self, name)
            new = old.new_zeros((old.shape[0], new_rows, new_capacity, *old.shape[3:]))
            new[:, :has_rows, :has_capacity] = old
            setattr(self, name, new)
