"""The loss of a selection: the ground truth where it is learned, ``<CALL>`` where a token is delegated.

    L = 1 / N * sum over valid tokens t of  [learned] * nll(x_t) + [delegated] * -log P(CALL)

N counts the valid tokens of the optimizer step, also dropped ones. Two ways to normalise the first term: ``full`` is
the cross-entropy over the whole vocabulary and so pushes P(CALL) down where nothing is to be asked; ``exclude_call``
leaves ``<CALL>`` out of the softmax, as LaCy is reported to do (arXiv:2602.12005). It moves P(CALL) at delegated tokens
only, so that nothing but the order of P(CALL) over tokens has a meaning. ``-log P(CALL)`` is always over everything.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from components.delegation.selection import Selection
from kernels.cross_entropy import TokenStats

Normalisation = Literal["full", "exclude_call"]
COUNTERS = ("tokens_forward", "tokens_gt_grad", "tokens_call_grad")


def token_losses(stats: TokenStats, selection: Selection, normalisation: Normalisation) -> Float[Tensor, "rows"]:
    """Every token's share of ``N * L`` in nats; exactly zero, and without gradient, where nothing is taught."""
    truth = stats.nll_full if normalisation == "full" else stats.nll_excl
    return truth * selection.learned - stats.logp_call * selection.delegated


def counted(valid: Bool[Tensor, "rows"], selection: Selection) -> Int[Tensor, "3"]:
    """How many tokens went forward, how many teach their ground truth, how many teach ``<CALL>`` (``COUNTERS``)."""
    return torch.stack([valid.sum(), (selection.learned & valid).sum(), (selection.delegated & valid).sum()])
