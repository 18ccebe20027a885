"""Answers without a server: prompts in, texts out, and who wrote which part of each. For programs that load a bundle.

The engine is the server's own, so both say the same; only the way of an answer to its reader differs.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any

from components.cascade.authors import AuthorSpan
from components.cascade.decoding import FinishReason
from components.core.errors import InputError, LacewingError
from components.deployment.decoding import Delta, Request, request_of
from components.deployment.engine import Engine, Generation
from components.deployment.protocol import CompletionRequest

# Prompts in the engine at a time: enough to fill its batch, and room is left for other callers.
WINDOW = 8


@dataclass(frozen=True)
class TextAnswer:
    """What came of one prompt."""

    text: str
    spans: list[AuthorSpan]
    """The text in parts by their author."""
    calls: int
    """How often the helper was asked."""
    failed_calls: int
    """Calls that were not answered, so that the small model continued alone."""
    finish_reason: FinishReason


def answer(engine: Engine, requests: Sequence[Request]) -> list[TextAnswer]:
    """The answers to all ``requests``, in their order.

    Raises ``InputError`` for a prompt that cannot be continued, ``ServiceError`` if the engine fails; then the others
    are cancelled.
    """
    waiting = deque(enumerate(requests))
    running: dict[int, Generation] = {}
    arrived: SimpleQueue[tuple[int, Delta | LacewingError]] = SimpleQueue()
    deltas: list[list[Delta]] = [[] for _ in requests]
    answers: dict[int, TextAnswer] = {}
    try:
        while waiting or running:
            while waiting and len(running) < WINDOW:
                index, request = waiting.popleft()
                (running[index],) = engine.submit([(request, partial(_put, arrived, index))])
            index, delta = arrived.get()
            if isinstance(delta, LacewingError):
                raise delta
            deltas[index].append(delta)
            if delta.finish is not None:
                answers[index] = _joined(deltas[index], running.pop(index), delta.finish)
    finally:
        for generation in running.values():
            generation.cancel()
    return [answers[index] for index in range(len(requests))]


def requests_of(engine: Engine, prompts: Sequence[str], adapter: str = "", **settings: Any) -> list[Request]:
    """A request for each prompt; ``settings`` are those of the server's completions, under the same names.

    ``adapter``: name of one of the engine's; empty for the model alone.

    Raises pydantic's ``ValidationError`` for a setting out of range, ``InputError`` for calls without a helper.
    """
    body = CompletionRequest(prompt=list(prompts), **settings)
    if engine.helper is None and body.call_limit is not None:
        name, value = body.call_limit
        raise InputError(f"{name}={value:g}, but this model answers without a helper: leave it out, or give 0")
    return [request_of(body, engine.tokenizer.encode(prompt), body.max_tokens, adapter=adapter) for prompt in prompts]


def _put(arrived: "SimpleQueue[tuple[int, Delta | LacewingError]]", index: int, delta: Delta | LacewingError) -> None:
    arrived.put((index, delta))


def _joined(deltas: Sequence[Delta], generation: Generation, finish: FinishReason) -> TextAnswer:
    text = "".join(delta.text for delta in deltas)
    summary = generation.summary
    return TextAnswer(text, list(deltas[-1].authors), summary.calls, summary.failed_calls, finish)
