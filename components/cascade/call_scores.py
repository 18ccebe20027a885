"""How much a position asks for help: P(CALL), or for models without it the doubt in their own prediction."""

import torch
from jaxtyping import Float
from torch import Tensor

from components.cascade.config import CalibratedScore


def call_probability(logits: Float[Tensor, "rows vocab"], call_id: int) -> Float[Tensor, "rows"]:
    """softmax(logits)[CALL], as sigmoid(z_call - logsumexp of the others) in double precision.

    Models that leave CALL out of the softmax of the kept tokens push it towards one on every fact. In fp32 there are
    only a few values near one, and the order of the positions would be lost.
    """
    return torch.sigmoid(logits[:, call_id].double() - _others(logits, call_id).float().logsumexp(dim=-1))


def call_score(logits: Float[Tensor, "rows vocab"], call_id: int, score: CalibratedScore) -> Float[Tensor, "rows"]:
    """``call``: P(CALL). ``entropy``: nats of the prediction without CALL; ``margin``: 1 - its largest probability.

    ``logit_margin``: logit of CALL less the largest other logit. It exceeds a threshold exactly where greedy decoding
    would emit CALL if minus the threshold were added to the logit of CALL, as a logit bias is.
    """
    if score == "call":
        return call_probability(logits, call_id)
    if score == "logit_margin":
        return (logits[:, call_id] - _others(logits, call_id).amax(dim=-1)).double()
    log_probabilities = _others(logits, call_id).float().log_softmax(dim=-1)
    if score == "margin":
        return -torch.expm1(log_probabilities.amax(dim=-1).double())
    # CALL has probability zero: 0 * -inf would be NaN, its share of the entropy is 0.
    return -(log_probabilities.exp() * log_probabilities.nan_to_num(neginf=0.0)).double().sum(dim=-1)


def _others(logits: Tensor, call_id: int) -> Tensor:
    """Logits in which CALL cannot occur."""
    without = logits.clone()
    without[:, call_id] = float("-inf")
    return without
