"""Text cut into passages of about equally many words."""

import re
from collections.abc import Iterator

WORD = re.compile(r"\w+(?:[-'’]\w+)*")
CHUNK = re.compile(r"\S+")
"""What stands between white space: a word with its punctuation."""


def passages(
    text: str, most_words: int, *, overlap_words: int = 0, word: re.Pattern[str] = WORD, whole_sentences: bool = False
) -> Iterator[str]:
    """``text`` in pieces of at most ``most_words``; together they hold all of it from its first word on.

    Arguments:
        overlap_words: of a piece, repeated at the beginning of the next.
        word: what counts as one.
        whole_sentences: end a piece where a sentence ends, if one does in its second half; needs ``CHUNK`` as word.
    """
    words = [match.span() for match in word.finditer(text)]
    first = 0
    while first < len(words):
        last = first + most_words
        if last >= len(words):
            yield text[words[first][0] :]
            return
        if whole_sentences:
            ends = (at for at in range(last, first + most_words // 2, -1) if text[words[at - 1][1] - 1] in ".!?")
            last = next(ends, last)
        yield text[words[first][0] : words[last][0]]
        first = last - overlap_words
