"""How far two distributions are apart that are known at k tokens, the rest being one bucket.

By the log-sum inequality, a divergence of the coarse distributions is at most that of the fine ones, and nothing is
lost where the teacher spreads its rest as the student does. No matrix of rows by vocabulary is made: the loss tells
the student's logits at k columns, and what it gives to all others follows from the logsumexp.
"""

# mypy: disable-error-code="no-untyped-call,override,no-any-return"
import math
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

Kind = Literal["forward", "reverse", "js"]

SMALLEST_REST = 1e-6
"""Of the rest's probability: what float16 and bf16 leave of it is no less exact."""


def divergence(
    teacher: Float[Tensor, "rows k"],
    student: Float[Tensor, "rows k"],
    kind: Kind,
    js_share: float = 0.5,
    temperature: float = 1.0,
) -> Float[Tensor, "rows"]:
    """In nats, of log-probabilities of k tokens; the others are one bucket. Differentiable in the student.

    Arguments:
        js_share: that of the teacher in the mixture.
        temperature: divides the log-probabilities of both, the bucket's too, which are then normalised again.
    """
    return _Divergence.apply(student, teacher, kind, js_share, temperature)


def with_rest(logprobs: Float[Tensor, "rows k"]) -> Float[Tensor, "rows k1"]:
    """Log-probabilities of k tokens, and of all others together."""
    rest = 1 - logprobs.exp().sum(dim=1, keepdim=True)
    return torch.cat([logprobs, rest.clamp(min=SMALLEST_REST).log()], dim=1)


class _Divergence(torch.autograd.Function):
    """With the gradient made on the way: for tensors this small, autograd's many steps take longer than the sums.

    With ``q`` the student's probabilities and ``m`` the mixture, the derivatives by log q are

        forward: -p        reverse: q * (log q - log p + 1)        js: (1 - js_share) * q * (log q - log m)
    """

    @staticmethod
    def forward(
        context: Any, student: Tensor, teacher: Tensor, kind: Kind, js_share: float, temperature: float
    ) -> Tensor:
        one, other = with_rest(teacher), with_rest(student)
        rest = other[:, -1:].exp()
        if temperature != 1:
            one, other = ((logs / temperature).log_softmax(dim=1) for logs in (one, other))
        p, q = one.exp(), other.exp()
        if kind == "forward":
            apart, slope = (p * (one - other)).sum(dim=1), -p
        elif kind == "reverse":
            terms = q * (other - one)
            apart, slope = terms.sum(dim=1), terms + q
        else:
            mixture = torch.logaddexp(one + math.log(js_share), other + math.log(1 - js_share))
            terms = (1 - js_share) * q * (other - mixture)
            apart, slope = js_share * (p * (one - mixture)).sum(dim=1) + terms.sum(dim=1), terms
        if temperature != 1:
            slope = (slope - q * slope.sum(dim=1, keepdim=True)) / temperature
        # The rest is 1 - sum(exp(student)), and no longer follows the student where it is at its smallest.
        by_rest = (slope[:, -1:] / rest).masked_fill_(rest <= (1 + 1e-5) * SMALLEST_REST, 0.0)
        context.save_for_backward(slope[:, :-1] - by_rest * student.exp())
        return apart

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = context.saved_tensors
        return upstream[:, None] * slope, None, None, None, None
