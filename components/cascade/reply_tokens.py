"""From a helper's reply to ids of the small model: is the reply usable, and which tokens is it?"""

import codecs
import unicodedata
from collections.abc import Iterable, Sequence

from components.data.tokenizer import SPECIAL_TOKENS, TextTokenizer

# A reply with more characters than this per allowed token is garbage, not an answer.
CHARACTERS_PER_TOKEN = 32
# Context that is encoded again together with a reply: more than the longest run of text that is split as one.
_TAIL_TOKENS = 48
_ALLOWED_CONTROLS = "\n\t"


def ends_inside_character(text: bytes | bytearray) -> bool:
    """Whether the last character is incomplete: its first bytes are valid tokens, but cannot be sent as text."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    decoder.decode(text[-4:])  # a character has four bytes at most
    return bool(decoder.getstate()[0])


def reply_fault(text: str, max_tokens: int, special: Iterable[str] = SPECIAL_TOKENS) -> str | None:
    """Why a reply cannot be used, in words; ``None`` if it can.

    ``special``: names of the small model's special tokens, which no reply may spell.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return "the reply is not text that can be encoded"
    if len(text) > CHARACTERS_PER_TOKEN * max_tokens:
        return f"the reply has {len(text)} characters, {max_tokens} tokens were asked for"
    if "\ufffd" in text:
        return "the reply has bytes that are not valid UTF-8"
    if any(unicodedata.category(character) == "Cc" and character not in _ALLOWED_CONTROLS for character in text):
        return "the reply has control characters"
    if spelled := next((token for token in special if token in text), None):
        return f"the reply contains the special token {spelled}"
    return None


def reply_ids(tokenizer: TextTokenizer, ids: Sequence[int], reply: str) -> list[int]:
    """Ids that continue ``ids`` with the text ``reply``, as the tokenizer would encode both together.

    Tokens that are already written never change. If encoding both together would change them (a reply that completes a
    word), the reply is encoded alone.
    """
    tail = _tail(tokenizer, ids)
    together = tokenizer.encode(tokenizer.decode(tail) + reply)
    if together[: len(tail)] == tail:
        return together[len(tail) :]
    return tokenizer.encode(reply)


def _tail(tokenizer: TextTokenizer, ids: Sequence[int]) -> list[int]:
    """The last of ``ids``: text only, and if it is not all of the text, from the beginning of a word."""
    tail = list(ids[-_TAIL_TOKENS:])
    special = set(tokenizer.special.ids.values())
    borders = [at for at, id in enumerate(tail) if id in special]
    if borders:
        return tail[borders[-1] + 1 :]
    if len(ids) <= _TAIL_TOKENS:
        return tail
    starts = [at for at, id in enumerate(tail) if tokenizer.token_bytes(id).startswith(b" ")]
    return tail[starts[0] :] if starts else []
