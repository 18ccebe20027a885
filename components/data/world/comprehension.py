"""Parses text of the closed world: what it claims, and what a true continuation states next.

The inverse of ``prose.py``. A text is parsed sentence by sentence. Each sentence is matched against the tree of all
wordings (``parsing.py``) with values and free words left open, so that wrong values are parsed as well as right ones.

    world = World.load(folder / "facts.jsonl")
    world.claims(text)       every fact the text states: its characters, the value stated, whether that is true
    world.next_value(text)   what belongs at the end of an unfinished text, if that place is a fact or inside one

A text is about the entity that its first parsed sentence names. Facts of others that a wording reaches through the
subject ("came from Brackwater, a town in {birth_place.region}") are judged by the subject's true birth place, whatever
the text has just said it is: one wrong value is one wrong claim.
"""

import re
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from components.data.world.facts import Entity, written
from components.data.world.grammar import LEAD, Wording
from components.data.world.habits import Habits, order
from components.data.world.parsing import SUBJECT_PRONOUNS, WORD, Match, Place, Walk
from components.data.world.prose import Slot, find, relative, year_stated
from components.data.world.table import KINDS, FactTable, is_year

_SENTENCE = re.compile(r"\S(?:[^.\n]|\.(?!\s|\Z))*(?:\.(?=\s|\Z))?")
_FOUR_DIGITS = re.compile(r"\b\d{4}\b")
_OPENING = re.compile(r'[ "]*')  # what may stand between the end of the text and a fact
_BEFORE_A_NAME = re.compile(r'(?:The )?"?')
_ARTICLE = re.compile(r"(an?)(?: |\Z)", re.IGNORECASE)

_ODD = 0.05  # how much each unknown value or free word on the way makes a reading less likely
_REMEMBERED = 512  # sentences, so that a text that grows is not read again from its beginning
_GUESSES = 8  # who an unnamed subject may be
_GUESS_LETTERS = 5  # with fewer letters of a name and no other information, it could be anyone


class Claim(NamedTuple):
    """Characters ``start`` to ``end`` (excluded) state a fact."""

    start: int
    end: int
    fact_id: str
    """As in the fact table; of a fact that does not exist (the spouse of a single person) what its id would be."""
    stated: str
    """The value in the words of the fact table: a relative date is the year it comes to. A date relative to nothing
    keeps its words, and is not true."""
    true: bool


class Reading(NamedTuple):
    """The claims of a text."""

    subject: Entity | None
    claims: list[Claim]
    sentences: int
    """Finished sentences. Of an unfinished last one only the claims count."""
    understood: int
    """Sentences that are exactly some wording of the corpus, values and free words apart."""
    unclear: list[tuple[int, int]]
    """Characters of the others."""


class Continuation(NamedTuple):
    """What may follow, and the fact it states."""

    text: str
    """The remaining characters; in front the space or quotation mark that is missing, and a year's "in"."""
    fact_id: str
    share: float
    """How much it makes up of all that the writer of the corpus would put at this place, facts or not."""


class NextValue(NamedTuple):
    """The end of the text is a fact or inside one."""

    text: str
    """The likeliest continuation."""
    fact_id: str
    options: list[Continuation]
    """All true continuations, likeliest first."""


@dataclass(frozen=True, slots=True)
class _State:
    """What a reader knows at the beginning of a sentence."""

    subject: Entity | None = None
    told: frozenset[str] = frozenset()
    year: int | None = None
    first: bool = True
    progress: int = 0
    """How far in the order of a life the text has come."""

    @property
    def habits(self) -> Habits:
        return Habits(self.told, self.first, self.progress)


class _Understood(NamedTuple):
    wording: Wording
    matches: list[Match]
    subject: Entity


