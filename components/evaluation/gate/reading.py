"""A served model reads held-out documents as if it had written them: where would it call, and what would it get?

A reply that is how the text goes on counts for all the tokens that it spells, and nothing is decided inside it, as in
serving. After a wrong one the true text goes on, so that one slip does not spoil the rest of a document.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from components.cascade.call_rule import call_rule
from components.cascade.helpers.base import Call, HelperError, Reply
from components.cascade.reply_tokens import ends_inside_character
from components.evaluation.factuality.helper_accuracy import call_at
from components.evaluation.factuality.predictions import Predictions
from components.evaluation.gate.served import ServedModel


@dataclass
class Tally:
    """What one document came to."""

    decisions: int = 0
    calls: int = 0
    wasted: int = 0
    """Calls on tokens that state no fact."""
    failed: int = 0
    """Calls that ended in an error or in time-out."""
    facts: int = 0
    """Tokens that state facts."""
    right: int = 0
    """Of these, the ones that the small model or the helper gets right."""


Reading = Generator[Call, Reply | HelperError, Tally]


def read_documents(served: ServedModel, documents: Sequence[Predictions]) -> list[Tally]:
    """Read all ``documents`` side by side, so that the helper is asked about many of them at once."""
    readings = {number: _read(served, each, f"gate {number}") for number, each in enumerate(documents)}
    tallies: dict[int, Tally] = {}
    calls: dict[int, Call] = {}
    replies: dict[int, Reply | HelperError | None] = dict.fromkeys(readings)
    while replies:
        calls.clear()
        for number, reply in replies.items():
            try:
                # A reading starts with None, which its type cannot say.
                calls[number] = readings[number].send(reply)  # type: ignore[arg-type]
            except StopIteration as end:
                tallies[number] = end.value
        replies = {}
        if calls:
            assert served.helper is not None  # or nothing would call
            replies = dict(zip(calls, served.helper.answer(list(calls.values())), strict=True))
    if served.helper is not None:
        for number in readings:
            served.helper.forget(f"gate {number}")
    return [tallies[number] for number in readings]


def _read(served: ServedModel, predictions: Predictions, session: str) -> Reading:
    tally = Tally()
    ids = predictions.gold[:-1].tolist()  # the boundary at the end is no text
    scores = predictions.asking(served.config.call_score).tolist()
    factual, right = predictions.factual.tolist(), predictions.right.tolist()
    rule = call_rule(served.config, served.config.budget, served.calibration)
    place, text = 0, b""
    while place < len(ids):
        called = served.helper is not None and rule.wants(scores[place]) and not ends_inside_character(text)
        rule.record(scores[place], called)
        tally.decisions += 1
        said = right[place : place + 1]
        if called:
            said = yield from _asked(served, tally, ids, place, session, factual[place], said)
        stated = factual[place : place + len(said)]
        tally.facts += sum(stated)
        tally.right += sum(fact and good for fact, good in zip(stated, said, strict=True))
        text = b"".join([text, *map(served.tokenizer.token_bytes, ids[place : place + len(said)])])[-4:]
        place += len(said)
    return tally


def _asked(
    served: ServedModel, tally: Tally, ids: list[int], place: int, session: str, factual: bool, own: list[bool]
) -> Generator[Call, Reply | HelperError, list[bool]]:
    """Whether each token that the helper writes is right; ``own`` where it says nothing."""
    call, gold = call_at(served.tokenizer, ids, place, served.config, session)
    tally.calls += 1
    tally.wasted += not factual
    reply = yield call
    if isinstance(reply, HelperError):
        tally.failed += 1
        return own
    if not reply.text:
        return own
    if not gold.startswith(spelled := reply.text.encode()):
        return [False]
    return [True] * max(1, _within(served, ids[place:], len(spelled)))


def _within(served: ServedModel, ids: Sequence[int], length: int) -> int:
    """How many of the tokens lie within the first ``length`` bytes."""
    count = 0
    for id in ids:
        length -= len(served.tokenizer.token_bytes(id))
        if length < 0:
            break
        count += 1
    return count
