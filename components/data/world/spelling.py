"""Misspelt words of a text, put right: the words of the closed world's sentences and of its facts are all known.

A reader of the world's text understands only exact wordings, and a person who writes a prompt makes mistakes. A word
that the world does not have becomes the one that a single slip away is commonest in its sentences: a letter left out,
added, changed, or changed places with its neighbour (Damerau 1964, Communications of the ACM 7:3).
"""

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice, product
from string import ascii_lowercase

from components.data.world.facts import NUMBER_WORDS, written
from components.data.world.prose import Sentence, Slot, patterns
from components.data.world.stock import free_words
from components.data.world.table import KINDS, FactTable

_WORD = re.compile(r"[^\W\d_]{3,}")  # in shorter words, one slip leads to too many others
_READINGS = 16
_SHAPES = ("he", "she", "it", "him", "her", "his", "its", "years", "later", "earlier", "before", "following", "same")


class Spelling:
    """The spelling of one world. Immutable."""

    def __init__(self, table: FactTable) -> None:
        self._counts = _vocabulary(table)
        self._sorted = sorted(self._counts)
        self._longest = max(map(len, self._sorted))

    def readings(self, text: str) -> Iterator[str]:
        """What ``text`` may stand for with its misspelt words put right, likeliest first; nothing if all are known.

        The word that the text breaks off in may be unfinished, and is then no mistake.
        """
        misspelt = [
            (found.span(), known)
            for found in _WORD.finditer(text)
            if (known := self._meant(found[0], found.end() == len(text)))
        ]
        if misspelt:
            for chosen in islice(product(*(known for _, known in misspelt)), _READINGS):
                yield _replaced(text, [span for span, _ in misspelt], chosen)

    def _meant(self, word: str, last: bool) -> list[str]:
        """The known words one slip away from an unknown one."""
        if word in self._counts or len(word) > self._longest + 1 or (last and self._begins(word)):
            return []
        known = {each for each in _one_slip_away(word) if each in self._counts}
        return sorted(known, key=lambda each: (-self._counts[each], each))

    def _begins(self, letters: str) -> bool:
        at = bisect_left(self._sorted, letters)
        return at < len(self._sorted) and self._sorted[at].startswith(letters)


def _vocabulary(table: FactTable) -> Counter[str]:
    """Every word, and in how many wordings it stands; words of facts and free words in one."""
    counts: Counter[str] = Counter(_SHAPES)
    counts.update(NUMBER_WORDS)
    counts.update(_words_of_sentences())
    for entity in table.entities.values():
        counts.update({word for value in entity.values.values() for word in _WORD.findall(written(value))})
    for word in list(counts):
        counts[word[0].upper() + word[1:]] += 1
    return counts


@cache
def _words_of_sentences() -> Counter[str]:
    slots = Counter(slot for kind in KINDS for sentence in _sentences(kind) for slot in sentence.slots)
    counts: Counter[str] = Counter()
    for slot, count in slots.items():
        for word in _words(slot):
            counts[word] += count
    return counts


def _sentences(kind: str) -> Iterator[Sentence]:
    found = patterns(kind)
    yield from found.questions.values()
    for pattern in (*found.lead, *found.free, *(each for group in found.by_relation.values() for each in group)):
        yield from pattern.wordings


def _words(slot: Slot) -> list[str]:
    """The words that a slot brings; those of facts are in the table."""
    if slot.kind == "text":
        return _WORD.findall(slot.what)
    return [word for phrase in free_words(slot.what) for word in _WORD.findall(phrase)] if slot.kind == "free" else []


def _replaced(text: str, spans: Sequence[tuple[int, int]], chosen: Sequence[str]) -> str:
    for (start, end), word in zip(reversed(spans), reversed(chosen), strict=True):
        text = text[:start] + word + text[end:]
    return text


def _one_slip_away(word: str) -> Iterator[str]:
    for at in range(len(word) + 1):
        before, after = word[:at], word[at:]
        yield from (before + letter + after for letter in ascii_lowercase)
        if after:
            yield before + after[1:]
            yield from (before + letter + after[1:] for letter in ascii_lowercase)
        if len(after) > 1:
            yield before + after[1] + after[0] + after[2:]