class World:
    """A closed world that can judge text and continue it. Thread-safe."""

    def __init__(self, table: FactTable) -> None:
        self.table = table
        self._states: OrderedDict[bytes, _State] = OrderedDict()
        self._lock = Lock()

    @classmethod
    def load(cls, facts: Path) -> "World":
        """Read the world's ``facts.jsonl``; raises ``ArtifactError`` if it is missing or is no fact table."""
        return cls(FactTable.load(facts))

    def claims(self, text: str, subject: str = "") -> Reading:
        """Everything ``text`` states about its subject, in text order.

        The subject's own name and pronouns are no claims; a name that is not the subject's is a false one, of the fact
        ``name``. An unfinished last sentence counts as far as it goes.

        Arguments:
            text: one document, from its beginning.
            subject: name of the subject; empty: the one that its first understood sentence names.
        """
        state = _State(self.table.by_name.get(subject))
        claims: list[Claim] = []
        unclear: list[tuple[int, int]] = []
        sentences = 0
        for start, end in _sentences(text):
            if not _is_finished(text, end):
                place = self._likeliest(text[:end], start, state)
                if place is not None and place.subject is not None:
                    stated = [match for match in place.matches if match.end < end]
                    claims += self._judged(text, stated, place.subject, state.year)
                continue
            sentences += 1
            understood = self._understood(text[:end], start, state)
            if understood is None:
                unclear.append((start, end))
            else:
                claims += self._judged(text, understood.matches, understood.subject, state.year)
            state = self._after(text, start, end, state, understood)
        return Reading(state.subject, claims, sentences, sentences - len(unclear), unclear)

    def next_value(self, text: str) -> NextValue | None:
        """What a true text states at the end of ``text``, if that place is at a fact or inside one; else ``None``.

        It is also at a fact if only the space or the quotation mark before it is missing, or the "in" of a year: after
        "died" comes " in 1801". A value that has been begun wrongly has no true continuation. While the subject has not
        been named, its name is a fact that everything said so far must fit.

        Where several wordings fit, each is weighed by what the writer of the corpus does: how often it takes that
        wording for a relation, that relations are told in the order of a life and seldom twice, that a document begins
        with a lead. Continuations are ranked by the wordings they belong to, those with free words or values that the
        corpus does not have counting little. A year is given as a number first: a number is true whatever year was
        named before.
        """
        spans = _sentences(text)
        start = spans[-1][0] if spans and not _is_finished(text, spans[-1][1]) else len(text)
        state = self._state_after(text, [span for span in spans if span[0] < start])
        gap = " " if start == len(text) and text and not text[-1].isspace() else ""
        weights: dict[tuple[str, str], float] = {}
        everything = 0.0
        habits = state.habits
        for place, weight in self._places(text, start, state, habits):
            everything += weight
            for words, fact, share in self._true(text, start, place, state, habits):
                key = (gap + words, fact)
                weights[key] = weights.get(key, 0.0) + weight * share
        ranked = sorted(weights.items(), key=lambda item: -item[1])
        options = [Continuation(words, fact, weight / everything) for (words, fact), weight in ranked]
        return NextValue(options[0].text, options[0].fact_id, options) if options else None

    # Reading: one sentence after another, for what was said before matters.

    def _understood(self, text: str, start: int, state: _State) -> _Understood | None:
        """The likeliest reading of the sentence from ``start`` to the end of ``text``."""
        habits = state.habits
        for strict in (True, False):
            options = [
                (place.oddity, -habits.of(wording, place.subject), wording, place)
                for kind in _kinds(state)
                for place in Walk(self.table, text, start, kind, state.subject, strict).finished()
                if place.subject is not None
                for wording in place.node.ends
            ]
            if options:
                _, _, wording, place = min(options, key=lambda option: option[:2])
                assert place.subject is not None
                return _Understood(wording, place.matches, place.subject)
        return None

    def _judged(self, text: str, matches: list[Match], subject: Entity, year: int | None) -> Iterator[Claim]:
        """Claims that ``matches`` make, after ``year`` was the last one named."""
        for slot, start, end in matches:
            stated = text[start:end]
            if slot.kind == "subject":
                if stated not in (subject.name, subject.short_name, *SUBJECT_PRONOUNS[slot.what]):
                    yield Claim(start, end, f"{subject.id}.name", stated, False)
            elif slot.kind in ("fact", "year"):
                path = _path(slot)
                holder, truth = find(subject, path[:-1]), find(subject, path)
                id = f"{holder.id}.{path[-1]}" if isinstance(holder, Entity) else f"{subject.id}.{slot.what}"
                if (number := _year(stated, path[-1], year, subject)) is not None:
                    year, stated = number, str(number)
                true = truth is not None and stated == written(truth)
                if not true or path[-1] not in ("name", "surname"):
                    yield Claim(start, end, id, stated, true)

    def _after(self, text: str, start: int, end: int, state: _State, understood: _Understood | None) -> _State:
        if (asked := self._asked_about(text, start, end)) is not None:
            return _State(asked, frozenset({"name"}), None, False)
        if understood is None:
            years = _FOUR_DIGITS.findall(text, start, end)
            subject = state.subject or self._named_first(text, start, end)
            return replace(state, subject=subject, year=int(years[-1]) if years else state.year, first=False)
        wording, matches, subject = understood
        told = set(state.told | wording.sentence.states)
        for slot, first, last in matches:
            if slot.kind == "subject" and text[first:last] in (subject.name, subject.short_name):
                told.add("name" if text[first:last] == subject.name else "surname")
        places = order(subject.kind)
        new = [places[relation] for relation in wording.sentence.states - state.told if relation in places]
        is_lead = any(relation == LEAD for relation, _ in wording.odds)
        progress = max(state.progress, min(new)) if new and not is_lead else state.progress
        return _State(subject, frozenset(told), _last_year(text, matches, subject, state.year), False, progress)

    def _asked_about(self, text: str, start: int, end: int) -> Entity | None:
        """The entity that a question names: what follows, in a conversation, is about it."""
        if not text[start:end].endswith("?"):
            return None
        words = WORD.finditer(text, start, end - 1)
        return next((name for word in words if (name := self._named_first(text, word.start(), end - 1))), None)

    def _named_first(self, text: str, start: int, end: int) -> Entity | None:
        """The entity whose name begins a sentence that cannot be parsed."""
        opening = _BEFORE_A_NAME.match(text, start, end)
        for at in (start, opening.end() if opening else start):
            stop, name = at, None
            for _ in range(8):
                word = WORD.match(text, stop, end)
                if not word:
                    break
                name = self.table.by_name.get(text[at : word.end()].removesuffix("'s"), name)
                stop = word.end() + 1
            if name:
                return name
        return None

    def _state_after(self, text: str, spans: list[tuple[int, int]]) -> _State:
        """The state behind the sentences ``spans``; each is read once while a text grows."""
        unread: list[tuple[bytes, int, int]] = []
        state = _State()
        for start, end in reversed(spans):
            key = blake2b(text[:end].encode("utf-8", "surrogatepass"), digest_size=16).digest()
            with self._lock:
                known = self._states.get(key)
            if known is not None:
                state = known
                break
            unread.append((key, start, end))
        for key, start, end in reversed(unread):
            state = self._after(text, start, end, state, self._understood(text[:end], start, state))
            with self._lock:
                self._states[key] = state
                while len(self._states) > _REMEMBERED:
                    self._states.popitem(last=False)
        return state

    # Continuing: all places where the end of the text may be, and what is true there.

    def _places(self, text: str, start: int, state: _State, habits: Habits) -> list[tuple[Place, float]]:
        """Places at the end of ``text``, whose last sentence begins at ``start``, and their weights."""
        for strict in (True, False):
            walks = (Walk(self.table, text, start, kind, state.subject, strict).unfinished() for kind in _kinds(state))
            places = [
                (place, habits.below(place.node, place.subject) * _ODD**place.oddity)
                for place in chain.from_iterable(walks)
            ]
            if places:
                return places
        return []

    def _likeliest(self, text: str, start: int, state: _State) -> Place | None:
        places = [pair for pair in self._places(text, start, state, state.habits) if pair[0].subject is not None]
        return max(places, key=lambda pair: pair[1])[0] if places else None

    def _true(
        self, text: str, start: int, place: Place, state: _State, habits: Habits
    ) -> Iterator[tuple[str, str, float]]:
        """True continuations at ``place``: remaining characters, fact, share of the weight."""
        if place.kind == "in slot":
            assert place.slot is not None
            begun = text[place.start :]
            for words, fact, share in self._fillings(text, place.slot, place, place.start, start, state):
                if words.startswith(begun) and len(words) > len(begun):
                    yield words[len(begun) :], fact, share
        elif place.kind == "in literal" and _OPENING.fullmatch(place.rest):
            whole = habits.below(place.node, place.subject)
            for slot, child in place.node.slots:
                part = habits.below(child, place.subject) / whole
                if not slot.article:  # in front of "a poet" is not yet the fact
                    for words, fact, share in self._fillings(text, slot, place, len(text), -1, state):
                        yield place.rest + words, fact, share * part

    def _fillings(
        self, text: str, slot: Slot, place: Place, at: int, start: int, state: _State
    ) -> Iterator[tuple[str, str, float]]:
        """What may truly stand in ``slot`` at ``at``: the words, the fact, the share."""
        subject = place.subject
        if slot.kind == "subject":
            yield from self._names(text, slot, place, at, at == start, state)
        if subject is None or slot.kind not in ("fact", "year"):
            return
        path = _path(slot)
        holder, value = find(subject, path[:-1]), find(subject, path)
        if not isinstance(holder, Entity) or value is None:
            return
        fact = f"{holder.id}.{path[-1]}"
        if slot.kind == "year":
            assert isinstance(value, int), (fact, value)
            for phrase, share in self._phrases(text, value, holder, path[-1], place, state):
                yield phrase[0].upper() + phrase[1:] if at == start else phrase, fact, share
        elif not slot.article:
            yield written(value), fact, 1.0
        elif article := _ARTICLE.match(text, at):
            words = written(value)
            yield f"{article[1]} {words}", fact, 1.0 if (words[0] in "aeiou") == (len(article[1]) == 2) else 0.1

    def _phrases(
        self, text: str, year: int, holder: Entity, relation: str, place: Place, state: _State
    ) -> Iterator[tuple[str, float]]:
        yield f"in {year}", 0.6
        before = _last_year(text, place.matches, place.subject, state.year)
        if before is None or relation in ("birth_year", "founded_year"):
            return
        if phrase := relative(year - before):
            yield phrase, 0.3
        if holder is place.subject and "birth_year" in state.told:
            yield f"at the age of {year - holder.year('birth_year')}", 0.1

    def _names(
        self, text: str, slot: Slot, place: Place, at: int, opens: bool, state: _State
    ) -> Iterator[tuple[str, str, float]]:
        subject = place.subject
        if subject is None:
            said = [
                (_path(slot), text[start:end]) for slot, start, end in place.matches if slot.kind in ("fact", "year")
            ]
            if not said and len(text) - at < _GUESS_LETTERS:
                return
            for rank, guess in enumerate(self.table.like(place.entity_kind, text[at:], said, _GUESSES)):
                yield guess.name, f"{guess.id}.name", 1 / (1 + rank)
            return
        named = "name" in state.told
        pronoun = 0.5 if named and (opens or slot.what == "S's") else 0.0
        if named and subject.short_name:
            yield subject.short_name, f"{subject.id}.surname", (1 - pronoun) * 0.6
        yield subject.name, f"{subject.id}.name", (1 - pronoun) * (0.4 if named and subject.short_name else 1.0)


