"""The results of calculations in a text: the ``24`` of every ``<<48/2=24>>``.

Only results that are exactly right: a model that asks at the others would read a number that the text does not have.
"""

from collections.abc import Sequence

from components.arithmetic.calculations import calculations
from components.labelling.annotators.base import Annotation, as_words

RULE = "results"


class Calculations:
    """Labels results, which a calculator knows better than any model."""

    def annotate(self, texts: Sequence[str]) -> list[Annotation]:
        return [Annotation(as_words(_results(text)), "calculations") for text in texts]


def _results(text: str) -> list[tuple[int, int]]:
    return [(each.start, each.end) for each in calculations(text) if each.right]
