"""What the routes need of whatever answers requests: the engine of this process, or the gateway to another server."""

from collections.abc import Sequence
from typing import Protocol

from components.cascade.decoding import CascadeSummary
from components.cascade.helpers.base import Helper
from components.data.tokenizer import TextTokenizer
from components.deployment.bundle import Manifest
from components.deployment.decoding import Request
from components.deployment.engine import Deliver
from components.deployment.prompt_times import HelperCall


class Answered(Protocol):
    """A submitted request: the function that was given with it receives its deltas."""

    @property
    def prompt_tokens(self) -> int: ...

    @property
    def generated_tokens(self) -> int: ...

    @property
    def summary(self) -> CascadeSummary:
        """Who wrote how many tokens, and the cost."""

    @property
    def helper_calls(self) -> Sequence[HelperCall]:
        """What came of each call, and how long it took; grows while the request is answered."""

    def cancel(self) -> None:
        """Nothing is delivered after the current turn."""


class Answering(Protocol):
    """Answers requests about one bundle."""

    @property
    def manifest(self) -> Manifest: ...

    @property
    def tokenizer(self) -> TextTokenizer: ...

    @property
    def helper(self) -> Helper | None:
        """The helper that the model asks; ``None`` if it answers alone."""

    @property
    def adapters(self) -> Sequence[str]:
        """Names of the adapters that requests may choose."""

    @property
    def context_length(self) -> int:
        """Tokens of a prompt and its answer together."""

    @property
    def capacity(self) -> int:
        """Prompts that may be answered or wait."""

    @property
    def call_budget(self) -> float:
        """Share of the decisions that become calls where a request does not say otherwise."""

    @property
    def presence_penalty(self) -> float:
        """Penalty on tokens that an answer holds already, where a request does not say otherwise."""

    @property
    def active(self) -> int:
        """Requests being answered."""

    @property
    def queued(self) -> int:
        """Requests waiting for a slot."""

    @property
    def running(self) -> bool:
        """Whether requests can be answered."""

    def submit(self, requests: Sequence[tuple[Request, Deliver]]) -> Sequence[Answered]:
        """Queue all of ``requests`` or none; raises ``InputError`` and ``QueueFullError``."""

    def check_room(self, count: int) -> None:
        """Raise the errors of ``submit`` that do not depend on what the ``count`` requests say."""

    def close(self) -> None:
        """Stop; running requests end with an error."""


class ServedEngine(Answering, Protocol):
    """An engine that a server process owns."""

    def end_requests(self) -> None:
        """End the requests that are still being answered, with an error."""

    def close(self) -> None:
        """Give up threads and connections."""
