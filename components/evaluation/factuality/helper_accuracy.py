"""How good the real helper is where the model calls: does its reply match the gold text?"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from components.cascade.config import CascadeConfig
from components.cascade.helpers.base import Call, Helper, HelperError, Reply
from components.cascade.helpers.retrieval import NAME as RETRIEVAL
from components.data.shards import Split
from components.data.tokenizer import TextTokenizer
from components.evaluation.factuality.predictions import Predictions
from components.evaluation.factuality.results import HelperAccuracy
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
) -> HelperAccuracy:
    """Send a fixed sample of the calls at ``cfg.budget`` to the helper, each with the gold text before it.

    No calls at all (budget 0, or no text) give zeros.
    """
    called = np.argsort(-score, kind="stable")[: round(cfg.budget * len(predictions))]
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
    replies = [_reply(helper, call) for call, _ in called_at]
    right = [_is_right(reply, gold) for reply, (_, gold) in zip(replies, called_at, strict=True)]
    answered = [reply for reply in replies if isinstance(reply, Reply)]
    count = max(1, len(chosen))
    return HelperAccuracy(
        calls=len(chosen),
        right=sum(right) / count,
        empty=sum(not reply.text for reply in answered) / count,
        failed=(len(replies) - len(answered)) / count,
        seconds=float(np.median([reply.seconds for reply in answered])) if answered else 0.0,
        right_without_document=_right_without_document(helper, called_at),
    )


def _right_without_document(helper: Helper, called_at: Sequence[tuple[Call, bytes]]) -> float | None:
    """The share that is right if the helper may not look up the document that is being read."""
    if helper.name != RETRIEVAL or not called_at:
        return None
    hidden = [
        (replace(call, hidden=call.text + gold.decode("utf-8", errors="ignore")), gold) for call, gold in called_at
    ]
    return sum(_is_right(_reply(helper, call), gold) for call, gold in hidden) / len(hidden)


def _reply(helper: Helper, call: Call) -> Reply | HelperError:
    (reply,) = helper.answer([call])
    helper.forget(call.session)
    return reply


def _is_right(reply: Reply | HelperError, gold: bytes) -> bool:
    return isinstance(reply, Reply) and bool(reply.text) and gold.startswith(reply.text.encode())


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
