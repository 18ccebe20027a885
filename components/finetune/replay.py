"""Windows of the pretraining text among the conversations, so that the model does not forget it."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int

from components.cascade.reply_tokens import ends_inside_character
from components.data.chats.packing import Document
from components.data.shards import ShardSet
from components.data.split import TRAIN
from components.data.tokenizer import TextTokenizer
from components.training.loader import TokenColumn


def windows_for(share: float, others: int) -> int:
    """How many windows make up ``share`` of all, beside ``others``."""
    return round(share / (1 - share) * others)


def replayed(
    shards: ShardSet, facts: TokenColumn | None, tokenizer: TextTokenizer, length: int, count: int
) -> Iterator[list[Document]]:
    """``count`` windows of ``length`` tokens, evenly spread over the training split; each as its documents.

    ``facts``: which tokens state facts. A window is cut where the pretraining cuts it; what is left of a character at a
    cut is dropped.
    """
    split = shards.splits[TRAIN]
    available = max(1, split.n_tokens // length)
    for number in range(min(count, available)):
        start = number * available // min(count, available) * length
        stop = min(start + length - 1, split.n_tokens)
        ids = split.slice(start, stop).astype(np.int64)
        stated = facts.slice(TRAIN, start, stop) if facts is not None else np.zeros(len(ids), dtype=bool)
        yield list(_documents(ids, stated, shards.boundary_id, tokenizer))


def _documents(
    ids: Int[np.ndarray, " tokens"], stated: Bool[np.ndarray, " tokens"], boundary_id: int, tokenizer: TextTokenizer
) -> Iterator[Document]:
    """The pieces between boundaries. The first token of the window has nothing before it to be predicted from."""
    ends = [*np.flatnonzero(ids == boundary_id).tolist(), len(ids)]
    start = 0
    for end in ends:
        kept = _whole_characters(ids[start:end], tokenizer)
        piece = slice(start + kept.start, start + kept.stop)
        learnt = np.ones(piece.stop - piece.start, dtype=bool)
        if start == 0:
            learnt[:1] = False
        n_bytes = sum(len(tokenizer.token_bytes(id)) for id in ids[piece].tolist())
        yield Document(ids[piece], n_bytes, np.zeros(len(learnt), dtype=bool), learnt, stated[piece])
        start = end + 1


def _whole_characters(ids: Int[np.ndarray, " tokens"], tokenizer: TextTokenizer) -> slice:
    """The tokens that spell whole characters."""
    raw = [tokenizer.token_bytes(id) for id in ids.tolist()]
    first = next((number for number, text in enumerate(raw) if text and text[0] >> 6 != 0b10), len(raw))
    last = len(raw)
    while ends_inside_character(b"".join(raw[max(first, last - 8) : last])):
        last -= 1
    return slice(first, last)
