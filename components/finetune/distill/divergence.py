"""How far two distributions are apart that are known at k tokens, the rest being one bucket.

By the log-sum inequality, a divergence of the coarse distributions is at most that of the fine ones, and nothing is
lost where the teacher spreads its rest as the student does. No matrix of rows by vocabulary is made: the loss tells
the student's logits at k columns, and what it gives to all others follows from the logsumexp.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

SMALLEST_REST = 1e-6
"""Of the rest's probability: what float16 and bf16 leave of it is no less exact."""


def with_rest(logprobs: Float[Tensor, "rows k"]) -> Float[Tensor, "rows k1"]:
    """Log-probabilities of k tokens, and of all others together."""
    rest = 1 - logprobs.exp().sum(dim=1, keepdim=True)
    return torch.cat([logprobs, rest.clamp(min=SMALLEST_REST).log()], dim=1)


def divergence(
    teacher: Float[Tensor, "rows k1"],
    student: Float[Tensor, "rows k1"],
    kind: Literal["forward", "reverse", "js"],
    js_share: float = 0.5,
) -> Float[Tensor, "rows"]:
    """In nats, of log-probabilities; ``js_share`` is that of the teacher in the mixture."""
    if kind == "forward":
        return _kl(teacher, student)
    if kind == "reverse":
        return _kl(student, teacher)
    mixture = torch.logaddexp(teacher + math.log(js_share), student + math.log(1 - js_share))
    return js_share * _kl(teacher, mixture) + (1 - js_share) * _kl(student, mixture)


def _kl(one: Float[Tensor, "rows k1"], other: Float[Tensor, "rows k1"]) -> Float[Tensor, "rows"]:
    return (one.exp() * (one - other)).sum(dim=1)
