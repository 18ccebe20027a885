"""Where the row functions write: one number for every row, and what backward gets for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from kernels.cross_entropy.rules import Rules


class Statistics(NamedTuple):
    """``[rows]`` each, or ``[0]`` if not asked for: torch.library wants the same number of tensors every time."""

    lse_x: Tensor
    z_y: Tensor
    z_c: Tensor
    z_chosen: Tensor  # [rows, k], k = 0 if not asked for
    argmax: Tensor  # i32
    entropy: Tensor

    def of(self, chunk: slice) -> Statistics:
        """Views of these rows; what was not asked for stays empty."""
        return Statistics(*(field[chunk] for field in self))


class Upstream(NamedTuple):
    """Gradients of the statistics that have one, ``[rows]`` each and ``[rows, k]``."""

    lse_x: Tensor
    z_y: Tensor
    z_c: Tensor
    z_chosen: Tensor

    def of(self, chunk: slice) -> Upstream:
        """Those of these rows."""
        return Upstream(*(field[chunk] for field in self))


def accumulator(logits: torch.dtype) -> torch.dtype:
    """The dtype of sums over a row: fp32, and fp64 for fp64 logits (gradcheck needs it)."""
    return torch.float64 if logits == torch.float64 else torch.float32


def empty_statistics(rows: int, like: Tensor, rules: Rules, argmax: bool, entropy: bool, chosen: int = 0) -> Statistics:
    def numbers(wanted: bool, dtype: torch.dtype) -> Tensor:
        return like.new_empty(rows if wanted else 0, dtype=dtype)

    dtype = accumulator(like.dtype)
    return Statistics(
        lse_x=numbers(True, dtype),
        z_y=numbers(True, dtype),
        z_c=numbers(rules.call >= 0, dtype),
        z_chosen=like.new_empty((rows, chosen), dtype=dtype),
        argmax=numbers(argmax, torch.int32),
        entropy=numbers(entropy, dtype),
    )
