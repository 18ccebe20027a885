"""Inputs and the two measures that all tests of this package share."""

from typing import NamedTuple

import torch
from torch import Tensor

from kernels.cross_entropy import TokenStats

IGNORED = -100


class Case(NamedTuple):
    x: Tensor
    weight: Tensor
    target: Tensor


def case(
    rows: int, columns: int, dtype: torch.dtype = torch.float64, *, width: int = 8, padding: int = 0, seed: int = 0
) -> Case:
    """Random leaves; where there are rows enough, two of them are ignored."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    weight = torch.randn(columns + padding, width, generator=generator, dtype=torch.float64)
    target = torch.randint(columns, (rows,), generator=generator)
    if rows > 3:
        target[1] = target[3] = IGNORED
    return Case(x.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), target)


def as_leaves(case: Case, dtype: torch.dtype) -> Case:
    """The same values, already rounded as they are, in another dtype."""
    return Case(
        case.x.detach().to(dtype).requires_grad_(), case.weight.detach().to(dtype).requires_grad_(), case.target
    )


def outputs(stats: TokenStats) -> list[Tensor]:
    optional = [stats.z_c, stats.z_chosen]
    return [stats.lse_x, stats.z_y, *(output for output in optional if output is not None)]


def mixed(stats: TokenStats) -> Tensor:
    """A scalar in which every output of every token has a weight of its own, of either sign."""
    total = torch.zeros((), dtype=torch.float64)
    for index, output in enumerate(outputs(stats)):
        weights = torch.cos(torch.arange(output.numel(), dtype=torch.float64) * (index + 1.3) + index)
        total = total + (output.double().flatten() * weights).sum()
    return total


def gradients(case: Case, stats: TokenStats, *, again: bool = False) -> tuple[Tensor, ...]:
    return torch.autograd.grad(mixed(stats), (case.x, case.weight), retain_graph=again)


def error(given: Tensor, right: Tensor) -> float:
    """The largest difference."""
    return float((given.detach().double() - right.detach().double()).abs().max())
