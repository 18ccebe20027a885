"""How many steps give a delegating run as many ground-truth tokens as plain training has."""

import math
from collections.abc import Iterable

import torch

from components.core.errors import InputError
from components.delegation.auxiliary_models import TokenPredictions
from components.delegation.config import DelegationConfig
from components.delegation.evidence import statistics
from components.delegation.selection import LOOKS_AT_HELPER, LOOKS_AT_REFERENCE, select
from components.training.loader import Batch

LEAST_LEARNED = 0.05
"""Below this share of learned tokens, a run that makes up for it would take over twenty times as long."""


class _Anybody:
    """Stands for a model whose losses are not known yet: it beats ours everywhere, so selections reach their budget."""

    def of(self, batch: Batch) -> TokenPredictions:
        rows = batch.targets.numel()
        return TokenPredictions(torch.zeros(rows), torch.ones(rows, dtype=torch.bool))


def learned_share(batches: Iterable[Batch], delegation: DelegationConfig, boundary_id: int) -> float:
    """Share of tokens that would teach their ground truth after the warm-up, counted on ``batches``.

    Every selection takes a number of tokens that labels and budget decide, whatever the losses are; only
    ``helper_gain`` may stay below it, where our own loss is the lower one already.
    """
    reference = _Anybody() if delegation.selection in LOOKS_AT_REFERENCE else None
    helper = _Anybody() if delegation.selection in LOOKS_AT_HELPER else None
    learned = valid = 0
    for batch in batches:
        evidence = statistics(batch, boundary_id, torch.ones(batch.targets.numel()), reference, helper)
        selection = select(evidence, delegation, torch.Generator().manual_seed(0))
        learned += int(selection.learned.sum())
        valid += int(evidence.valid.sum())
    return learned / valid


def matched_steps(max_steps: int, delegation: DelegationConfig, share: float) -> int:
    """Steps after which the learned tokens are those of ``max_steps`` plain ones; ``share``: see ``learned_share``.

    The warm-up is a fraction of the result and learns every token:
    steps * (warm-up + (1 - warm-up) * share) = max_steps.

    Raises ``InputError`` if hardly a token is learned.
    """
    learned = delegation.warmup_fraction + (1.0 - delegation.warmup_fraction) * share
    if learned < LEAST_LEARNED:
        raise InputError(
            f"delegation.selection={delegation.selection} leaves the ground truth of {learned:.1%} of the tokens to "
            f"learn, too little for delegation.match=gradient_tokens (at least {LEAST_LEARNED:.0%}): lower "
            "delegation.budget, or use delegation.match=steps"
        )
    return math.ceil(max_steps / learned)
