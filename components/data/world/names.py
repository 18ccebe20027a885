"""Invented names.

A world draws its own syllables, so no name is known from elsewhere and two seeds share next to nothing. Names are built
from a stock of roots that a tokenizer can learn: a name is a few tokens that no one can guess, not a row of letters.
"""

from collections.abc import Callable
from itertools import count
from math import isqrt
from random import Random

from components.data.world.chance import between, pick, shuffled
from components.data.world.stock import values

_ONSETS = "b bl br d dr f fl fr g gl gr h j k kl kr kv l m n p pl pr r s sk sl sp st t th tr v vl vr w y z zh"
_VOWELS = "a e i o u y ae ei ia oa ou"
_CODAS = "b d f g k l lk lm ln lv m n nd ng nk nt p r rb rd rk rn rv s sk sp st t th v x z"
_ENDINGS = {
    "she": "yssa ethe iove unne aveth olwe ireth ezza umia ondra ixe ulla azhe issane oravy elune",
    "he": "ovar undric eskor ambel ythan orrim azel ugar elmo ivund ossen urik adoc ebrim oldo istan",
    "surname": "avik esko undel orrow ithel ambre oster ungar evane iskel othmar aldine uvary enko orsu ebble",
    "place": "abury eth undal ivar oskel ayne umber isk orra emund ovitz ansk urgh illow avell essa",
    "river": "a en esh ouve ilme ora une ith",
    "region": "ovia ania umark estria oland ithia",
    "language": "ish ese ic ian",
}


class Namer:
    """Makes names, no full name twice."""

    def __init__(self, rng: Random, entities: int) -> None:
        """``entities`` sets how many roots there are: enough for unique names in a world of that size."""
        self._rng = rng
        self._roots = {kind: self._new_roots(48 + isqrt(entities)) for kind in _ENDINGS}
        self._endings = {kind: endings.split() for kind, endings in _ENDINGS.items()}
        self._taken: set[str] = set()

    def place(self) -> str:
        return self._unique(lambda longer: self._word("place", longer))

    def person(self, pronoun: str) -> str:
        """Given name and surname of someone called "he" or "she"."""
        return self._unique(lambda longer: f"{self._word(pronoun)} {self._word('surname', longer)}")

    def title(self) -> str:
        return self._unique(lambda longer: self._title())

    def event(self) -> str:
        return self._unique(
            lambda longer: f"{self._word('region', longer)} {pick(self._rng, values('event noun')).capitalize()}"
        )

    def surname(self) -> str:
        return self._word("surname")

    def pool(self, kind: str, size: int) -> list[str]:
        """``size`` different names that facts of many entities share: rivers, regions, languages."""
        return self._pool(lambda: self._word(kind), size)

    def institutions(self, stock: str, size: int) -> list[str]:
        """``size`` different schools, awards or presses: a surname and a word of that stock."""
        return self._pool(lambda: f"{self.surname()} {_capitalised(pick(self._rng, values(stock)))}", size)

    def landmark(self) -> str:
        return f"{self.surname()} {_capitalised(pick(self._rng, values('landmark')))}"

    def _title(self) -> str:
        noun, adjective = (_capitalised(pick(self._rng, values(f"title {kind}"))) for kind in ("noun", "adjective"))
        form = between(self._rng, 0, 3)
        if form == 0:
            return f"The {adjective} {noun}"
        if form == 1:
            return f"{adjective} {noun}"
        if form == 2:
            return f"The {noun} of {self._word('place')}"
        return f"The {noun} and the {adjective} {_capitalised(pick(self._rng, values('title noun')))}"

    def _word(self, kind: str, longer: int = 0) -> str:
        """A root and an ending, with ``longer`` more roots before them."""
        roots = (pick(self._rng, self._roots[kind]) for _ in range(1 + longer))
        return ("".join(roots) + pick(self._rng, self._endings[kind])).capitalize()

    def _new_roots(self, size: int) -> list[str]:
        return self._pool(lambda: "".join(pick(self._rng, part.split()) for part in (_ONSETS, _VOWELS, _CODAS)), size)

    def _pool(self, make: Callable[[], str], size: int) -> list[str]:
        found: dict[str, None] = {}
        while len(found) < size:
            found[make()] = None
        return shuffled(self._rng, list(found))

    def _unique(self, make: Callable[[int], str]) -> str:
        # ``make`` is asked for longer names when the short ones run out.
        name = next(name for attempt in count() if (name := make(attempt // 10)) not in self._taken)
        self._taken.add(name)
        return name


def _capitalised(words: str) -> str:
    return " ".join(word if word == "and" else word.capitalize() for word in words.split())
