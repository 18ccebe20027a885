"""The odds of each wording in the generator (``articles.py``), in a short form.

A document begins with a lead; then relations are told roughly in the order of a life, each with one of its wordings,
one told before only one time in ten; between them stand sentences without facts.
"""

from functools import cache

from components.data.world.facts import Entity
from components.data.world.grammar import FREE, LEAD, Node, Wording
from components.data.world.prose import patterns

_AGAIN = 0.1  # a relation told before
_ASIDE = 2.0  # sentences without facts, for each relation that is due
_NO_LEAD = 0.02  # a first sentence that is no lead: prompts are
_RARE = 1e-6  # questions; leads in the middle
_IMPOSSIBLE = 1e-9  # facts that the subject does not have
_BACK, _BACK_ODDS = 4, 0.2  # relations trade places with neighbours; further back, one was left out on purpose
_AHEAD = 3  # relations ahead at which the odds have fallen to a half


@cache
def order(kind: str) -> dict[str, int]:
    """Relations in the order of a life."""
    return {relation: place for place, relation in enumerate(patterns(kind).by_relation)}


class Habits:
    """Odds at the beginning of one sentence, relative to each other."""

    def __init__(self, told: frozenset[str], first: bool, progress: int) -> None:
        """
        Arguments:
            told: relations of the subject stated so far.
            first: whether the sentence is the first.
            progress: how far in the order of a life the text has come.
        """
        self._told = told
        self._first = first
        self._progress = progress
        self._known: dict[tuple[int, str], float] = {}

    def below(self, node: Node, subject: Entity | None) -> float:
        """Odds that the sentence, about ``subject``, passes ``node``."""
        return sum(self.of(wording, subject) for wording in node.below)

    def of(self, wording: Wording, subject: Entity | None) -> float:
        """Odds that the sentence, about ``subject``, is ``wording``."""
        key = (id(wording), subject.id if subject else "")
        if key not in self._known:
            self._known[key] = self._odds(wording, subject)
        return self._known[key]

    def _odds(self, wording: Wording, subject: Entity | None) -> float:
        if subject is not None and not wording.sentence.fits(subject):
            return _IMPOSSIBLE
        places = order(subject.kind) if subject else {}
        odds = _RARE
        for relation, share in wording.odds:
            if relation == LEAD:
                odds += share if self._first else 0.0
                continue
            if relation == FREE:
                share *= _ASIDE
            else:
                ahead = places.get(relation, 0) - self._progress
                share *= _BACK_ODDS if ahead < -_BACK else _AHEAD / (_AHEAD + max(0, ahead))
                share *= _AGAIN if relation in self._told else 1.0
            odds += share * (_NO_LEAD if self._first else 1.0)
        return odds
