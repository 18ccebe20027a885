"""How tokens are chosen: penalties, temperature, top k, top p, min p, and a draw.

Penalties work against loops. Presence and frequency penalty are OpenAI's
(https://platform.openai.com/docs/guides/text-generation), the repetition penalty is CTRL's (arXiv:1909.05858). They
change which token is chosen, greedily too, and no probability that is reported.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from components.core.errors import InputError
from components.data.special_tokens import SpecialTokens

# Below this temperature the likeliest token is certain in practice, and dividing by less overflows in the end.
GREEDY_BELOW = 1e-5


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens and when to stop."""

    temperature: float = 1.0
    """0 is greedy; values above 1 vary more than the model."""
    top_p: float = 1.0
    """Keep the most probable tokens that together have this probability."""
    top_k: int = 0
    """Keep this many most probable tokens; 0 keeps all."""
    seed: int = 0
    """Same seed, same prompt, same model: same tokens."""
    max_tokens: int = 128
    """Stop after this many."""
    stop_ids: frozenset[int] = field(default_factory=frozenset)
    """Stop after any of these; the stop token itself is still yielded, so that callers know why it ended."""
    suppress_ids: frozenset[int] = field(default_factory=frozenset)
    """Never produced: they are taken out before probabilities are formed."""
    presence_penalty: float = 0.0
    """Taken off the logit of each token that the answer holds already; the prompt does not count."""
    frequency_penalty: float = 0.0
    """The same once for every time that the answer holds the token: in a long answer it also hits common words."""
    min_p: float = 0.0
    """Keep tokens at least this many times as probable as the likeliest; 0 keeps all (arXiv:2407.01082)."""
    repetition_penalty: float = 1.0
    """Divides the logit of each token that the prompt or the answer holds if it is positive, and multiplies it if it is
    negative. 1 changes nothing."""

    def __post_init__(self) -> None:
        bounds = {
            "temperature": (self.temperature, 0.0 <= self.temperature <= 100.0, "between 0 (greedy) and 100"),
            "top_p": (self.top_p, 0.0 < self.top_p <= 1.0, "above 0 and at most 1"),
            "top_k": (self.top_k, self.top_k >= 0, "0 (off) or a positive number"),
            "max_tokens": (self.max_tokens, self.max_tokens >= 1, "at least 1"),
            "presence_penalty": (self.presence_penalty, abs(self.presence_penalty) <= 2.0, "between -2 and 2"),
            "frequency_penalty": (self.frequency_penalty, abs(self.frequency_penalty) <= 2.0, "between -2 and 2"),
            "min_p": (self.min_p, 0.0 <= self.min_p <= 1.0, "between 0 (off) and 1"),
            "repetition_penalty": (
                self.repetition_penalty,
                0.1 <= self.repetition_penalty <= 10.0,
                "between 0.1 and 10; 1 turns it off",
            ),
        }
        for name, (value, allowed, words) in bounds.items():
            if not allowed:
                raise InputError(f"{name} is {value}, it must be {words}")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken, so that nothing is drawn."""
        return self.temperature < GREEDY_BELOW

    @property
    def counts_tokens(self) -> bool:
        """Whether it matters how often the answer holds a token."""
        return bool(self.presence_penalty or self.frequency_penalty)

    def penalty(self, count: int) -> float:
        """What a token loses from its logit when the answer holds it ``count`` times."""
        return (self.presence_penalty + self.frequency_penalty * count) if count else 0.0


def text_sampling(special: SpecialTokens, max_tokens: int, *, temperature: float = 0.0, **more: Any) -> Sampling:
    """For text and nothing else: the end of the text ends it, and other special tokens are never written.

    ``more``: further fields of ``Sampling``.
    """
    return Sampling(
        temperature=temperature,
        max_tokens=max_tokens,
        stop_ids=frozenset({special.end_of_text}),
        suppress_ids=special.never_written,
        **more,
    )


def choose(
    logits: Float[Tensor, "vocab"],
    sampling: Sampling,
    generator: torch.Generator,
    written: Mapping[int, int],
    text: Iterable[int] = (),
) -> int:
    """Choose one token: penalties first, then ``draw``.

    Arguments:
        logits: or log-probabilities; suppressed tokens have -inf. Left as they are.
        written: the tokens of the answer so far, and how often it holds each.
        text: the tokens of prompt and answer, for the repetition penalty.
    """
    scores = logits
    if sampling.repetition_penalty != 1.0:
        at = torch.tensor(sorted({*text, *written}), dtype=torch.long)
        held, penalty = scores[at], sampling.repetition_penalty
        scores = scores.index_copy(0, at, torch.where(held > 0, held / penalty, held * penalty))
    if written and sampling.counts_tokens:
        penalties = scores.new_tensor([sampling.penalty(count) for count in written.values()])
        scores = scores.index_add(0, torch.tensor(list(written)), penalties, alpha=-1)
    return int(scores.argmax()) if sampling.greedy else draw(scores, sampling, generator)


def draw(scores: Float[Tensor, "vocab"], sampling: Sampling, generator: torch.Generator) -> int:
    """Draw one token: temperature, the top k, the smallest set that reaches top p, min p, and one uniform number.

    The number falls into one of the intervals whose lengths are the probabilities, in the order of the ids.
    """
    probabilities = (scores / sampling.temperature).softmax(dim=-1).numpy().astype(np.float64)
    if sampling.top_k or sampling.top_p < 1.0:
        probabilities[~_likeliest(probabilities, sampling)] = 0.0
    if sampling.min_p:
        probabilities[probabilities < sampling.min_p * probabilities.max()] = 0.0
    ends = probabilities.cumsum()
    number = float(torch.rand(1, dtype=torch.float64, generator=generator)) * ends[-1]
    place = int(ends.searchsorted(number, side="right"))
    return place if place < len(ends) else int(probabilities.nonzero()[0][-1])  # rounded up to the sum itself


def _likeliest(probabilities: Float[np.ndarray, "vocab"], sampling: Sampling) -> Bool[np.ndarray, "vocab"]:
    """The top k, and of these the smallest set that reaches top p of what they have together; one at least."""
    # Values only: numpy sorts those ten times as fast as torch sorts values with their places.
    descending = np.sort(probabilities)[::-1]
    if sampling.top_k:
        descending = descending[: sampling.top_k]
    sums = descending.cumsum()
    count = max(1, int((sums - descending).searchsorted(sampling.top_p * sums[-1], side="left")))
    least = descending[count - 1]
    kept = np.asarray(probabilities > least)
    kept[(probabilities == least).nonzero()[0][: count - int(kept.sum())]] = True
    return kept
