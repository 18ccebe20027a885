"""One sentence of the closed world, matched against the tree of all wordings with its values left open.

A walk through the tree ends in places where the text ends. A finished sentence is parsed if a wording ends at such a
place. For an unfinished sentence every place counts, also one inside a literal or a value. A strict walk requires that
a value begins like the values of its relation and is as long, and that a free word is a single word. Other walks accept
nearly anything.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Literal, NamedTuple

from components.data.world.facts import NUMBER_WORDS, Entity
from components.data.world.grammar import Node, grammar
from components.data.world.prose import Slot
from components.data.world.stock import free_words
from components.data.world.table import FactTable, class_of

WORD = re.compile(r"\w+(?:[-',]\w+)*")
_ARTICLE = re.compile(r"[Aa]n? ")
_YEAR = re.compile(
    r"(?:(?P<in>in )(?P<digits>\d{1,4})|at the age of \d+|in the same year|in the following year|the year before"
    rf"|(?:{'|'.join(NUMBER_WORDS)}) years (?:later|earlier))(?!\w)",
    re.IGNORECASE,
)
_LOOSE_YEAR = re.compile(r"(?P<in>in )(?P<digits>\d+)(?!\w)|\w+ years (?:later|earlier)(?!\w)", re.IGNORECASE)
_YEAR_WORDS = 5  # "at the age of 34"
_BEGUN = re.compile(r"\w+(?:[-', ]\w+)*[-', ]?")
PRONOUNS = {"s": ("he", "she", "it"), "o": ("him", "her", "it"), "s's": ("his", "her", "its")}
SUBJECT_PRONOUNS = {"S": ("He", "She", "It"), "S's": ("His", "Her", "Its", "his", "her", "its")}
_LOOSE_WORDS = 2  # a loosely read value may be this much longer than any that is known


class Match(NamedTuple):
    """A slot and the characters that fill it, articles and the "in" of a year left out."""

    slot: Slot
    start: int
    end: int


class Trail(NamedTuple):
    """Matches so far as a linked list: walks that go apart share their beginning."""

    match: Match
    before: "Trail | None"


class Place(NamedTuple):
    """Where a walk stands when the text is used up."""

    kind: Literal["between", "in literal", "in slot"]
    node: Node
    """What comes next; inside a literal or a slot, what comes behind it."""
    entity_kind: str
    subject: Entity | None
    trail: Trail | None
    oddity: float
    """Number of deviations from the corpus: unknown values, and free words that are in no stock."""
    slot: Slot | None = None
    """Inside a slot: which."""
    start: int = 0
    """Inside a slot: where it begins."""
    rest: str = ""
    """Inside a literal: what is missing of it."""

    @property
    def matches(self) -> list[Match]:
        """Slots that are complete, in text order."""
        found = []
        trail = self.trail
        while trail is not None:
            found.append(trail.match)
            trail = trail.before
        return found[::-1]


class _Filled(NamedTuple):
    start: int
    end: int
    after: int
    """Where the text goes on: behind the "'s" of a name."""
    oddity: float = 0.0
    subject: Entity | None = None


Known = frozenset[str] | dict[str, list[Entity]]


@cache
def _stock(name: str) -> tuple[frozenset[str], int]:
    words = frozenset(free_words(name))
    return words, max(1 + each.count(" ") for each in words)


class Walk:
    """All walks over ``text`` from ``start`` to its end, for a text about ``subject`` (``None``: not yet known)."""

    def __init__(
        self, table: FactTable, text: str, start: int, kind: str, subject: Entity | None, strict: bool
    ) -> None:
        self._table = table
        self._text = text
        self._start = start
        self._kind = kind
        self._subject = subject
        self._strict = strict

    def finished(self) -> Iterator[Place]:
        """Places where the sentence is exactly a wording."""
        for place in self._from(grammar(self._kind), self._start, None, 0.0, self._subject, partial=False):
            if place.node.ends:
                yield place

    def unfinished(self) -> Iterator[Place]:
        """All places; inside a literal or slot too."""
        yield from self._from(grammar(self._kind), self._start, None, 0.0, self._subject, partial=True)

    def _from(
        self, node: Node, at: int, trail: Trail | None, oddity: float, subject: Entity | None, partial: bool
    ) -> Iterator[Place]:
        text, end = self._text, len(self._text)
        here = Place("between", node, self._kind, subject, trail, oddity)
        if at == end:
            yield here
            if not partial:
                return
            literals = [each for group in node.literals.values() for each in group]
        else:
            literals = node.literals.get(text[at], [])
        for literal, child in literals:
            if at < end and text.startswith(literal, at):
                yield from self._from(child, at + len(literal), trail, oddity, subject, partial)
            elif partial and literal.startswith(text[at:]):
                yield here._replace(kind="in literal", node=child, rest=literal[end - at :])
        for slot, child in node.slots:
            if partial and self._may_be_in(slot, at):
                yield here._replace(kind="in slot", node=child, slot=slot, start=at)
            if at < end:
                for start, stop, after, odd, known in self._filled(slot, at, subject, partial):
                    further = Trail(Match(slot, start, stop), trail)
                    yield from self._from(child, after, further, oddity + odd, known or subject, partial)

    def _may_be_in(self, slot: Slot, at: int) -> bool:
        """Whether the end of the text may lie inside ``slot``, begun at ``at``; by its first letter and its length."""
        begun = self._text[at:]
        if slot.article:
            begun = _ARTICLE.sub("", begun, count=1)
        if not begun:
            return True
        if not _BEGUN.fullmatch(begun):
            return False
        opening, words = class_of(begun[0]), 1 + begun.count(" ")
        if slot.kind == "subject":
            return opening == "upper"
        if slot.kind == "fact":
            profile = self._table.profile(self._kind, tuple(slot.what.split(".")))
            return opening in profile.openings and words <= profile.words
        most = _stock(slot.what)[1] if slot.kind == "free" else _YEAR_WORDS if slot.kind == "year" else 1
        return (opening == "lower" or at == self._start) and words <= most

    def _filled(self, slot: Slot, at: int, subject: Entity | None, partial: bool) -> Iterator[_Filled]:
        """Ways in which ``slot`` may be filled from ``at`` on."""
        if slot.kind == "subject":
            yield from self._names(slot, at, subject, partial)
        elif slot.kind == "pronoun":
            for word in PRONOUNS[slot.what]:
                stop = at + len(word)
                if self._begins(word, at) and not self._text[stop : stop + 1].isalpha():
                    yield _Filled(at, stop, stop)
        elif slot.kind == "year":
            match = (_YEAR if self._strict else _LOOSE_YEAR).match(self._text, at)
            if match:
                yield _Filled(match.start("digits") if match["in"] else at, match.end(), match.end())
        else:
            if slot.article:
                article = _ARTICLE.match(self._text, at)
                if not article:
                    return
                at = article.end()
            yield from self._words(slot, at, partial)

    def _words(self, slot: Slot, at: int, partial: bool) -> Iterator[_Filled]:
        """A value, or free words: as many words as such have."""
        text = self._text
        opening = text[at : at + 1]
        if slot.kind == "free":
            stock, most = _stock(slot.what)
            known: Known = stock
            fits = opening.islower() or at == self._start
        else:
            profile = self._table.profile(self._kind, tuple(slot.what.split(".")))
            known, most = profile.holders, profile.words
            fits = bool(opening) and (class_of(opening) in profile.openings or at == self._start)
        if self._strict and not fits:
            return
        if not self._strict:
            most += _LOOSE_WORDS
        for stop in _word_ends(text, at, most):
            words = text[at:stop]
            is_known = words in known or (at == self._start and words[0].lower() + words[1:] in known)
            if stop == len(text) and partial and not is_known and self._half(slot, words, known):
                continue
            yield _Filled(at, stop, stop, 0.0 if is_known else 1.0)

    def _half(self, slot: Slot, words: str, known: Known) -> bool:
        """Whether ``words``, the last of the text, may be the beginning of something longer."""
        return slot.kind == "fact" or any(each.startswith(words) for each in known)

    def _names(self, slot: Slot, at: int, subject: Entity | None, partial: bool) -> Iterator[_Filled]:
        text = self._text
        if subject is not None:
            for word in SUBJECT_PRONOUNS[slot.what]:
                stop = at + len(word)
                if word[0].isupper() != (at == self._start) or not text.startswith(word, at):
                    continue
                if not text[stop : stop + 1].isalpha():
                    of_a_thing = word.lower() in ("it", "its")
                    yield _Filled(at, stop, stop, 0.0 if of_a_thing == (self._kind != "person") else 1.0)
        if not text[at : at + 1].isupper():
            return
        tail = "'s" if slot.what == "S's" else ""
        for stop in _word_ends(text, at, self._table.profile(self._kind, ("name",)).words):
            end = stop - 2 if text.startswith("'s", stop - 2) else stop
            if text[end:stop] != tail:
                continue
            name = text[at:end]
            if subject is None:
                named = self._table.by_name.get(name)
                if named is not None and named.kind == self._kind:
                    yield _Filled(at, end, stop, subject=named)
            elif name in (subject.name, subject.short_name):
                yield _Filled(at, end, stop)
            elif stop < len(text) or not partial:
                yield _Filled(at, end, stop, 2.0)

    def _begins(self, word: str, at: int) -> bool:
        text = self._text
        return text.startswith(word, at) or (at == self._start and text.startswith(word.capitalize(), at))


def _word_ends(text: str, at: int, most: int) -> Iterator[int]:
    """Ends of the first one, two, ... ``most`` words at ``at``, single spaces between them."""
    for _ in range(most):
        match = WORD.match(text, at)
        if not match:
            return
        yield match.end()
        if not text.startswith(" ", match.end()):
            return
        at = match.end() + 1
