"""The row functions in Triton: one program a row forward, one a row and block of columns backward.

Equals, for logits ``z`` [rows, width] whose columns from ``rules.columns`` on are padding::

    measure:       reference.logit_token_stats(z[:, :columns], target)
    differentiate: autograd of it, i.e. for every column v, with p_x = exp(z - lse_x),
                   dz[v] = p_x[v] * g_lse [v != c] + g_y [v = y] + g_c [v = c];  zeros in padding and skipped rows

Both are bound by memory: forward reads the logits once, backward reads and writes them once. Imported only where a
kernel is launched, so that the CPU path works without Triton.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-any-return,no-untyped-call,misc,valid-type"
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from kernels.cross_entropy import configurations
from kernels.cross_entropy.statistics import accumulator
from kernels.launch import on_device_of

if TYPE_CHECKING:
    from torch import Tensor

    from kernels.cross_entropy.rules import Rules
    from kernels.cross_entropy.statistics import Statistics

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
LOADED_BYTES = 16
"""What a thread loads at once, at most."""


@triton.jit
def row_offset(row, stride):
    """Elements before ``row``, in 64 bits: 65536 rows of 50304 logits are more than 32 can count."""
    return row.to(tl.int64) * stride


@triton.jit
def _logits(base, column, width, real, SUM: tl.constexpr):  # noqa: N803
    # Only the width masks the load: it is a multiple of 16, so that wide loads stay whole. A mask that ends inside one,
    # at the last real column or around CALL, would split it into single elements.
    z = tl.load(base + column, mask=(column >= 0) & (column < width), other=0.0).to(SUM)
    return tl.where(real, z, -float("inf"))


@triton.jit
def _measure(
    logits,
    stride,
    width,
    target,
    lse_x_out,
    z_y_out,
    z_c_out,
    argmax_out,
    entropy_out,
    call,
    ignored,
    COLUMNS: tl.constexpr,  # noqa: N803
    HAS_CALL: tl.constexpr,  # noqa: N803
    ARGMAX: tl.constexpr,  # noqa: N803
    ENTROPY: tl.constexpr,  # noqa: N803
    SUM: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
    GROUP: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0)
    base = logits + row_offset(row, stride)
    # Sums for each group of columns that one thread loads at once, and of the groups only at the end of the row: with
    # sums over whole blocks, all threads would wait for each other block after block.
    groups = tl.arange(0, BLOCK // GROUP) * GROUP
    largest = tl.full([BLOCK // GROUP], -float("inf"), SUM)
    total = tl.full([BLOCK // GROUP], 0.0, SUM)  # of exp(z - largest)
    moment = tl.full([BLOCK // GROUP], 0.0, SUM)  # of exp(z - largest) * (z - largest)
    best = tl.full([BLOCK // GROUP], 0, tl.int32)
    for start in range(0, COLUMNS, BLOCK):
        column = start + groups[:, None] + tl.arange(0, GROUP)[None, :]
        real = column < COLUMNS
        if HAS_CALL:
            real = real & (column != call)
        z = _logits(base, column, width, real, SUM)
        group_largest = tl.max(z, 1)
        if ARGMAX:
            best = tl.where(group_largest > largest, start + groups + tl.argmax(z, 1).to(tl.int32), best)
        higher = tl.maximum(largest, group_largest)
        # A group of nothing but CALL and padding has no largest; -inf minus -inf would be NaN.
        pivot = tl.where(higher == -float("inf"), 0.0, higher)
        shrink = tl.exp2((largest - pivot) * LOG2_E)
        part = tl.exp2((z - pivot[:, None]) * LOG2_E)
        if ENTROPY:
            shift = tl.where(shrink > 0, largest - pivot, 0.0)
            below = tl.where(part > 0, z - pivot[:, None], 0.0)
            moment = shrink * (moment + total * shift) + tl.sum(part * below, 1)
        total = total * shrink + tl.sum(part, 1)
        largest = higher
    highest = tl.max(largest, 0)
    pivot = tl.where(highest == -float("inf"), 0.0, highest)
    shrink = tl.exp2((largest - pivot) * LOG2_E)
    whole = tl.sum(total * shrink, 0)
    log_total = tl.log2(whole) * LN_2
    tl.store(lse_x_out + row, highest + log_total)
    if ARGMAX:  # of equals the first
        tl.store(argmax_out + row, tl.min(tl.where(largest == highest, best, COLUMNS), 0))
    if ENTROPY:
        shift = tl.where(shrink > 0, largest - pivot, 0.0)
        tl.store(entropy_out + row, log_total - tl.sum(shrink * (moment + total * shift), 0) / whole)
    if HAS_CALL:
        tl.store(z_c_out + row, _logits(base, call, width, call >= 0, SUM))
    y = tl.load(target + row)
    real = (y >= 0) & (y < COLUMNS)
    tl.device_assert(real | (y == ignored), "target is no column and not ignore_index")
    # A target that is no column: an infinite loss. An ignored row: zero, whatever column it names.
    z_y = _logits(base, y, width, real, SUM)
    tl.store(z_y_out + row, tl.where(y == ignored, 0.0, z_y))


@triton.jit
def _differentiate(
    logits,
    stride,
    out,
    out_stride,
    width,
    target,
    lse_x,
    g_lse,
    g_y,
    g_c,
    call,
    ignored,
    COLUMNS: tl.constexpr,  # noqa: N803
    HAS_CALL: tl.constexpr,  # noqa: N803
    SUM: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0)
    base = logits + row_offset(row, stride)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    real = column < COLUMNS
    z = _logits(base, column, width, real, SUM)
    y = tl.load(target + row)
    grad = tl.exp2((z - tl.load(lse_x + row)) * LOG2_E) * tl.load(g_lse + row)
    if HAS_CALL:
        grad = tl.where(column == call, tl.load(g_c + row), grad)
    # In the same vector as the rest: a store of its own would need a barrier.
    grad += tl.where(column == y, tl.load(g_y + row), 0.0)
    # Written, not left out: padding and skipped rows hold logits or nothing until now.
    trained = (y != ignored) & (y >= 0) & (y < COLUMNS)
    grad = tl.where(real & trained, grad, 0.0)
    out += row_offset(row, out_stride)
    tl.store(out + column, grad.to(out.dtype.element_ty), mask=column < width)


def measure(logits: Tensor, target: Tensor, rules: Rules, out: Statistics) -> None:
    """Write the statistics of ``logits`` [rows, width] to ``out``; ``out`` says which are wanted."""
    if not len(logits):
        return
    config = configurations.row_config(logits)
    with on_device_of(logits):
        _measure[(len(logits),)](
            logits,
            logits.stride(0),
            logits.shape[1],
            target,
            out.lse_x,
            out.z_y,
            _or(out.z_c, out.lse_x),
            _or(out.argmax, out.lse_x),
            _or(out.entropy, out.lse_x),
            rules.call,
            rules.ignored,
            COLUMNS=rules.columns,
            HAS_CALL=rules.call >= 0,
            ARGMAX=out.argmax.numel() > 0,
            ENTROPY=out.entropy.numel() > 0,
            SUM=_sum(logits),
            BLOCK=config.block,
            GROUP=min(LOADED_BYTES // logits.element_size(), config.block),
            num_warps=config.warps,
        )


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
    """Write the gradient of ``logits`` [rows, width] to ``out``, padding included; ``out`` may be ``logits``.

    Arguments:
        g_lse, g_y, g_c: gradients of ``stats.lse_x``, ``z_y`` and ``z_c``, ``[rows]`` each.
    """
    rows, width = logits.shape
    if not rows:
        return
    config = configurations.row_config(logits)
    g_lse, g_y, g_c = (grad.contiguous() for grad in (g_lse, g_y, g_c))
    with on_device_of(logits):
        # Rows first: the second dimension of a grid ends at 65535.
        _differentiate[(rows, triton.cdiv(width, config.block))](
            logits,
            logits.stride(0),
            out,
            out.stride(0),
            width,
            target,
            stats.lse_x,
            g_lse,
            g_y,
            _or(g_c, g_lse),
            rules.call,
            rules.ignored,
            COLUMNS=rules.columns,
            HAS_CALL=rules.call >= 0,
            SUM=_sum(logits),
            BLOCK=config.block,
            num_warps=config.warps,
        )


def _or(wanted: Tensor, other: Tensor) -> Tensor:
    """A pointer that is never followed still has to point somewhere."""
    return wanted if wanted.numel() else other


def _sum(logits: Tensor) -> tl.dtype:
    return tl.float64 if accumulator(logits.dtype) == torch.float64 else tl.float32
