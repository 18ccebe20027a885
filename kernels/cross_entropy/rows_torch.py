"""The row functions on PyTorch: the CPU path.

Equals, for logits ``z`` [rows, columns]::

    statistics: reference.logit_token_stats(z, target)
    gradients:  autograd of it, as  dz = g_lse * slopes + onehot(y) * at_target + onehot(c) * at_call

``slopes`` are the probabilities (without CALL), with zeros in columns y and c.
They keep that form until the end: a factor per row can be moved past a matrix product onto the narrow side,

    dX = g_lse * (slopes @ W) + at_target * W[y] + ...,   dW = slopes.T @ (g_lse * X) + ...

so that backward makes no pass over the wide matrix at all, leaves it unharmed for a second backward, and the two
columns in which a rounded probability minus one would cancel are fp32 numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch

from kernels.cross_entropy.products import add_product_, product
from kernels.cross_entropy.statistics import Statistics, accumulator, empty_statistics

if TYPE_CHECKING:
    from torch import Tensor

    from kernels.cross_entropy.rules import Rules

# Rows go through softmax in blocks that stay in a CPU's cache; halving or doubling this changes little.
BLOCK_BYTES = 4 * 2**20


class Factors(NamedTuple):
    """``[rows]`` each: how the gradient of a row's logits is put together."""

    slopes: Tensor
    at_target: Tensor
    at_call: Tensor | None


def skipped(target: Tensor, rules: Rules) -> Tensor:
    """Rows without gradient: ignored ones, and those whose target is no column."""
    return (target == rules.ignored) | (target < 0) | (target >= rules.columns)


def measure(
    logits: Tensor,
    target: Tensor,
    rules: Rules,
    out: Statistics,
    *,
    slopes: bool | None,
    chosen: Tensor | None = None,
) -> None:
    """Write the statistics to ``out``.

    What becomes of the logits says ``slopes``. True: these are in their place. False: anything. None: they stay.
    A target that is no column gets ``z_y = -inf``, and so an infinite loss.
    """
    skip = skipped(target, rules)
    column = target.masked_fill(skip, 0)[:, None]
    for some, narrow, z in _blocks(logits, None if slopes is None else logits):
        if chosen is not None and chosen.shape[1]:  # here, where the block is in the cache
            torch.gather(z, 1, chosen[some], out=out.z_chosen[some])
        _measure_block(z, column[some], rules, out.of(some), bool(slopes))
        if slopes and z is not narrow:
            narrow.copy_(z)
    out.z_y.masked_fill_(skip, -torch.inf).masked_fill_(target == rules.ignored, 0.0)


def differentiate(
    logits: Tensor,
    target: Tensor,
    rules: Rules,
    stats: Statistics,
    g_lse: Tensor,
    g_y: Tensor,
    g_c: Tensor,
    out: Tensor,
) -> None:
    """Write the gradient of the logits to ``out``, which may be the logits; for callers who have no matrix product to
    hide the factors in."""
    column = target.masked_fill(skipped(target, rules), 0)[:, None]
    row = factors(target, rules, stats, g_lse, g_y, g_c)
    for some, narrow, z in _blocks(logits, out):
        unused = empty_statistics(len(z), z, rules, argmax=False, entropy=False)
        _measure_block(z, column[some], rules, unused, slopes=True)
        z.mul_(row.slopes[some, None]).scatter_add_(1, column[some], row.at_target[some, None])
        if row.at_call is not None:
            z[:, rules.call].add_(row.at_call[some])
        if z is not narrow:
            narrow.copy_(z)


def _blocks(logits: Tensor, out: Tensor | None) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Some rows at a time: which, their place in ``out``, and their logits in the accumulator's dtype.

    The logits are in that place already if it has this dtype. Without ``out``, nothing is written to.
    """
    rows, columns = logits.shape
    dtype = accumulator(logits.dtype)
    block = max(1, rows if logits.is_cuda else BLOCK_BYTES // (columns * dtype.itemsize))
    there = out is not None and out.dtype == dtype and out.is_contiguous()
    wide = None if there else logits.new_empty(min(block, rows), columns, dtype=dtype)
    for start in range(0, rows, block):
        some = slice(start, start + block)
        narrow = logits[some] if out is None else out[some]
        z = narrow if wide is None else wide[: len(narrow)]
        if wide is not None or out is not logits:
            z.copy_(logits[some])
        yield some, narrow, z


def _measure_block(z: Tensor, column: Tensor, rules: Rules, out: Statistics, slopes: bool) -> None:
    torch.gather(z, 1, column, out=out.z_y[:, None])
    if rules.call >= 0:
        out.z_c.copy_(z[:, rules.call])
        z[:, rules.call] = -torch.inf
    if out.argmax.numel():
        out.argmax.copy_(z.argmax(1))
    largest = z.amax(1)
    logits = z.clone() if out.entropy.numel() else None
    torch.softmax(z, 1, out=z)
    # The largest probability is 1 / sum(exp(z - largest)): cheaper than a pass of its own for the sum.
    log_total = z.amax(1).log_().neg_()
    torch.add(largest, log_total, out=out.lse_x)
    if logits is not None:
        # log(total) - sum(p * (z - largest)): lse_x minus large logits would cancel.
        below = logits.sub_(largest[:, None]).masked_fill_(z == 0, 0.0)
        torch.sub(log_total, below.mul_(z).sum(1), out=out.entropy)
    if slopes:
        z.scatter_(1, column, 0.0)


def factors(target: Tensor, rules: Rules, stats: Statistics, g_lse: Tensor, g_y: Tensor, g_c: Tensor) -> Factors:
    """The three factors of every row, from the gradients of its statistics; exactly zero for skipped rows."""
    skip = skipped(target, rules)
    g_lse, g_y = g_lse.masked_fill(skip, 0.0), g_y.masked_fill(skip, 0.0)
    p_y = torch.exp(stats.z_y - stats.lse_x).masked_fill_(skip, 0.0)
    if rules.call >= 0:
        p_y.masked_fill_(target == rules.call, 0.0)
    at_target = p_y.mul_(g_lse).add_(g_y)
    at_call = g_c.masked_fill(skip, 0.0) if rules.call >= 0 else None
    return Factors(g_lse, at_target, at_call)


def gradient_x(slopes: Tensor, weight: Tensor, target: Tensor, rules: Rules, factors: Factors) -> Tensor:
    """dX [rows, width] in the accumulator's dtype."""
    column = target.masked_fill(skipped(target, rules), 0)
    grad = product(slopes, weight).to(factors.slopes.dtype).mul_(factors.slopes[:, None])
    grad.addcmul_(weight[column].to(grad.dtype), factors.at_target[:, None])
    if factors.at_call is not None:
        grad.addcmul_(weight[rules.call].to(grad.dtype), factors.at_call[:, None])
    return grad


def add_gradient_weight_(
    grad: Tensor, slopes: Tensor, x: Tensor, target: Tensor, rules: Rules, factors: Factors
) -> None:
    """Add dW [columns, width] of these rows to ``grad``, which is in the accumulator's dtype."""
    add_product_(grad, slopes.T, (x * factors.slopes[:, None]).to(x.dtype))
    column = target.masked_fill(skipped(target, rules), 0)
    grad.index_add_(0, column, x * factors.at_target[:, None])
    if factors.at_call is not None:
        grad[rules.call].addmv_(x.to(grad.dtype).T, factors.at_call)
