"""The requests of a cascade between its steps: their texts, and the calls of each that are under way."""

from collections import deque
from copy import deepcopy
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from components.cascade.call_budget import CallBudget
from components.cascade.call_rule import CallRule
from components.cascade.helpers.base import Call, HelperError, Reply
from components.cascade.steps import CascadeSummary, CascadeToken
from components.model.decoder import Row

KEPT_QUESTIONS = 32
"""Questions of a request whose replies are kept as guesses at later ones."""


@dataclass(eq=False)
class CascadeRow:
    """One request. What is written while calls are under way stands on guesses at their replies."""

    number: int
    session: str
    row: Row
    """Its text in the decoder."""
    alternatives: int
    rule: CallRule
    budget: CallBudget
    text: bytearray
    most_asked: int
    """Calls that may be under way at once."""
    summary: CascadeSummary = field(default_factory=CascadeSummary)
    """Of what is certain."""
    asked: deque["AskedCall"] = field(default_factory=deque)
    """Calls under way, the first first. What follows the first is unconfirmed."""
    void: list["Question"] = field(default_factory=list)
    """Those that were asked after a wrong guess, in the order of the text."""
    settled: deque["Question"] = field(default_factory=lambda: deque(maxlen=KEPT_QUESTIONS))
    """Those whose reply has been taken in, the last first."""
    draft: "Draft | None" = None
    """The guess at the reply to the last call, if the small model is writing one."""
    settled_at: float = 0.0
    """When the last reply was taken in."""

    @property
    def waiting(self) -> bool:
        """Whether it cannot go on before a reply comes."""
        if not self.asked:
            return False
        return self.draft is None and (self.asked[-1].guessed is None or self.row.finish is not None)

    @property
    def counts(self) -> CascadeSummary:
        """Where to count what is decided now."""
        return self.asked[-1].counts if self.asked else self.summary


@dataclass(frozen=True, eq=False)
class Decision:
    """What the small model says at one position."""

    row: CascadeRow
    batch: Float[Tensor, "rows vocab"]
    """Logits of all decisions that were made together; those of suppressed tokens are -inf."""
    at: int
    """Which row of them this one's are."""
    log_sum: float
    """log of the sum of their exp: a logit minus this is a log-probability."""
    call_probability: float
    score: float
    seconds: float

    @property
    def logits(self) -> Float[Tensor, "vocab"]:
        return self.batch[self.at]

    def alone(self) -> "Decision":
        """The same without the logits of the others, so that it can be kept."""
        return replace(self, batch=self.logits[None].clone(), at=0)


@dataclass(eq=False)
class Question:
    """What the helper is asked, and its reply."""

    row: CascadeRow
    call: Call
    sent: float | None = None
    """When it went to the helper (``perf_counter``)."""
    reply: Reply | HelperError | Exception | None = None
    """``None`` until it comes; what is no ``HelperError`` is a fault of ours."""


@dataclass(eq=False)
class AskedCall:
    """A call under way, and what was written after it on the strength of a guess at its reply."""

    question: Question
    decision: Decision
    left: int
    """Tokens that could still be written when it was made."""
    likely: Question | None = None
    """The question before, whose reply is the guess."""
    state: "RowState | None" = None
    """The row as it was; there from the moment at which a guess is begun."""
    own: int | None = None
    """The small model's token in its place, unless that is drawn."""
    guessed: tuple[int, ...] | None = None
    """What was written in the place of the reply."""
    guessed_own: bool = False
    """Whether that is the small model's own token: the guess is that the reply brings nothing."""
    tokens: list[CascadeToken] = field(default_factory=list)
    """What was written after that, up to the next call."""
    counts: CascadeSummary = field(default_factory=CascadeSummary)
    """The numbers of that."""

    @property
    def ids(self) -> tuple[int, ...]:
        """Of the text before it."""
        return self.question.call.ids


@dataclass(eq=False)
class Draft:
    """The reply that the small model would give itself, as far as it is written."""

    ids: list[int] = field(default_factory=list)
    text: bytes = b""
    unit: str = ""
    """The whole reply, once that can be told from ``text``."""


@dataclass(frozen=True, eq=False)
class RowState:
    """What of a row cannot be derived from its text."""

    rule: CallRule
    spent: int
    text: int
    """Bytes."""
    generator: torch.Tensor | None
    """``None`` where nothing is drawn."""

    @classmethod
    def of(cls, row: CascadeRow) -> "RowState":
        drawn = None if row.row.sampling.greedy else row.row.generator.get_state()
        return cls(deepcopy(row.rule), row.budget.spent, len(row.text), drawn)

    def restore(self, row: CascadeRow) -> None:
        """Once only: the row goes on with the rule that is kept here."""
        row.rule, row.budget.spent = self.rule, self.spent
        del row.text[self.text :]
        if self.generator is not None:
            row.row.generator.set_state(self.generator)
