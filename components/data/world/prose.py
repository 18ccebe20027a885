"""Sentence patterns, and the page they are written on.

A pattern (``person.txt`` and its neighbours) is a sentence with slots:

    {S} {S's}                  the subject, by name or pronoun, whichever fits; and "of the subject"
    {s} {o} {s's}              she, her, her: a pronoun in any case
    {birth_place}              a fact about the subject, as written in the fact table
    {birth_place.river}        a fact about an entity that is itself a value
    {a occupation}             the same after "a" or "an"
    {when award_year}          a year: "in 1874", or relative to the last year written, "three years later"
    <adjective> <a adjective>  a free word from the stock of that name
    [this|that|]               one of several wordings
    unless death_year: ...     only for subjects without that fact

The page records which characters are factual and which fact they state. A relative date states its year together with
the last year written before it on the page.
"""

import re
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from random import Random
from typing import Literal, NamedTuple

from components.data.world.facts import NUMBER_WORDS, Entity, written
from components.data.world.stock import FreeWords, sections

# In full: a data file counts as part of the code that spells its name.
_PATTERNS = {"person": "person.txt", "place": "place.txt", "work": "work.txt", "event": "event.txt"}
_PRONOUNS = {"she": ("she", "her", "her"), "he": ("he", "him", "his"), "it": ("it", "it", "its")}
_PRONOUN_SLOTS = {"s": 0, "o": 1, "s's": 2}
_TOKEN = re.compile(r"(\{[^}]+\}|<[^>]+>)")
# The year in which a subject begins is always written in full: the others lean on it.
_ABSOLUTE = ("birth_year", "founded_year")

SlotKind = Literal["text", "subject", "pronoun", "fact", "year", "free"]


class Slot(NamedTuple):
    """A piece of a sentence. ``what``: literal text, pronoun case, relation path or word stock."""

    kind: SlotKind
    what: str
    article: bool = False


@dataclass(frozen=True, slots=True)
class Sentence:
    """One wording of a pattern: its slots, the relations of the subject it states, the paths it needs."""

    slots: tuple[Slot, ...]
    states: frozenset[str]
    needs: tuple[tuple[str, ...], ...]
    unless: str = ""

    def fits(self, subject: Entity) -> bool:
        """Whether ``subject`` has every fact the sentence states."""
        return self.unless not in subject.values and all(find(subject, path) is not None for path in self.needs)


@dataclass(frozen=True, slots=True)
class Pattern:
    """A line of a pattern file with all its wordings; ``prompt`` marks those that questions are asked with."""

    wordings: tuple[Sentence, ...]
    prompt: bool


class Patterns(NamedTuple):
    """All patterns of one kind of entity."""

    lead: tuple[Pattern, ...]
    free: tuple[Pattern, ...]
    by_relation: dict[str, tuple[Pattern, ...]]
    """Patterns that state the relation, its own section's and others', in the order a life is told."""
    questions: dict[str, Sentence]


@cache
def patterns(kind: str) -> Patterns:
    """Patterns for "person", "place", "work" or "event"."""
    questions: dict[str, Sentence] = {}
    found: dict[str, tuple[Pattern, ...]] = {}
    for section, lines in sections(_PATTERNS[kind]).items():
        kept = []
        for line in lines:
            if line.startswith("? "):
                questions[section] = _sentence(line[2:])
            else:
                kept.append(Pattern(_wordings(line.removeprefix("> ")), line.startswith("> ")))
        found[section] = tuple(kept)
    lead, free = found.pop("lead"), found.pop("free")
    every = [pattern for section in found.values() for pattern in section]
    by_relation = {
        relation: tuple(pattern for pattern in every if relation in pattern.wordings[0].states) for relation in found
    }
    return Patterns(lead, free, by_relation, questions)


def find(subject: Entity, path: tuple[str, ...]) -> str | int | Entity | None:
    """The value at the end of ``path`` from ``subject``, if there is one."""
    value: str | int | Entity | None = subject
    for relation in path:
        if not isinstance(value, Entity):
            return None
        value = value.values.get(relation)
    return value


def _wordings(line: str) -> tuple[Sentence, ...]:
    unless = ""
    if line.startswith("unless "):
        head, line = line.split(": ", 1)
        unless = head.removeprefix("unless ")
    pieces = re.split(r"\[([^\]]*)\]", line)  # odd places are the choices
    options = [piece.split("|") if index % 2 else [piece] for index, piece in enumerate(pieces)]
    return tuple(_sentence("".join(chosen), unless) for chosen in product(*options))


def _sentence(text: str, unless: str = "") -> Sentence:
    text = re.sub(r" +([,.]|$)", r"\1", re.sub(r"  +", " ", text))  # an empty choice leaves its space behind
    slots = tuple(_slot(piece) for piece in _TOKEN.split(text) if piece)
    paths = [tuple(slot.what.split(".")) for slot in slots if slot.kind in ("fact", "year")]
    return Sentence(slots, frozenset(path[0] for path in paths if len(path) == 1), tuple(paths), unless)


