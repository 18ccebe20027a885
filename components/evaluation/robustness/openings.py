"""Sentences of the closed world: up to the place of a fact, as other ways to ask for it, and whole, to tell it."""

from collections import Counter
from collections.abc import Iterator
from random import Random

from components.data.world.facts import Entity
from components.data.world.prose import Page, Sentence, Slot, patterns
from components.data.world.stock import FreeWords


def openings(subject: Entity, relation: str) -> Iterator[str]:
    """Texts about ``subject`` that the value of ``relation`` continues, in the order of the patterns.

    Left out are sentences that state another fact before it, put an article before it, which tells part of it, or speak
    of the subject by a pronoun, which the table does not hold.
    """
    for pattern in patterns(subject.kind).by_relation[relation]:
        for sentence in pattern.wordings:
            if text := _up_to(sentence, subject, relation):
                yield text


def told(subject: Entity, relation: str) -> str:
    """The sentence that asks for ``relation`` of ``subject``, with the value that ``subject`` has."""
    sentence = next(pattern.wordings[0] for pattern in patterns(subject.kind).by_relation[relation] if pattern.prompt)
    page = Page(subject, Random(0), FreeWords(0))
    page.write(sentence)
    return page.text


def _up_to(sentence: Sentence, subject: Entity, relation: str) -> str:
    kinds = [slot.kind for slot in sentence.slots]
    end = next(place for place, kind in enumerate(kinds) if kind in ("fact", "year"))
    before = Counter(kinds[:end])
    if sentence.slots[end] != Slot("fact", relation) or before["subject"] != 1 or before["pronoun"]:
        return ""
    page = Page(subject, Random(0), FreeWords(0))
    page.write(Sentence(sentence.slots[:end], frozenset(), ()))
    return page.text.rstrip(" ")
