"""Pairs of answers about the world's facts: the truth, and the same sentence with a value of somebody else.

The other value is drawn as often as it occurs, so a model that only knows how common values are is right half of the
time; and it is about as long as the true one, so the length of an answer says nothing either.
"""

from collections import defaultdict
from dataclasses import dataclass, replace
from heapq import nlargest
from math import log
from random import Random

from components.data.world.chance import pick
from components.data.world.facts import Entity, written
from components.data.world.questions import answer_about, askable, question_about
from components.data.world.table import FactTable

_DRAWS = 8
"""Values to choose from, the one of the likest length."""


@dataclass(frozen=True)
class Preference:
    """A question, the true answer, and a false one of the same kind."""

    subject: str
    """The id of whom the question is about."""
    question: str
    true: str
    false: str


def preferences(table: FactTable, count: int) -> list[Preference]:
    """At most ``count`` preferences, of the most popular subjects first, drawn with weight 1 / rank as questions are.

    What the corpus hardly ever states no model of it knows, and nothing could be preferred for being true.
    """
    rng = Random("preferences")
    values: dict[tuple[str, str], list[str]] = defaultdict(list)
    keyed: list[tuple[float, int, Entity, str]] = []
    for rank, subject in enumerate(table.entities.values(), 1):
        for relation in askable(subject):
            values[subject.kind, relation].append(written(subject.values[relation]))
            # A key of u ** (1 / weight), as a logarithm: the largest are a draw without replacement (Efraimidis, 2006).
            keyed.append((rank * log(1 - rng.random()), rank, subject, relation))
    drawn = sorted(nlargest(count, keyed, key=lambda each: each[0]), key=lambda each: each[1])
    return [
        _preference(subject, relation, false)
        for _, _, subject, relation in drawn
        if (false := _other(written(subject.values[relation]), values[subject.kind, relation], rng)) is not None
    ]


def _other(true: str, values: list[str], rng: Random) -> str | None:
    drawn = [value for value in (pick(rng, values) for _ in range(_DRAWS)) if value != true]
    return min(drawn, key=lambda value: abs(len(value) - len(true)), default=None)


def _preference(subject: Entity, relation: str, false: str) -> Preference:
    liar = replace(subject, values={**subject.values, relation: false})
    return Preference(
        subject.id, question_about(subject, relation), answer_about(subject, relation), answer_about(liar, relation)
    )
