"""The row functions in Triton: they come with the next commit."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from kernels.cross_entropy.rules import Rules
    from kernels.cross_entropy.statistics import Statistics


def measure(logits: Tensor, target: Tensor, rules: Rules, out: Statistics) -> None:
    raise NotImplementedError


def differentiate_(
    logits: Tensor, target: Tensor, rules: Rules, stats: Statistics, g_lse: Tensor, g_y: Tensor, g_c: Tensor
) -> None:
    raise NotImplementedError
