"""What a helper's reply comes to in the small model's text."""

from collections.abc import Sequence
from dataclasses import dataclass

from components.cascade.helpers.base import HelperError, Reply
from components.cascade.reply_tokens import reply_fault, reply_ids
from components.cascade.steps import Outcome
from components.data.tokenizer import TextTokenizer


@dataclass(frozen=True)
class Told:
    """What came of a call."""

    call: Outcome
    ids: tuple[int, ...] = ()
    """What it adds to the text if it was ``answered``; otherwise the small model's own token stands there."""
    fault: object = None
    """Why it ``failed``."""


def told(reply: Reply | HelperError, ids: Sequence[int], left: int, max_tokens: int, tokenizer: TextTokenizer) -> Told:
    """What ``reply`` adds to ``ids``: at most ``left`` tokens. It was asked for ``max_tokens`` of the helper's."""
    if isinstance(reply, HelperError):
        return Told("failed", fault=reply)
    if not reply.text.strip():
        return Told("empty")
    if fault := reply_fault(reply.text, max_tokens, tokenizer.special.ids):
        return Told("failed", fault=fault)
    return Told("answered", tuple(reply_ids(tokenizer, ids, reply.text)[:left]))
