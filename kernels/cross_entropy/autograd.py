"""Where autograd meets the operators.

Equals autograd of ``reference.linear_token_stats``: three statistics send back one number a row each, chosen columns k,

    dz = p_x * g_lse (not in column c) + onehot(y) * g_y + onehot(c) * g_c + onehot(chosen) * g_chosen,
    p_x = exp(z - lse_x)

which is all that dX = dz @ W and dW = dz.T @ X need.
"""

# mypy: disable-error-code="no-untyped-call,override,attr-defined,no-any-return"
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from kernels.cross_entropy import op

if TYPE_CHECKING:
    from torch import Tensor
    from torch.autograd.function import FunctionCtx

    from kernels.cross_entropy.rules import Rules


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype of the products: autocast's if it is on, else that of ``x``. fp64 stays, as in torch's own autocast."""
    kind = x.device.type
    narrowed = torch.is_autocast_enabled(kind) and x.dtype != torch.float64
    return torch.get_autocast_dtype(kind) if narrowed else x.dtype


class LinearTokenStats(torch.autograd.Function):
    """``(lse_x, z_y, z_c, z_chosen, argmax, entropy)``, ``[rows]`` each or ``[0]``; ``z_chosen`` is ``[rows, k]``."""

    @staticmethod
    def forward(
        context: FunctionCtx,
        x: Tensor,
        weight: Tensor,
        target: Tensor,
        chosen: Tensor,
        rules: Rules,
        keep: bool,
        argmax: bool,
        entropy: bool,
        triton: bool,
    ) -> tuple[Tensor, ...]:
        dtype = compute_dtype(x)
        narrow_x, narrow_weight = x.to(dtype), weight.to(dtype)
        *stats, kept = op.forward(narrow_x, narrow_weight, target, chosen, *rules, keep, argmax, entropy, triton)
        context.save_for_backward(narrow_x, narrow_weight, target, chosen, *stats[:3], kept)
        context.mark_non_differentiable(*stats[4:])
        context.rules, context.triton = rules, triton
        # Inductor answers an operator that writes to its argument with a pass of its own over all of it. A compiled
        # graph gets one that does not, for a chunk of memory.
        context.spends = keep and op.linear.spends(chosen, triton) and not torch.compiler.is_compiling()
        context.dtypes = x.dtype, weight.dtype
        return tuple(stats)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        context: FunctionCtx, g_lse: Tensor, g_y: Tensor, g_c: Tensor, g_chosen: Tensor, *_: Tensor
    ) -> tuple[Tensor | None, ...]:
        _refuse_the_second_time(context)
        x, weight, target, chosen, *measured, kept = context.saved_tensors
        need_x, need_weight = context.needs_input_grad[:2]
        run = op.backward_ if context.spends else op.backward
        upstream = g_lse, g_y, g_c, g_chosen
        g_x, g_weight = run(
            kept, x, weight, target, chosen, *context.rules, *measured, *upstream, need_x, need_weight, context.triton
        )
        x_dtype, weight_dtype = context.dtypes
        return (
            g_x.to(x_dtype) if need_x else None,
            g_weight.to(weight_dtype) if need_weight else None,
            *(None,) * 7,
        )


def _refuse_the_second_time(context: Any) -> None:
    if not context.spends:
        return
    if getattr(context, "spent", False):
        raise RuntimeError(
            "the logits of this call were overwritten by its first backward, so there is no second one; "
            'to go back twice (retain_graph), call with mode="recompute"'
        )
    context.spent = True


class LogitNll(torch.autograd.Function):
    """The negative log-likelihood of every row of given logits, ``[rows]``."""

    @staticmethod
    def forward(context: FunctionCtx, logits: Tensor, target: Tensor, rules: Rules, triton: bool) -> Tensor:
        lse, z_y = op.logit_lse(logits, target, *rules, triton)
        context.save_for_backward(logits, target, lse, z_y)
        context.rules, context.triton = rules, triton
        # Not in place: torch 2.11 compiles a result that was written in place into one whose gradient is zero.
        return (lse - z_y).masked_fill(target == rules.ignored, 0.0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: FunctionCtx, upstream: Tensor) -> tuple[Tensor | None, ...]:
        logits, target, lse, z_y = context.saved_tensors
        return op.logit_nll_backward(logits, target, *context.rules, lse, z_y, upstream, context.triton), *(None,) * 3
