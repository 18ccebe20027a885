"""Pairs of answers about the world's facts: the truth, and the same sentence with a value of somebody else.

The other value is drawn as often as it occurs, so a model that only knows how common values are is right half of the
time; and it is about as long as the true one, so the length of an answer says nothing either.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import NamedTuple

from components.data.world.chance import pick
from components.data.world.facts import Entity, written
from components.data.world.prose import patterns
from components.data.world.questions import askable, filled
from components.data.world.table import FactTable

_DRAWS = 8
"""Values to choose from, the one of the likest length."""


class Preference(NamedTuple):
    """A question, the true answer, and a false one of the same kind."""

    subject: str
    """The id of whom the question is about."""
    question: str
    true: str
    false: str


def preferences(table: FactTable) -> Iterator[Preference]:
    """A preference for every fact that can be asked for, of the most popular subjects first."""
    rng = Random("preferences")
    values: dict[tuple[str, str], list[str]] = defaultdict(list)
    for subject in table.entities.values():
        for relation in askable(subject):
            values[subject.kind, relation].append(written(subject.values[relation]))
    for subject in table.entities.values():
        for relation in askable(subject):
            false = _other(written(subject.values[relation]), values[subject.kind, relation], rng)
            if false is not None:
                yield _preference(subject, relation, false)


def _other(true: str, values: list[str], rng: Random) -> str | None:
    drawn = [value for value in (pick(rng, values) for _ in range(_DRAWS)) if value != true]
    return min(drawn, key=lambda value: abs(len(value) - len(true)), default=None)


def _preference(subject: Entity, relation: str, false: str) -> Preference:
    question = patterns(subject.kind).questions[relation]
    told = next(pattern.wordings[0] for pattern in patterns(subject.kind).by_relation[relation] if pattern.prompt)
    liar = replace(subject, values={**subject.values, relation: false})
    return Preference(subject.id, filled(question, subject), filled(told, subject), filled(told, liar))
