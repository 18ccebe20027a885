"""Calculations in a text, as GSM8K shows them: ``<<EXPRESSION=RESULT>>`` (https://arxiv.org/abs/2110.14168)."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from components.arithmetic.expressions import LONGEST_EXPRESSION, decimal, value

CLOSING = ">>"
_CALCULATION = re.compile(r"<<([^<>=\n]*)=([^<>=\n]*)>>")
_OPEN = re.compile(r"<<([^<>=\n]*)=([^<>=\n]*)\Z")
_LONGEST = 2 * LONGEST_EXPRESSION  # of an open one, in characters


class Calculation(NamedTuple):
    """One ``<<EXPRESSION=RESULT>>`` of a text."""

    expression: str
    result: str
    start: int
    """First character of the result."""
    end: int
    """The character after the result."""

    @property
    def right(self) -> bool:
        """Whether the result is the exact value of the expression, however it is written."""
        return same_value(self.expression, self.result)


def calculations(text: str) -> Iterator[Calculation]:
    """All calculations of ``text``, in order."""
    return (Calculation(found[1], found[2], *found.span(2)) for found in _CALCULATION.finditer(text))


def same_value(expression: str, result: str) -> bool:
    """Whether both can be read and come to the same."""
    wanted = value(expression)
    return wanted is not None and value(result) == wanted


def rest_of_result(text: str) -> str | None:
    """What is missing after ``text``, which ends within a calculation: ``24>>`` after ``<<48/2=``.

    A result that has been begun is completed, also one without the zero before its point. ``None`` where the text is
    at no such place, the expression has no value or none that ends after some decimals, or another result was begun.
    """
    found = _OPEN.search(text[-_LONGEST:])
    number = value(found[1]) if found else None
    written = decimal(number) if number is not None else None
    if found is None or written is None:
        return None
    begun = found[2]
    for way in (written, re.sub(r"^(-?)0\.", r"\1.", written)):
        if way.startswith(begun):
            return way[len(begun) :] + CLOSING
    return None
