"""What every helper is: text in, a short continuation out, or an error that says why not.

Text is what crosses the border, so small model and helper may have different tokenizers. A helper with the small
model's own tokenizer may read the ids instead; neither contains ``<CALL>``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from components.cascade.config import ReturnUnit
from components.core.errors import ServiceError


class HelperError(ServiceError):
    """The helper gave no usable answer: too late, unreachable, or nonsense. The small model goes on alone."""


@dataclass(frozen=True)
class Call:
    """One question to a helper: what comes next?"""

    session: str
    """Names the request; a helper may keep what it has read of it until ``forget``."""
    text: str
    """Everything so far, prompt and answer, as it would be shown. A document starts at its beginning."""
    ids: tuple[int, ...]
    """The same in ids of the small model's tokenizer, the boundary token in front; without ``<CALL>``."""
    unit: ReturnUnit
    """How much to return: one of the helper's tokens, up to the end of a word, or of an entity."""
    max_tokens: int
    """Longest return in the helper's tokens."""
    hidden: str = ""
    """A document that a helper with a library must not look up: measurements ask what it knows from the others."""


@dataclass(frozen=True)
class Reply:
    """What a helper returned."""

    text: str
    """Continues ``Call.text`` character by character, its leading space included; empty: it knows nothing to say."""
    tokens: int
    """Tokens of the helper that it took (0 for helpers without a model)."""
    seconds: float
    """How long the helper took."""


@runtime_checkable
class Helper(Protocol):
    """Answers calls. Thread-safe: the server asks from several threads."""

    @property
    def name(self) -> str:
        """For people and records, for example ``fact table`` or ``model 30m``."""

    def answer(self, calls: Sequence[Call]) -> list[Reply | HelperError]:
        """One reply or error for each call, in order; the calls of a batch are answered together where that is faster.

        Never raises for a single call's failure and never blocks longer than its time-out.
        """

    def forget(self, session: str) -> None:
        """The request has ended: drop what was kept for it. Unknown sessions are no error."""

    def check(self) -> None:
        """Raise ``HelperError`` now if the helper cannot work (unreachable, no such model), with what to do."""

    def close(self) -> None:
        """Give up connections, threads and memory."""


class StatelessHelper:
    """Base of helpers that only look things up: they keep nothing of a request, can always work and hold nothing open.

    A subclass has ``name`` and ``answer``.
    """

    def forget(self, session: str) -> None:
        """Nothing is kept."""

    def check(self) -> None:
        """Always there."""

    def close(self) -> None:
        """Nothing to give up."""
