"""Plausible formats of a multiple-choice question (FormatSpread; Sclar et al. 2023, arXiv 2310.11324, section 3).

A format is one choice for each part of a small grammar: the names of the fields and their casing, what separates a name
from its text and one field from the next, and how the choices are marked. All of them say the same, so the accuracy of
a model should not depend on it. The spread is the highest accuracy less the lowest. Every question is put in every
format; the paper saves requests by a bandit.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from random import Random

from components.evaluation.robustness.items import Item
from components.evaluation.score_table import Score

_CASES: dict[str, Callable[[str], str]] = {"title": str.title, "upper": str.upper, "lower": str.lower}
_SEPARATORS = (": ", " ", ":\n", " - ", "::: ", "\n\t")
_SPACES = ("\n", "\n\n", " || ", ", ", " <sep> ", " ")
_MARKS = ("{}.", "{})", "({})", "[{}]", "<{}>", "{} )")
_ALPHABETS = {
    "letters": "ABCDEFGHIJKLMNOPQRST",
    "small letters": "abcdefghijklmnopqrst",
    "numbers": tuple(map(str, range(1, 21))),
}


@dataclass(frozen=True)
class Format:
    """How the parts of a question are written."""

    case: str
    separator: str
    space: str
    mark: str
    alphabet: str

    @property
    def name(self) -> str:
        """For the column ``format`` of the table of scores; two formats never share it."""
        return f"{self.case} {self.separator!r} {self.space!r} {self.mark} {self.alphabet}"

    def marks(self, count: int) -> list[str]:
        """What stands for each of ``count`` choices, and is the answer."""
        return list(_ALPHABETS[self.alphabet][:count])

    def written(self, question: str, choices: Sequence[str]) -> str:
        """The question, up to the place of the answer; without the space before it."""
        name, marks = _CASES[self.case], self.marks(len(choices))
        listed = [f"{self.mark.format(mark)} {choice}" for mark, choice in zip(marks, choices, strict=True)]
        fields = [("question", question), ("choices", self.space.join(["", *listed]).lstrip(" ")), ("answer", "")]
        return self.space.join(f"{name(field)}{self.separator}{text}" for field, text in fields).rstrip(" ")


USUAL = Format("title", ": ", "\n", "{}.", "letters")


def sampled(count: int, seed: int) -> list[Format]:
    """Different formats, the usual one first and the others drawn evenly; no more than there are."""
    every = [Format(*parts) for parts in product(_CASES, _SEPARATORS, _SPACES, _MARKS, _ALPHABETS)]
    every.remove(USUAL)
    return [USUAL, *Random(f"formats {seed}").sample(every, min(count - 1, len(every)))]


def asked(item: Item, choices: Sequence[str], format: Format) -> tuple[str, list[str]]:
    """The context, and a continuation for each of ``choices``."""
    return format.written(item.question, choices), [f" {mark}" for mark in format.marks(len(choices))]


@dataclass(frozen=True)
class Spread:
    """How much the accuracy of one model depends on the format."""

    lowest: float
    highest: float
    worst: str
    """The format with the lowest accuracy."""
    best: str

    @property
    def spread(self) -> float:
        return self.highest - self.lowest


def format_spread(scores: Iterable[Score], metric: str = "acc") -> Spread | None:
    """Of the rows of one model and task; ``None`` if they hold no such metric."""
    sums: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for score in scores:
        if score.metric == metric:
            above, below = sums[score.format]
            sums[score.format] = (above + score.score, below + score.weight)
    shares = {name: above / below for name, (above, below) in sums.items() if below > 0}
    if not shares:
        return None
    worst, best = min(shares, key=lambda name: shares[name]), max(shares, key=lambda name: shares[name])
    return Spread(shares[worst], shares[best], worst, best)
