"""Whether a loaded version may answer people: it must have answered once, with finite numbers, and with its helper.

The release has asked the same of the bundle before it was promoted, in a server of its own. Here it is asked of the
copy that was fetched to this machine, on this machine, with the helper that can be reached from here.
"""

import math
from queue import Empty, SimpleQueue

from components.core.errors import ArtifactError, LacewingError, ServiceError
from components.deployment.answering import ServedEngine
from components.deployment.decoding import Delta, Request

TOKENS = 8
# Every other request goes on meanwhile, so that this one may take long on a busy machine.
PATIENCE_SECONDS = 60.0


def check_answers(engine: ServedEngine, prompt: str = "") -> None:
    """Ask ``engine`` to continue ``prompt``, or a new document.

    Raises ``ArtifactError`` if its answer is no answer, and ``ServiceError`` if it fails, takes too long, or if every
    call to its helper fails.
    """
    ids = engine.tokenizer.encode(prompt) if prompt else [engine.tokenizer.end_of_text_id]
    arrived: SimpleQueue[Delta | LacewingError] = SimpleQueue()
    request = Request(ids[-engine.context_length + TOKENS :], max_tokens=TOKENS, temperature=0.0, logprobs=0)
    (answer,) = engine.submit([(request, arrived.put)])
    try:
        deltas = [_next(arrived)]
        while deltas[-1].finish is None:
            deltas.append(_next(arrived))
    finally:
        answer.cancel()
    tokens = [token for delta in deltas for token in delta.tokens]
    if not tokens:
        raise ArtifactError("the model wrote nothing when it was asked once")
    if not all(math.isfinite(token.logprob) for token in tokens if token.logprob is not None):
        raise ArtifactError("the model gives its own tokens no finite probability: its weights are no numbers")
    summary = answer.summary
    if summary.calls and summary.calls == summary.failed_calls:
        raise ServiceError(f"every call to its helper failed ({summary.calls} when it was asked once)")


def _next(arrived: "SimpleQueue[Delta | LacewingError]") -> Delta:
    try:
        delta = arrived.get(timeout=PATIENCE_SECONDS)
    except Empty:
        raise ServiceError(f"it did not answer within {PATIENCE_SECONDS:g} seconds when it was asked once") from None
    if isinstance(delta, LacewingError):
        raise delta
    return delta
