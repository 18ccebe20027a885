"""Documents to token arrays, about twice as fast as the tokenizer library alone (``python -m benchmarks.prepare``).

Most of the library's time goes into splitting text by the Llama-3 expression and into bookkeeping per word, not into
merging. But no token crosses a single space between two visible characters: every alternative of the expression either
starts at such a space or stops before it. So text can be split there first, which Python does at 40 MB/s, and the ids
of each piece can be cached, because text repeats itself. Ids are equal to ``TextTokenizer.encode``
(tested on arbitrary Unicode). A tokenizer that came with weights is checked for this when it is taken in.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, filterfalse

import numpy as np
from jaxtyping import Integer

from components.data.shards import token_dtype
from components.data.tokenizer import SPACE, TextTokenizer

# About 200 bytes each: some 50 MB when full, whatever the size of the corpus.
REMEMBERED_PIECES = 1 << 18
# Longer pieces (scripts without spaces, tables, base64) hardly ever recur.
LONGEST_REMEMBERED = 48
# A longer text is encoded a section at a time: all of 50 MB without spaces would need 9 GB.
LONGEST_SECTION = 1 << 18
# How far back from its end a section looks for a place where no token is cut.
_SEARCHED = 1 << 12

_BOUNDARY = re.compile(r"(?<=\S)(?= \S)")
_IRREGULAR = re.compile(r" \s|\s ")

# Also between an ASCII letter and an ASCII character that is none: no alternative goes on from a letter to that.
SECTION_END = re.compile(r"(?<=[A-Za-z])(?=[\x00-@\[-`{-\x7f])|(?<=\S)(?= \S)")


def pieces(text: str) -> list[str]:
    """Cut ``text`` before every single space that stands between two characters which are not white space.

    The pieces, joined, are ``text``. A first piece may be empty.
    """
    if _IRREGULAR.search(text):
        return _BOUNDARY.split(text)
    first, *words = text.split(" ")  # the same, three times as fast, where every space stands alone
    return [first, *[" " + word for word in words]]


def sections(text: str, longest: int = LONGEST_SECTION) -> Iterator[str]:
    """Cut ``text`` into sections of at most ``longest`` characters which, joined, are ``text``.

    No token crosses a cut, unless there is no such place in the last 4096 characters of a section: a word, or writing
    without spaces, is cut where the section is full.
    """
    start = 0
    while len(text) - start > longest:
        full = start + longest
        ends = [place.end() for place in SECTION_END.finditer(text, max(start + 1, full - _SEARCHED), full + 2)]
        stop = max((end for end in ends if end <= full), default=full)
        yield text[start:stop]
        start = stop
    yield text[start:]


class Encoder:
    """Encodes batches of documents and caches the ids of pieces, up to a fixed number."""

    def __init__(self, tokenizer: TextTokenizer, remembered_pieces: int = REMEMBERED_PIECES) -> None:
        self._tokenizer = tokenizer
        self._dtype = token_dtype(tokenizer.vocab_size)
        self._remembered_pieces = remembered_pieces
        self._token_bytes = np.array([len(tokenizer.token_bytes(id)) for id in range(tokenizer.vocab_size)])
        self._ids_of: dict[str, bytes] = {"": b""}

    def encode(
        self, texts: Sequence[str], on_section: Callable[[int, int], None] = lambda done, total: None
    ) -> list[Integer[np.ndarray, " tokens"]]:
        """Ids of each text in the dtype of the shards.

        ``on_section`` is told, of a text that is encoded a section at a time, how many characters are done of how many.
        """
        if self._tokenizer.writes_spaces_as_signs:
            texts = [text.replace(SPACE, " ") for text in texts]  # what its ids say; sizes below count on it
        short = iter(self._encoded([text for text in texts if len(text) <= LONGEST_SECTION]))
        return [next(short) if len(text) <= LONGEST_SECTION else self._in_sections(text, on_section) for text in texts]

    def _in_sections(self, text: str, on_section: Callable[[int, int], None]) -> Integer[np.ndarray, " tokens"]:
        parts, done = [], 0
        for section in sections(text):
            parts += self._encoded([section])
            done += len(section)
            on_section(done, len(text))
        return np.concatenate(parts)

    def _encoded(self, texts: Sequence[str]) -> list[Integer[np.ndarray, " tokens"]]:
        documents = [pieces(text) for text in texts]
        unseen = self._unseen(documents)
        if len(self._ids_of) + len(unseen) > self._remembered_pieces:
            self._ids_of = {"": b""}
            unseen = self._unseen(documents)
        self._learn(unseen)
        ids_of = self._ids_of.__getitem__
        encoded = [np.frombuffer(b"".join(map(ids_of, document)), self._dtype) for document in documents]
        for piece in unseen:
            if len(piece) > LONGEST_REMEMBERED:
                del self._ids_of[piece]
        return encoded

    def _unseen(self, documents: list[list[str]]) -> list[str]:
        return list(set(filterfalse(self._ids_of.__contains__, chain.from_iterable(documents))))

    def _learn(self, unseen: list[str]) -> None:
        ids = np.array(self._tokenizer.encode_pieces(unseen), dtype=self._dtype)
        # Byte-level tokens spell their text exactly, so a piece ends with the token that completes its bytes.
        piece_ends = np.cumsum([len(piece.encode()) for piece in unseen])
        token_ends = np.cumsum(self._token_bytes[ids])
        stops = (np.searchsorted(token_ends, piece_ends) + 1) * self._dtype.itemsize
        raw = ids.tobytes()
        start = 0
        for piece, stop in zip(unseen, stops.tolist(), strict=True):
            self._ids_of[piece] = raw[start:stop]
            start = stop
