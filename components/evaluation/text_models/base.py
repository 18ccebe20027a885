"""What an evaluation asks of a model, whoever computes it: how likely is a text, and how does it go on?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class Continuation:
    """How likely is ``text`` after ``context``? An empty context stands for the beginning of a document."""

    context: str
    text: str


@dataclass(frozen=True)
class Likelihood:
    """The answer to a ``Continuation``."""

    log_likelihood: float
    """Sum over its tokens of log P, in nats; ``<CALL>`` left out of the softmax."""
    greedy: bool
    """Whether every token of it is the likeliest one."""
    tokens: int
    """Tokens of the continuation."""
    call_mass: float = 0.0
    """Sum over its tokens of P(<CALL>), had it been allowed; 0 for models that cannot call."""


@dataclass(frozen=True)
class TokenScores:
    """A whole text as a document, token by token; the boundary after it is not among them."""

    sizes: Int[np.ndarray, " tokens"]
    """Length of each token in UTF-8 bytes; their sum is the text's."""
    nats: Float[np.ndarray, " tokens"]
    """-log P(token), ``<CALL>`` left out."""
    confidence: Float[np.ndarray, " tokens"]
    """Probability of the likeliest token."""
    right: Bool[np.ndarray, " tokens"]
    """Whether the token is the likeliest one."""
    call: Float[np.ndarray, " tokens"]
    """P(<CALL>), had it been allowed; zeros for models that cannot call."""


@dataclass(frozen=True)
class Written:
    """What a model wrote after a prompt."""

    text: str
    tokens: int
    calls: int = 0
    """How often the helper was asked."""


@dataclass(frozen=True)
class Draw:
    """How a text is drawn from what a model expects; by default, the likeliest token each time."""

    temperature: float = 0.0
    top_p: float = 1.0
    """Draw from the likeliest tokens that together have this probability."""
    seed: int = 0
    """Of the first prompt; every further one has the next number."""


GREEDY = Draw()


class TextModel(Protocol):
    """A model that is evaluated. Its results do not depend on what else is asked in the same call."""

    @property
    def name(self) -> str:
        """As people know it; the column ``model`` of the table of scores."""
        ...

    @property
    def identity(self) -> str:
        """Digest of what decides its results; for an endpoint, its address and the name of its model."""
        ...

    @property
    def context_length(self) -> int:
        """The most tokens that it sees. A longer context is cut at its beginning."""
        ...

    def token_scores(self, texts: Sequence[str]) -> list[TokenScores]:
        """Every text as a document of its own. Raises ``InputError`` where the model cannot say (see ``endpoint``)."""
        ...

    def likelihoods(self, requests: Sequence[Continuation]) -> list[Likelihood]:
        """Of every continuation. Raises ``InputError`` where the model cannot say."""
        ...

    def write(
        self,
        prompts: Sequence[str],
        max_tokens: int,
        stop: Sequence[str] = (),
        presence_penalty: float = 0.0,
        draw: Draw = GREEDY,
    ) -> list[Written]:
        """Text after each prompt, to the first of ``stop`` (left out), the boundary or ``max_tokens``.

        A cascade asks its helper, as it is served.
        """
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...
