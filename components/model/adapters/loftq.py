"""LoftQ's start (arXiv:2310.08659, algorithm 1): a base of 4 bits, and thin matrices that hold what it lost.

PEFT's own needs bitsandbytes and with it a GPU. Here the base is rounded to the values that 4-bit NormalFloat can hold
and kept in fp32: it shows what training on a quantised base gives, not its memory.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

BLOCK = 64
"""Neighbouring weights of a row that share a scale."""
# The 16 values of NF4: quantiles of the normal distribution, scaled to [-1, 1], zero among them (arXiv:2305.14314,
# appendix E).
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


class LowRankStart(NamedTuple):
    """``quantised + left @ right`` is close to a matrix."""

    quantised: Float[Tensor, "out in"]
    left: Float[Tensor, "out rank"]
    right: Float[Tensor, "rank in"]


def loftq(weight: Float[Tensor, "out in"], rank: int, iterations: int) -> LowRankStart:
    """Quantise, take the best product of ``rank`` for what was lost, quantise the rest again, and so on."""
    start = LowRankStart(weight, weight.new_zeros(len(weight), rank), weight.new_zeros(rank, weight.shape[1]))
    for _ in range(iterations):
        quantised = nf4(weight - start.left @ start.right)
        start = LowRankStart(quantised, *thin(weight - quantised, rank))
    return start


def thin(matrix: Float[Tensor, "out in"], rank: int) -> tuple[Float[Tensor, "out rank"], Float[Tensor, "rank in"]]:
    """The two factors of the best approximation of this rank; each takes the root of the singular values."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    root: Tensor = values[:rank].sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank]


def nf4(weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
    """Every weight as the nearest that NF4 can hold, given the largest of its block."""
    blocks = torch.nn.functional.pad(weight, (0, -weight.shape[1] % BLOCK)).reshape(len(weight), -1, BLOCK)
    scale = blocks.abs().amax(dim=-1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
    values = torch.tensor(NF4, dtype=weight.dtype, device=weight.device)
    nearest = torch.bucketize(blocks / scale, (values[1:] + values[:-1]) / 2)
    rounded: Tensor = values[nearest] * scale
    return rounded.flatten(1)[:, : weight.shape[1]]
