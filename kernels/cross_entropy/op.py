"""The whole chunk loop as one operator each way, so that torch.compile sees one node and never breaks the graph.

Equals ``linear.forward`` and ``linear.backward``. Registered by define, impl and fake, with the autograd.Function
outside (``autograd.py``): a quarter of the overhead a call that ``custom_op`` with ``register_autograd`` has.
"""

# mypy: disable-error-code="untyped-decorator"
from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from kernels.cross_entropy import linear
from kernels.cross_entropy.rules import Rules
from kernels.cross_entropy.statistics import Statistics, Upstream, accumulator, empty_statistics

_RULES = "int columns, int call, int ignored"

torch.library.define(
    "lacewing::linear_token_stats",
    f"(Tensor x, Tensor weight, Tensor target, Tensor chosen, {_RULES}, bool keep, bool argmax, bool entropy,"
    " bool triton) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
for _name, _kept in ("linear_token_stats_backward", "Tensor"), ("linear_token_stats_backward_", "Tensor(a!)"):
    torch.library.define(
        f"lacewing::{_name}",
        f"({_kept} kept, Tensor x, Tensor weight, Tensor target, Tensor chosen, {_RULES},"
        " Tensor lse_x, Tensor z_y, Tensor z_c, Tensor g_lse, Tensor g_y, Tensor g_c, Tensor g_chosen,"
        " bool need_x, bool need_weight, bool triton) -> (Tensor, Tensor)",
    )


@torch.library.impl("lacewing::linear_token_stats", ("cpu", "cuda"))
def _forward(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    chosen: Tensor,
    columns: int,
    call: int,
    ignored: int,
    keep: bool,
    argmax: bool,
    entropy: bool,
    triton: bool,
) -> tuple[Tensor, ...]:
    rules = Rules(columns, call, ignored)
    stats, kept = linear.forward(
        x, weight, target, chosen, rules, keep=keep, argmax=argmax, entropy=entropy, triton=triton
    )
    return *stats, kept


@torch.library.register_fake("lacewing::linear_token_stats")
def _forward_fake(x: Tensor, weight: Tensor, target: Tensor, chosen: Tensor, *options: Any) -> tuple[Tensor, ...]:
    columns, call, ignored, keep, argmax, entropy, triton = options
    rules = Rules(columns, call, ignored)
    stats = empty_statistics(x.shape[0], x, rules, argmax, entropy, chosen.shape[1])
    wide = weight.shape[0] if triton else columns
    return *stats, x.new_empty((x.shape[0], wide) if keep else 0)


def _backward(
    overwrite: bool,
    kept: Tensor,
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    chosen: Tensor,
    columns: int,
    call: int,
    ignored: int,
    lse_x: Tensor,
    z_y: Tensor,
    z_c: Tensor,
    g_lse: Tensor,
    g_y: Tensor,
    g_c: Tensor,
    g_chosen: Tensor,
    need_x: bool,
    need_weight: bool,
    triton: bool,
) -> tuple[Tensor, Tensor]:
    nothing = x.new_empty(0)
    return linear.backward(
        kept,
        x,
        weight,
        target,
        chosen,
        Rules(columns, call, ignored),
        Statistics(lse_x, z_y, z_c, nothing, nothing, nothing),
        Upstream(g_lse, g_y, g_c, g_chosen),
        need_x=need_x,
        need_weight=need_weight,
        triton=triton,
        overwrite=overwrite,
    )


def _backward_fake(
    kept: Tensor, x: Tensor, weight: Tensor, *rest: Tensor | int | float | bool
) -> tuple[Tensor, Tensor]:
    need_x, need_weight, _ = rest[-3:]
    dtype = accumulator(x.dtype)
    return (
        x.new_empty(x.shape if need_x else (0,), dtype=dtype if x.dtype == torch.float16 else x.dtype),
        weight.new_empty(weight.shape if need_weight else (0,), dtype=dtype),
    )


for _name, _overwrite in ("linear_token_stats_backward", False), ("linear_token_stats_backward_", True):
    torch.library.impl(f"lacewing::{_name}", ("cpu", "cuda"))(partial(_backward, _overwrite))
    torch.library.register_fake(f"lacewing::{_name}")(_backward_fake)

torch.library.define(
    "lacewing::logit_lse", f"(Tensor logits, Tensor target, {_RULES}, bool triton) -> (Tensor, Tensor)"
)
torch.library.define(
    "lacewing::logit_nll_backward",
    f"(Tensor logits, Tensor target, {_RULES}, Tensor lse, Tensor z_y, Tensor g_nll, bool triton) -> Tensor",
)


@torch.library.impl("lacewing::logit_lse", ("cpu", "cuda"))
def _logit_lse(
    logits: Tensor, target: Tensor, columns: int, call: int, ignored: int, triton: bool
) -> tuple[Tensor, Tensor]:
    rules = Rules(columns, call, ignored)
    stats = empty_statistics(len(logits), logits, rules, argmax=False, entropy=False)
    linear.measure(logits, target, rules, stats, triton)
    return stats.lse_x, stats.z_y


@torch.library.register_fake("lacewing::logit_lse")
def _logit_lse_fake(
    logits: Tensor, target: Tensor, columns: int, call: int, ignored: int, triton: bool
) -> tuple[Tensor, Tensor]:
    lse = logits.new_empty(logits.shape[0], dtype=accumulator(logits.dtype))
    return lse, torch.empty_like(lse)


@torch.library.impl("lacewing::logit_nll_backward", ("cpu", "cuda"))
def _logit_nll_backward(
    logits: Tensor,
    target: Tensor,
    columns: int,
    call: int,
    ignored: int,
    lse: Tensor,
    z_y: Tensor,
    g_nll: Tensor,
    triton: bool,
) -> Tensor:
    rules = Rules(columns, call, ignored)
    stats = Statistics(lse, z_y, *(logits.new_empty(0) for _ in range(4)))
    upstream = Upstream(g_nll, -g_nll, g_nll, logits.new_empty(0))
    gradient = logits.new_empty(logits.shape)
    linear.differentiate(logits, target, rules, stats, upstream, triton, out=gradient)
    return gradient


@torch.library.register_fake("lacewing::logit_nll_backward")
def _logit_nll_backward_fake(logits: Tensor, *_: Tensor | int | float | bool) -> Tensor:
    return logits.new_empty(logits.shape)


forward = torch.ops.lacewing.linear_token_stats
backward = torch.ops.lacewing.linear_token_stats_backward
backward_ = torch.ops.lacewing.linear_token_stats_backward_  # writes to kept: see ``linear.spends``
logit_lse = torch.ops.lacewing.logit_lse
logit_nll_backward = torch.ops.lacewing.logit_nll_backward
