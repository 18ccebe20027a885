"""Metrics of delegation: P(CALL) by class of token, and how well it finds the delegated tokens."""

import math

from jaxtyping import Bool, Float
from torch import Tensor

from components.core.metrics import auroc


def mean_where(values: Float[Tensor, "rows"], mask: Bool[Tensor, "rows"]) -> float:
    """Mean over the rows of ``mask``; nan if there are none."""
    return (values.double() * mask).sum().div(mask.sum()).item()


def call_metrics(
    odds: Float[Tensor, "rows"],
    loss: Float[Tensor, "rows"],
    delegated: Bool[Tensor, "rows"],
    factual: Bool[Tensor, "rows"],
    valid: Bool[Tensor, "rows"],
) -> dict[str, float]:
    """Mean P(CALL) by class, how well it finds what is delegated, and what that costs; without metrics of no rows.

    Arguments:
        odds: log P(CALL) / (1 - P(CALL)).
        loss: nats of the target, ``<CALL>`` left out.
    """
    odds, loss, delegated, factual = odds[valid], loss[valid], delegated[valid], factual[valid]
    probability = odds.sigmoid()
    metrics = {
        "call_delegated": mean_where(probability, delegated),
        "call_factual_kept": mean_where(probability, factual & ~delegated),
        "call_non_factual": mean_where(probability, ~factual & ~delegated),
        "delegated_loss": mean_where(loss, delegated),
        "auroc_delegated": auroc(odds.double().cpu().numpy(), delegated.cpu().numpy()),
    }
    return {name: value for name, value in metrics.items() if not math.isnan(value)}


def overlap(now: Bool[Tensor, "rows"], before: Bool[Tensor, "rows"]) -> float:
    """Share of the tokens delegated now or before that are delegated both times; nan if there are none."""
    return ((now & before).sum() / (now | before).sum()).item()
