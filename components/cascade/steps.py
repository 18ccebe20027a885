"""What goes into the cascade and what comes out: requests, the steps of their answers, and the numbers of each."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

from components.model.decoder import FinishReason, Guide
from components.model.sampling import Sampling

Author = Literal["small", "helper"]
Outcome = Literal["none", "answered", "empty", "failed"]


@dataclass(frozen=True)
class CascadeRequest:
    """What to continue, and how."""

    prompt: Sequence[int]
    """Ids; a document starts with the boundary token."""
    sampling: Sampling
    """As for ``generate``; ``<CALL>`` is suppressed in any case."""
    budget: float | None = None
    """Share of calls; ``None`` takes the config's. The request never makes more than floor(budget * max_tokens)."""
    max_calls: int | None = None
    """A further limit to the calls."""
    alternatives: int = 0
    """Likeliest tokens to report beside each token."""
    guide: Guide | None = None
    """Which tokens the answer may go on with; a reply that it does not accept cannot be used. Of this request only."""
    adapter: str = ""
    """One of the cascade's; empty: the small model alone."""


@dataclass(frozen=True)
class CascadeToken:
    """One token of an answer."""

    id: int
    """Of the small model's tokenizer, never ``<CALL>``."""
    author: Author
    """Who wrote it."""
    call_probability: float
    """P(CALL) at the decision that it comes from; the tokens of one reply share a decision."""
    seconds: float
    """Wall time of that decision, the helper's answer included; 0 for the further tokens of a reply."""
    helper_seconds: float
    """Of these, the time that the answer stood still for it: of calls under way at once, each counts from the reply
    to the one before."""
    logprob: float | None
    """Natural log-probability under the small model without suppressed tokens; ``None`` within a reply, where the
    small model was not asked."""
    call: Outcome = "none"
    """Result of the call made here: answered, nothing to add (``empty``), or ``failed``. The last two keep the small
    model's own token."""
    alternatives: tuple[tuple[int, float], ...] = ()
    """Likeliest ids at this decision with their log-probabilities, best first."""


@dataclass
class CascadeSummary:
    """One request in numbers."""

    decisions: int = 0
    """Positions at which the small model chose between its token and a call."""
    calls: int = 0
    """Calls made, answered or not."""
    discarded_calls: int = 0
    """Calls beyond these, made after a wrong guess at a reply: what they brought is no part of the answer."""
    failed_calls: int = 0
    """Calls that ended in an error, a timeout or a reply that is not text."""
    empty_calls: int = 0
    """Calls to which the helper had nothing to add."""
    small_tokens: int = 0
    """Tokens of the answer by the small model."""
    helper_tokens: int = 0
    """Tokens of the answer by the helper, in the small model's tokenizer."""
    helper_model_tokens: int = 0
    """Tokens that the helper itself had to generate."""
    helper_seconds: float = 0.0
    """Time that the request waited for the helper."""

    @property
    def degraded(self) -> bool:
        """Whether a call failed. "Nothing to add" is an answer."""
        return self.failed_calls > 0

    def add(self, other: "CascadeSummary") -> None:
        """Count what ``other`` has counted."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


@dataclass(frozen=True)
class CascadeStep:
    """What one step adds to one request."""

    request: int
    """Number of the request, in the order in which they were added."""
    tokens: tuple[CascadeToken, ...]
    finish: FinishReason | None = None
    """Set on the last step of a request."""
    summary: CascadeSummary | None = None
    """Set on the last step."""
    error: Exception | None = None
    """Why this valid request had to be dropped; no more steps follow. Other requests continue."""


@dataclass(frozen=True)
class CascadeAnswer:
    """A whole answer."""

    tokens: tuple[CascadeToken, ...]
    finish: FinishReason
    summary: CascadeSummary

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]