def _sentences(text: str) -> list[tuple[int, int]]:
    """Sentences, the last perhaps unfinished: up to a full stop before white space, or to the end of the line."""
    return [match.span() for match in _SENTENCE.finditer(text)]


def _is_finished(text: str, end: int) -> bool:
    return text[end - 1] == "." or end < len(text.rstrip()) or text[end : end + 1] == "\n"


def _kinds(state: _State) -> tuple[str, ...]:
    return (state.subject.kind,) if state.subject else KINDS


def _path(slot: Slot) -> tuple[str, ...]:
    return tuple(slot.what.split("."))


def _year(stated: str, relation: str, last: int | None, subject: Entity | None) -> int | None:
    """The year that ``stated`` comes to; ``None`` if the relation is no year, or if it is relative to nothing."""
    if not is_year(relation):
        return None
    birth = subject.values.get("birth_year") if subject else None
    try:
        return year_stated(stated, last, birth if isinstance(birth, int) else None)
    except (AssertionError, StopIteration, ValueError):  # words that state no year
        return None


def _last_year(text: str, matches: list[Match], subject: Entity | None, year: int | None) -> int | None:
    for slot, start, end in matches:
        if slot.kind in ("fact", "year"):
            stated = _year(text[start:end], _path(slot)[-1], year, subject)
            year = year if stated is None else stated
    return year
