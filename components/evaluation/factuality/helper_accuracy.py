"""How good the real helper is where the model calls: does its reply match the gold text?"""

from collections.abc import Sequence

import numpy as np

from components.cascade.config import CascadeConfig
from components.cascade.helpers.base import Call, Helper, HelperError
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
    right = empty = failed = 0
    seconds: list[float] = []
    for number, at in enumerate(chosen):
        ids = split.document(documents[int(predictions.document[at])]).tolist()
        call, gold = call_at(tokenizer, ids, int(predictions.place[at]), cfg, f"helper_accuracy-{number}")
        (reply,) = helper.answer([call])
        helper.forget(call.session)
        if isinstance(reply, HelperError):
            failed += 1
            continue
        seconds.append(reply.seconds)
        empty += not reply.text
        right += bool(reply.text) and gold.startswith(reply.text.encode())
    count = max(1, len(chosen))
    median = float(np.median(seconds)) if seconds else 0.0
    return HelperAccuracy(
        calls=len(chosen), right=right / count, empty=empty / count, failed=failed / count, seconds=median
    )


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
