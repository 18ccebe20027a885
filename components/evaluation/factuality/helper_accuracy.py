"""How good the real helper is where the model calls: does its reply match the gold text?"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from components.cascade.config import CascadeConfig
from components.cascade.helpers.base import Call, Helper, HelperError, Reply
from components.cascade.helpers.retrieval import NAME as RETRIEVAL
from components.data.shards import Split
from components.data.tokenizer import TextTokenizer
from components.evaluation.factuality.calls import called_positions
from components.evaluation.factuality.predictions import Predictions
from components.evaluation.factuality.results import FactCalls, HelperAccuracy
from components.evaluation.heldout import first_shuffled


def ask_helper(
    helper: Helper,
    tokenizer: TextTokenizer,
    split: Split,
    documents: Sequence[int],
    predictions: Predictions,
    score: "np.ndarray[tuple[int], np.dtype[np.float64]]",
    cfg: CascadeConfig,
    sample: int,
    least: float = -math.inf,
) -> HelperAccuracy:
    """Send a fixed sample of the calls at ``cfg.budget`` to the helper, each with the gold text before it.

    ``least``: the lowest ``score`` that calls.

    No calls at all (budget 0, or no text) give zeros.
    """
    called = called_positions(score, cfg.budget, least)
    chosen = [int(called[i]) for i in first_shuffled(len(called), sample)]
    called_at = [
        call_at(
            tokenizer,
            split.document(documents[int(predictions.document[at])]).tolist(),
            int(predictions.place[at]),
            cfg,
            f"helper_accuracy-{number}",
        )
        for number, at in enumerate(chosen)
    ]
    asked = [_Asked(_reply(helper, call), gold) for call, gold in called_at]
    hidden = _without_document(helper, called_at)
    at_facts = predictions.factual[chosen].tolist()
    answered = [each.reply for each in asked if isinstance(each.reply, Reply)]
    count = max(1, len(chosen))
    return HelperAccuracy(
        calls=len(chosen),
        right=sum(each.right for each in asked) / count,
        empty=sum(not reply.text for reply in answered) / count,
        failed=(len(asked) - len(answered)) / count,
        seconds=float(np.median([reply.seconds for reply in answered])) if answered else 0.0,
        right_without_document=sum(each.right for each in hidden) / len(hidden) if hidden else None,
        facts=_at_facts(asked, at_facts),
        facts_without_document=_at_facts(hidden, at_facts),
    )


class _Asked(NamedTuple):
    """What was answered, and how the text really goes on."""

    reply: Reply | HelperError
    gold: bytes

    @property
    def answered(self) -> bool:
        return isinstance(self.reply, Reply) and bool(self.reply.text)

    @property
    def right(self) -> bool:
        return isinstance(self.reply, Reply) and self.answered and self.gold.startswith(self.reply.text.encode())


def _at_facts(asked: Sequence[_Asked], at_facts: Sequence[bool]) -> FactCalls | None:
    members = [each for each, factual in zip(asked, at_facts, strict=True) if factual] if asked else []
    if not members:
        return None
    return FactCalls(
        calls=len(members),
        right=sum(each.right for each in members) / len(members),
        answered=sum(each.answered for each in members) / len(members),
    )


def _without_document(helper: Helper, called_at: Sequence[tuple[Call, bytes]]) -> list[_Asked]:
    """The same calls, if the helper may not look up the document that is being read; none if it looks nothing up."""
    if helper.name != RETRIEVAL:
        return []
    hidden = [
        (replace(call, hidden=call.text + gold.decode("utf-8", errors="ignore")), gold) for call, gold in called_at
    ]
    return [_Asked(_reply(helper, call), gold) for call, gold in hidden]


def _reply(helper: Helper, call: Call) -> Reply | HelperError:
    (reply,) = helper.answer([call])
    helper.forget(call.session)
    return reply


def call_at(
    tokenizer: TextTokenizer, ids: Sequence[int], place: int, cfg: CascadeConfig, session: str
) -> tuple[Call, bytes]:
    """The call of a model that has read the document ``ids`` up to the token at ``place``, and how the text goes on."""
    raw = b"".join(map(tokenizer.token_bytes, ids))
    given = len(b"".join(map(tokenizer.token_bytes, ids[:place])))
    call = Call(
        session=session,
        text=raw[:given].decode("utf-8", errors="ignore"),
        ids=(tokenizer.end_of_text_id, *ids[:place]),
        unit=cfg.unit,
        max_tokens=cfg.max_unit_tokens,
    )
    return call, raw[given:]
