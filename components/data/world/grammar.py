"""The sentence patterns for the parser: one tree per kind of entity; wordings with the same beginning share a path.

Edges are the slots of ``prose.py``: literal text, found by its first letter, and places to fill. Walking the tree along
a text visits few edges, for most literals fail at the first letter.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

from components.data.world.prose import Pattern, Sentence, Slot, patterns

LEAD, FREE = "lead", "free"


@dataclass(frozen=True, slots=True, eq=False)
class Wording:
    """A sentence of the corpus. ``odds``: how often the writer takes it, for each relation it was about to tell."""

    sentence: Sentence
    odds: tuple[tuple[str, float], ...]
    """Relation, ``LEAD`` or ``FREE``, and the share of this wording among those that serve it."""


@dataclass(slots=True, eq=False)
class Node:
    """A place between two slots."""

    literals: "dict[str, list[tuple[str, Node]]]" = field(default_factory=dict)
    """By first letter: the text that follows, and where it leads."""
    slots: "list[tuple[Slot, Node]]" = field(default_factory=list)
    ends: list[Wording] = field(default_factory=list)
    """Wordings that are complete here."""
    below: list[Wording] = field(default_factory=list)
    """Wordings that pass through here."""

    def child(self, slot: Slot) -> "Node":
        """Where ``slot`` leads, made if need be."""
        if slot.kind == "text":
            same = self.literals.setdefault(slot.what[0], [])
            found = next((node for text, node in same if text == slot.what), None)
            if found is None:
                same.append((slot.what, found := Node()))
            return found
        found = next((node for other, node in self.slots if other == slot), None)
        if found is None:
            self.slots.append((slot, found := Node()))
        return found


@cache
def grammar(kind: str) -> Node:
    """The tree of every sentence about a "person", "place", "work" or "event".

    A question is one more sentence, whose last slot is its answer: "Where was Anna born? Brackwater."
    """
    root = Node()
    for wording in _wordings(kind):
        node = root
        node.below.append(wording)
        for slot in _as_sentence(wording.sentence.slots):
            node = node.child(slot)
            node.below.append(wording)
        node.ends.append(wording)
    return root


def _wordings(kind: str) -> Iterator[Wording]:
    known = patterns(kind)
    odds: dict[int, list[tuple[str, float]]] = {}  # by pattern, for one may serve several relations
    every: dict[int, Pattern] = {}
    groups = {LEAD: known.lead, FREE: known.free, **known.by_relation}
    for relation, options in groups.items():
        for pattern in options:
            every[id(pattern)] = pattern
            share = 1 / len(options) / len(pattern.wordings)
            odds.setdefault(id(pattern), []).append((relation, share))
    for key, pattern in every.items():
        for sentence in pattern.wordings:
            yield Wording(sentence, tuple(odds[key]))
    for relation, question in known.questions.items():
        slots = (*question.slots, Slot("text", " "), Slot("fact", relation), Slot("text", "."))
        yield Wording(Sentence(slots, frozenset({relation}), ((relation,), *question.needs)), ())


def _as_sentence(slots: tuple[Slot, ...]) -> tuple[Slot, ...]:
    """``slots`` with the capital that a page gives to the first letter."""
    first = slots[0]
    if first.kind != "text":
        return slots
    return (first._replace(what=first.what[0].upper() + first.what[1:]), *slots[1:])
