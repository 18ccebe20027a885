"""A context and its continuation as tokens, as lm-evaluation-harness cuts them.

Both are encoded together, because a tokenizer may join across the seam, and split after as many tokens as the context
has alone. Spaces at the end of the context go to the continuation, to whose first word they belong
(``lm_eval.api.model.TemplateLM._encode_pair``).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from components.evaluation.text_models.base import Continuation

Encode = Callable[[Sequence[str]], list[list[int]]]


class Tokens(NamedTuple):
    """A request in tokens."""

    context: tuple[int, ...]
    """The boundary first: a context is the beginning of a document."""
    continuation: tuple[int, ...]


def encoded(requests: Sequence[Continuation], encode: Encode, boundary: Sequence[int]) -> list[Tokens]:
    """All requests in tokens; ``boundary`` is what stands before a document."""
    contexts = [request.context.rstrip() for request in requests]
    alone = dict(zip(unique := list(dict.fromkeys(contexts)), encode(unique), strict=True))
    whole = encode([request.context + request.text for request in requests])
    return [
        Tokens((*boundary, *ids[: len(alone[context])]), tuple(ids[len(alone[context]) :]))
        for ids, context in zip(whole, contexts, strict=True)
    ]
