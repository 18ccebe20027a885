"""When what happened to a prompt: noted while it is answered, by ``time.perf_counter``, and read when that is over."""

from collections.abc import Sequence
from dataclasses import dataclass

from components.cascade.steps import Outcome


@dataclass(frozen=True)
class HelperCall:
    """A call to the helper that has had its end."""

    outcome: Outcome
    """Never ``none``."""
    seconds: float
    """How long the answer stood still for it."""
    ended: float
    """When the reply was taken in, or given up."""


@dataclass
class PromptTimes:
    """One prompt of a request, on its way through the engine."""

    adapter: str
    """Which of the server's adapters answers it; empty: the model alone."""
    submitted: float
    begun: float | None = None
    """When it got its place in the batch; ``None`` if it never did."""
    ended: float | None = None
    """When the last piece came, an error, or the client left; ``None``: it was not taken at all."""
    failed: bool = False
    """Whether it ended with an error."""
    helper_calls: Sequence[HelperCall] = ()
