"""A context and its continuation as tokens, as lm-evaluation-harness cuts them.

Both are encoded together, because a tokenizer may join across the seam, and split after as many tokens as the context
has alone. Spaces at the end of the context go to the continuation, to whose first word they belong
(``lm_eval.api.model.TemplateLM._encode_pair``).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from components.core.errors import InputError
from components.evaluation.text_models.base import Continuation

Encode = Callable[[Sequence[str]], list[list[int]]]


class Tokens(NamedTuple):
    """A request in tokens; both parts have at least one."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


def encoded(requests: Sequence[Continuation], encode: Encode, start: int, starts_texts: bool = True) -> list[Tokens]:
    """All requests in tokens.

    Arguments:
        encode: ids of texts, without special tokens.
        start: the token before a document, which an empty context stands for.
        starts_texts: whether it stands before every context, which is the beginning of a document.

    Raises ``InputError`` for a continuation without a token.
    """
    contexts = [request.context.rstrip() for request in requests]
    unique = list(dict.fromkeys(contexts))
    lengths = dict(zip(unique, map(len, encode(unique)), strict=True))
    whole = encode([request.context + request.text for request in requests])
    found = []
    for request, context, ids in zip(requests, contexts, whole, strict=True):
        length = lengths[context]
        if length >= len(ids):
            raise InputError(f"the continuation {request.text!r} after {request.context[-60:]!r} has no token")
        before = (start,) if starts_texts or not length else ()
        found.append(Tokens((*before, *ids[:length]), tuple(ids[length:])))
    return found