def _slot(piece: str) -> Slot:
    if piece[0] not in "{<":
        return Slot("text", piece)
    name, article = piece[1:-1], False
    if name.startswith("a "):
        name, article = name[2:], True
    if piece[0] == "<":
        return Slot("free", name, article)
    if name in ("S", "S's"):
        return Slot("subject", name)
    if name in _PRONOUN_SLOTS:
        return Slot("pronoun", name)
    if name.startswith("when "):
        return Slot("year", name[5:])
    return Slot("fact", name, article)


class Span(NamedTuple):
    """Characters ``start`` to ``end`` (excluded) of the page state the fact of that id."""

    start: int
    end: int
    fact: str


@dataclass(slots=True)
class Page:
    """A document about ``subject`` as it is written, sentence by sentence."""

    subject: Entity
    rng: Random
    words: FreeWords
    told: set[str] = field(default_factory=set)
    """Relations of the subject stated so far."""
    spans: list[Span] = field(default_factory=list)
    _parts: list[str] = field(default_factory=list)
    _length: int = 0
    _year: int | None = None

    @property
    def text(self) -> str:
        return "".join(self._parts)

    def literal(self, text: str) -> None:
        """Add text that states nothing."""
        self._parts.append(text)
        self._length += len(text)

    def write(self, sentence: Sentence) -> None:
        """Add ``sentence``, which must fit the subject."""
        first = len(self._parts)
        for position, slot in enumerate(sentence.slots):
            if slot.kind == "text":
                self.literal(slot.what)
            elif slot.kind == "free":
                self._with_article(self.words.pick(self.rng, slot.what), slot.article)
            elif slot.kind == "fact":
                self._fact(tuple(slot.what.split(".")), slot.article)
            elif slot.kind == "pronoun":
                self.literal(_PRONOUNS[self.subject.pronoun][_PRONOUN_SLOTS[slot.what]])
            elif slot.kind == "year":
                self._when(tuple(slot.what.split(".")))
            else:
                self._subject(slot.what, starts=position == 0)
        opening = self._parts[first]
        self._parts[first] = opening[0].upper() + opening[1:]
        self.told |= sentence.states

    def _stated(self, text: str, fact: str) -> None:
        self.spans.append(Span(self._length, self._length + len(text), fact))
        self.literal(text)

    def _with_article(self, text: str, article: bool, fact: str = "") -> None:
        if article:
            self.literal("an " if text[0] in "aeiou" else "a ")
        if fact:
            self._stated(text, fact)
        else:
            self.literal(text)

    def _subject(self, form: str, starts: bool) -> None:
        subject = self.subject
        chance = self.rng.random()
        named = "name" in self.told
        if named and chance < 0.5 and (starts or form == "S's"):
            self.literal(_PRONOUNS[subject.pronoun][0 if form == "S" else 2])
            return
        if named and subject.short_name and chance < 0.8:
            self._stated(subject.short_name, f"{subject.id}.surname")
            self.told.add("surname")
        else:
            self._stated(subject.name, f"{subject.id}.name")
            self.told.add("name")
        if form == "S's":
            self.literal("'s")

    def _holder(self, path: tuple[str, ...]) -> tuple[Entity, str, str | int | Entity]:
        """The entity that has the last relation of ``path``, the id of the fact, and the value."""
        holder, value = find(self.subject, path[:-1]), find(self.subject, path)
        assert isinstance(holder, Entity), (self.subject.id, path)
        assert value is not None, (self.subject.id, path)
        return holder, f"{holder.id}.{path[-1]}", value

    def _fact(self, path: tuple[str, ...], article: bool) -> None:
        _, fact, value = self._holder(path)
        self._with_article(written(value), article, fact)
        if isinstance(value, int):
            self._year = value

    def _when(self, path: tuple[str, ...]) -> None:
        holder, fact, year = self._holder(path)
        assert isinstance(year, int), (fact, year)
        before, self._year = self._year, year
        chance = self.rng.random()
        if before is not None and path[-1] not in _ABSOLUTE and chance < 0.6:
            if chance < 0.15 and holder is self.subject and "birth_year" in self.told:
                self._stated(f"at the age of {year - holder.year('birth_year')}", fact)
                return
            if phrase := relative(year - before):
                self._stated(phrase, fact)
                return
        self.literal("in ")
        self._stated(str(year), fact)


def relative(years: int) -> str:
    """``years`` after or before a year just named, in words; empty if more than twenty away."""
    if years == 0:
        return "in the same year"
    if years == 1:
        return "in the following year"
    if 1 < abs(years) <= 20:
        return f"{NUMBER_WORDS[abs(years)]} years {'later' if years > 0 else 'earlier'}"
    return "the year before" if years == -1 else ""


def year_stated(phrase: str, last_year: int | None, birth_year: int | None) -> int:
    """The year that ``phrase`` on a page states, after ``last_year`` and for someone born in ``birth_year``.

    The inverse of the above, for readers of the corpus: "1874", "three years later", "at the age of 34".
    """
    if phrase.isdigit():
        return int(phrase)
    if phrase.lower().startswith("at the age of "):
        assert birth_year is not None, phrase
        return birth_year + int(phrase.split()[-1])
    assert last_year is not None, phrase
    return last_year + next(years for years in range(-20, 21) if relative(years) == phrase[0].lower() + phrase[1:])
