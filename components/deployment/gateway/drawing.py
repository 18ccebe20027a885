"""How the server behind the gateway draws tokens: what a request says of it, and what a server can be asked for."""

from dataclasses import dataclass, replace

from components.deployment.decoding import Request
from components.deployment.errors import UnsupportedError
from components.model.sampling import GREEDY_BELOW

# What all servers take for a seed.
_SEEDS = 2**31


@dataclass(frozen=True)
class Drawing:
    """How tokens other than ``<CALL>`` are drawn; the words are those of ``Request``."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    counted: int = 0
    """The last tokens of the prompt are the answer so far: so many, which the penalties count."""

    @property
    def likeliest(self) -> bool:
        """Whether the likeliest token is taken, so that a logit bias on ``<CALL>`` is a threshold."""
        return self.temperature < GREEDY_BELOW and not self.penalises

    @property
    def penalises(self) -> bool:
        return bool(self.presence_penalty or self.frequency_penalty)

    def after(self, answer_tokens: int) -> "Drawing":
        """For what follows an answer of so many tokens: with a seed of its own, or all pieces would draw alike."""
        return replace(self, seed=(self.seed + answer_tokens) % _SEEDS, counted=answer_tokens)


GREEDY = Drawing()


def drawing_of(request: Request, seed: int, counts_answers: bool) -> Drawing:
    """How ``request`` wants its tokens drawn.

    Arguments:
        seed: for a request that has none.
        counts_answers: whether the server can count the tokens of an answer that is written in pieces.

    Raises ``UnsupportedError`` for what the gateway cannot pass on.
    """
    if request.repetition_penalty != 1.0:
        raise UnsupportedError(
            "repetition_penalty",
            "servers do not agree on which tokens it counts, so the gateway does not pass it on: leave it out",
            f"{request.repetition_penalty:g}",
        )
    if request.guide is not None:
        raise UnsupportedError(
            "response_format",
            "the server behind would have to follow the schema on both sides of each call, so leave it out",
            "a schema",
        )
    if request.logprobs is not None:
        raise UnsupportedError("logprobs", "the gateway does not pass them on: leave it out", request.logprobs)
    if request.echo:
        raise UnsupportedError("echo", "the gateway returns the answer only: leave it out", True)
    presence, frequency = request.presence_penalty or 0.0, request.frequency_penalty
    for name, value in (("presence_penalty", presence), ("frequency_penalty", frequency)):
        if value and not counts_answers:
            raise UnsupportedError(
                name,
                "the server behind counts only tokens of the piece that it is writing, not of the whole answer: leave "
                "it out",
                f"{value:g}",
            )
    return Drawing(
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        seed=(seed if request.seed is None else request.seed) % _SEEDS,
        presence_penalty=presence,
        frequency_penalty=frequency,
    )
