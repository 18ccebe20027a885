"""From the factual words of a text to the bits of its tokens, by byte offsets.

A token is factual if and only if its first character other than white space lies in a factual word. A token of white
space alone is not factual. The tokens are byte strings that join to the text, so this works for any Unicode: a token
that begins within a character (the second byte of "Ł", a part of an emoji) belongs to the word of that character.
"""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Int, Integer

# Everything for which ``str.isspace`` is true lies in the Basic Multilingual Plane.
_SPACES = np.array([code for code in range(1 << 16) if chr(code).isspace()], dtype=np.uint32)
_CONTINUATION_MASK, _CONTINUATION = 0xC0, 0x80  # UTF-8: the bits that mark a byte within a character

Words = Int[np.ndarray, "words 2"]
"""Start and end (excluded) of each word in characters, ascending, without overlap."""
Subwords = Literal["all", "first", "span_first"]


def factual_tokens(
    text: str, token_bytes: Integer[np.ndarray, " tokens"], words: Words, subwords: Subwords = "all"
) -> Bool[np.ndarray, " tokens"]:
    """Which tokens of ``text`` carry the bit, given the length of each token in bytes.

    ``subwords``: ``all`` tokens of a word, the ``first`` of each word, or ``span_first``, the first of each run of
    words that nothing but spaces separates.
    """
    if subwords == "span_first":
        words = runs(text, words)
    word_of_token = _word_of_token(text, token_bytes, words)
    factual: Bool[np.ndarray, " tokens"] = word_of_token >= 0
    if subwords != "all":
        inside = np.flatnonzero(factual)
        _, firsts = np.unique(word_of_token[inside], return_index=True)
        factual = np.zeros(len(token_bytes), dtype=bool)
        factual[inside[firsts]] = True
    return factual


def runs(text: str, words: Words) -> Words:
    """``words`` joined where only spaces lie between them; a line end parts them."""
    if len(words) == 0:
        return words
    gaps = [text[end:start] for end, start in zip(words[:-1, 1].tolist(), words[1:, 0].tolist(), strict=True)]
    parted = np.array([bool(gap.strip()) or "\n" in gap for gap in gaps], dtype=bool)
    starts, ends = np.append(True, parted), np.append(parted, True)
    return np.stack([words[starts, 0], words[ends, 1]], axis=1)


def _word_of_token(text: str, token_bytes: Integer[np.ndarray, " tokens"], words: Words) -> Int[np.ndarray, " tokens"]:
    """Number of the word that holds the token's first visible byte, -1 if there is no such word or byte."""
    raw = np.frombuffer(text.encode(), dtype=np.uint8)
    stops = np.cumsum(token_bytes, dtype=np.int64)
    if (total := int(stops[-1]) if len(stops) else 0) != len(raw):
        raise ValueError(f"the tokens spell {total} bytes and the text has {len(raw)}: they are not its tokens")
    byte_of_character = np.append(np.flatnonzero((raw & _CONTINUATION_MASK) != _CONTINUATION), len(raw))
    characters = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    visible_characters = np.flatnonzero(~np.isin(characters, _SPACES))
    # The first visible byte at or after a token's start: the start itself within a visible character, else the start
    # of the next one.
    starts = stops - token_bytes
    character = np.searchsorted(byte_of_character, starts, side="right") - 1
    following = np.searchsorted(visible_characters, character)
    beyond = following == len(visible_characters)
    visible = np.append(visible_characters, len(characters))[following]
    first_byte = np.maximum(byte_of_character[visible], starts)
    seen = ~beyond & (first_byte < stops)
    word = np.searchsorted(words[:, 0], visible, side="right") - 1
    inside = seen & (word >= 0)
    inside[inside] = visible[inside] < words[word[inside], 1]
    return np.where(inside, word, -1)
