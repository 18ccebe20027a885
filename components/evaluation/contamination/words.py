"""Texts as arrays of hashed words, in which runs of words are numbers that can be looked up by the million.

A word is a run of letters and digits in lower case, so punctuation separates words and counts for nothing ("it's" is
two words). Brown et al. (2020, arXiv 2005.14165, appendix C) compare texts so too, but cut words at white space.
"""

import re
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt64

Hashes = UInt64[np.ndarray, " words"]

_WORD = re.compile(r"[^\W_]+")
_BASE = np.uint64(0x9E3779B97F4A7C15)
_REMEMBERED = 1 << 20  # words; more than English has, so that memory stays bounded for any text
_MOST_WORDS = 1 << 18  # of one block, unless a document alone has more


def words(text: str) -> list[str]:
    """The words of ``text``."""
    return _WORD.findall(text.lower())


class WordHashes(dict[str, int]):
    """A 64-bit hash of each word, remembered. Two different words have the same with a probability of 5e-20."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _REMEMBERED:
            self.clear()
        digest = blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        self[word] = value = int.from_bytes(digest, "little")
        return value

    def of(self, text: str) -> Hashes:
        """The hashes of the words of ``text``, in order."""
        found = words(text)
        return np.fromiter((self[word] for word in found), np.uint64, len(found))


def runs(hashes: Hashes, length: int) -> Hashes:
    """A hash of every run of ``length`` words, by the word where it begins; a polynomial in the words' hashes."""
    count = max(0, len(hashes) - length + 1)
    found = np.zeros(count, dtype=np.uint64)
    for offset in range(length):
        found *= _BASE
        found += hashes[offset : offset + count]
    return found


class HashedText(NamedTuple):
    """A text and its words, line by line: a word never reaches over the end of a line."""

    text: str
    lines: list[Hashes]

    @property
    def words(self) -> Hashes:
        return np.concatenate([*self.lines, np.zeros(0, dtype=np.uint64)])

    @classmethod
    def of(cls, text: str, hashes: WordHashes) -> "HashedText":
        """Hash the words of ``text``."""
        return cls(text, [hashes.of(line) for line in text.splitlines()])


def blocks(texts: Iterable[str], hashes: WordHashes) -> Iterator[list[HashedText]]:
    """Neighbouring texts together, so that numpy works on long arrays and memory stays bounded."""
    block: list[HashedText] = []
    size = 0
    for text in texts:
        block.append(HashedText.of(text, hashes))
        size += sum(map(len, block[-1].lines))
        if size >= _MOST_WORDS:
            yield block
            block, size = [], 0
    if block:
        yield block
