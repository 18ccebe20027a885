"""The oracle: the statistics of every token in a few lines of plain PyTorch, differentiable by autograd.

Slow and hungry on purpose. Tests hold every other file of this package against it, in fp64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from kernels.cross_entropy.stats import TokenStats

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


def logit_token_stats(
    logits: Float[Tensor, "*tokens columns"],
    target: Int[Tensor, "*tokens"],
    *,
    call_id: int | None = None,
    ignore_index: int = -100,
    n_cols: int | None = None,
    chosen: Int[Tensor, "*tokens k"] | None = None,
) -> TokenStats:
    """``TokenStats`` of given logits, in the dtype of the logits; arguments as in ``linear_token_stats``."""
    z = logits[..., :n_cols]
    ignored = target == ignore_index
    # Ignored rows keep their numbers and lose their gradient.
    z = torch.where(ignored[..., None], z.detach(), z)
    without_call = z
    if call_id is not None:
        column = torch.arange(z.shape[-1], device=z.device)
        without_call = z.masked_fill(column == call_id, -torch.inf)
    log_p = without_call.log_softmax(-1)
    return TokenStats(
        lse_x=without_call.logsumexp(-1),
        z_y=z.gather(-1, target.masked_fill(ignored, 0)[..., None])[..., 0].masked_fill(ignored, 0.0),
        z_c=None if call_id is None else z[..., call_id],
        ignored=ignored,
        argmax=without_call.argmax(-1).int(),
        entropy=-(log_p.exp() * log_p.clamp_min(torch.finfo(log_p.dtype).min)).sum(-1).detach(),
        z_chosen=None if chosen is None else z.gather(-1, chosen),
    )


def linear_token_stats(
    x: Float[Tensor, "*tokens width"],
    weight: Float[Tensor, "columns width"],
    target: Int[Tensor, "*tokens"],
    *,
    call_id: int | None = None,
    ignore_index: int = -100,
    n_cols: int | None = None,
    chosen: Int[Tensor, "*tokens k"] | None = None,
) -> TokenStats:
    """``TokenStats`` of the logits ``x @ weight.T``."""
    logits = x @ weight.T
    return logit_token_stats(logits, target, call_id=call_id, ignore_index=ignore_index, n_cols=n_cols, chosen=chosen)
