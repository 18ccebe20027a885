"""A helper that looks the continuation up in a library: BM25 over passages, then the best matching place.

The passages that share rare words with the beginning of the text (its subject) and with its last words are found
by BM25. In them, the place is sought whose words before it agree longest with the last words of the text; what follows
there is the answer. It knows nothing to say where fewer than two words agree, or where no passage has the name that the
text begins with: sentences about others are found just as well, and would be wrong. Where the text opens a slot in
words of its own ("was born in the year"), the value is read out of the article about its subject.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from components.cascade.helpers.base import Call, HelperError, Reply, StatelessHelper
from components.cascade.reply_unit import first_tokens, first_unit
from components.data.tokenizer import TextTokenizer
from components.retrieval.index import Passage, PassageIndex
from components.retrieval.passages import WORD
from components.retrieval.reader import Slot, slot_of, value_for
from components.retrieval.subject import passages_about

NAME = "retrieval"
_OPENING_WORDS = 25  # of the text, among which its subject is named
_RETRIEVED = 16
_LEAST_WORDS = 2
_LEAST_WITHOUT_NAME = 4
_VERBATIM_WORDS = 4  # agreement that counts more than the value that an article gives for the slot
_MOST_WORDS = 16  # compared before a place
_COMMON = 0.25  # a word in more than this share of the passages is no name, capital or not
_ANSWER_CHARACTERS = 400
_WITHIN_NAMES = frozenset({"of", "the", "de", "del", "della", "di", "da", "du", "la", "le", "van", "von", "der", "den"})


class _Word(NamedTuple):
    text: str
    """In lower case."""
    start: int
    end: int


class RetrievalHelper(StatelessHelper):
    """Answers from a passage index, whose memory maps go with the object. Thread-safe: it only reads."""

    def __init__(self, folder: Path, tokenizer: TextTokenizer | None = None) -> None:
        """Open the index in ``folder``; raises ``ArtifactError`` if it is missing, unfinished or damaged.

        ``tokenizer``: what a token is, for the unit ``token``; without one, a word.
        """
        self._tokenizer = tokenizer
        self._index = PassageIndex(folder)

    @property
    def name(self) -> str:
        return NAME

    def answer(self, calls: Sequence[Call]) -> list[Reply | HelperError]:
        """What follows the best matching place of the corpus, one unit of it."""
        return [self._answer(call) for call in calls]

    def _answer(self, call: Call) -> Reply:
        began = time.perf_counter()
        following = self._following(call)
        text = self._cut(following, call) if following else ""
        return Reply(text, 0, time.perf_counter() - began)

    def _cut(self, following: str, call: Call) -> str:
        if call.unit != "token" or self._tokenizer is None:
            return first_unit(following, "word" if call.unit == "token" else call.unit)[0]
        return first_tokens(following, 1, self._tokenizer)

    def _following(self, call: Call) -> str:
        """What stands in the corpus behind the place that agrees best with the end of the text; empty if none does."""
        text = call.text
        words = _words(text[-_MOST_WORDS * 40 :])[-_MOST_WORDS:]
        if not words:
            return ""
        ending = text[-_MOST_WORDS * 40 :]
        names = self._names(text)
        least = _LEAST_WORDS if names else _LEAST_WITHOUT_NAME
        slot = slot_of(text) if names else None
        best, following = (_VERBATIM_WORDS if slot else least) - 1, ""
        query = [*(name for run in names for name in run), *(word.text for word in words)]
        for passage in self._passages(query, call):
            present = {word.text for word in _words(f"{passage.title} {passage.text}")}
            if names and not any(present.issuperset(run) for run in names):
                continue
            for agreeing, start in _places(passage.text, words, ending):
                if agreeing > best:  # the first found of equals: the passage that BM25 ranks higher
                    best, following = agreeing, passage.text[start : start + _ANSWER_CHARACTERS]
        return following if following or not slot else self._value(slot, names[0], call)

    def _value(self, slot: Slot, name: tuple[str, ...], call: Call) -> str:
        """The value that an article about ``name`` gives for ``slot``, with the space before it."""
        about = passages_about(name, slot.words, lambda query: self._passages(query, call))
        value = value_for(slot, about)
        return value if not value or call.text[-1:].isspace() else f" {value}"

    def _passages(self, query: Iterable[str], call: Call) -> list[Passage]:
        found = self._index.best(query, _RETRIEVED)
        return [each for each in found if each.text not in call.hidden] if call.hidden else found

    def _names(self, text: str) -> list[tuple[str, ...]]:
        """The first two names in ``text``, in lower case: runs of words with a capital that are not common.

        Initials and particles within a name ("James K. Polk", "Justus von Liebig") neither count nor end it. The
        numeral of a king does count.
        """
        runs: list[tuple[str, ...]] = []
        run: list[str] = []
        for match in islice(WORD.finditer(text), _OPENING_WORDS):
            word = match[0].removesuffix("'s").removesuffix("’s")
            initial = len(word) == 1 and word.isupper() and text.startswith(".", match.end())
            if run and (word in _WITHIN_NAMES or initial):
                continue
            capital = any(piece[:1].isupper() for piece in word.split("-"))  # also in "al-Nami"
            if capital and self._index.share(word.lower()) <= _COMMON:
                run.append(word.lower())
                continue
            if run:
                runs.append(tuple(run))
            run = []
        return ([*runs, tuple(run)] if run else runs)[:2]


def _words(text: str) -> list[_Word]:
    return [_Word(match[0].lower(), *match.span()) for match in WORD.finditer(text)]


def _places(passage: str, words: list[_Word], text: str) -> Iterator[tuple[int, int]]:
    """Places in ``passage`` that continue ``text``, which ends with ``words``: words that agree before it, and where.

    The last word may be complete or only begun: "Brack" is continued by "water".
    """
    there = _words(passage)
    gap = text[words[-1].end :]
    before = [word.text for word in words]
    begun = text[words[-1].start :] if not gap else ""
    for place, word in enumerate(there):
        if word.text == before[-1] and passage.startswith(gap, word.end) and word.end + len(gap) < len(passage):
            yield 1 + _agreeing(there, place, before), word.end + len(gap)
        elif begun and passage.startswith(begun, word.start) and word.end - word.start > len(begun):
            yield _agreeing(there, place, before), word.start + len(begun)


def _agreeing(there: list[_Word], place: int, before: list[str]) -> int:
    """Words in front of ``place`` that equal those in front of the last of ``before``."""
    count = 0
    while count < min(place, len(before) - 1) and there[place - 1 - count].text == before[-2 - count]:
        count += 1
    return count
