"""The exact value of an expression such as ``3*(4+.5)``, as a fraction.

Why an own parser: Python's ``ast`` reads decimals as binary floats and refuses ``007``; calculators from PyPI compute
in floats, or bring powers, names and functions that must be shut out again. This is all that can be said::

    sum     = product (("+" | "-") product)*
    product = signed (("*" | "/" | "//") signed)*
    signed  = ("+" | "-")* (number | "(" sum ")")
    number  = digits with or without a decimal point, also 007, 5. and .5

There are no powers, so a fraction has about as many digits as the expression: with the limits below, time is bounded.
"""

import re
from collections import deque
from collections.abc import Iterable
from fractions import Fraction

LONGEST_EXPRESSION = 256  # characters; the longest of GSM8K has 30
DEEPEST_BRACKETS = 16  # GSM8K: 2
MOST_DECIMALS = 12

_OPERATORS = frozenset({"//", *"+-*/()"})
_TOKEN = re.compile(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+|//|[-+*/()])")


class _UnreadableError(ValueError):
    """It is no expression of this grammar."""


def value(expression: str) -> Fraction | None:
    """What ``expression`` comes to; ``None`` where it is none, divides by zero, or is too long or too deep."""
    if len(expression) > LONGEST_EXPRESSION:
        return None
    try:
        return _Reader(_tokens(expression)).whole()
    except (_UnreadableError, ZeroDivisionError):
        return None


def decimal(number: Fraction) -> str | None:
    """``number`` in digits, exactly: 24, 0.5, -3.25; ``None`` if that takes more than ``MOST_DECIMALS`` (1/3)."""
    for places in range(MOST_DECIMALS + 1):
        scaled = number * 10**places
        if scaled.denominator == 1:
            digits = str(abs(scaled.numerator)).rjust(places + 1, "0")
            point = len(digits) - places
            return ("-" if number < 0 else "") + digits[:point] + ("." + digits[point:] if places else "")
    return None


def _tokens(expression: str) -> Iterable[str]:
    at, end = 0, len(expression.rstrip())
    while at < end:
        if (found := _TOKEN.match(expression, at)) is None:
            raise _UnreadableError(expression)
        yield found[1]
        at = found.end()


class _Reader:
    """Reads the tokens of one expression from left to right, by recursive descent."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self._left = deque(tokens)
        self._depth = 0

    def whole(self) -> Fraction:
        found = self._sum()
        if self._left:
            raise _UnreadableError(self._left[0])
        return found

    def _sum(self) -> Fraction:
        found = self._product()
        while (operator := self._take("+", "-")) is not None:
            term = self._product()
            found = found + term if operator == "+" else found - term
        return found

    def _product(self) -> Fraction:
        found = self._signed()
        while (operator := self._take("*", "/", "//")) is not None:
            factor = self._signed()
            if operator == "*":
                found *= factor
            else:
                found = found / factor if operator == "/" else Fraction(found // factor)
        return found

    def _signed(self) -> Fraction:
        negative = False
        while (sign := self._take("+", "-")) is not None:
            negative ^= sign == "-"
        found = self._brackets() if self._take("(") else self._number()
        return -found if negative else found

    def _brackets(self) -> Fraction:
        self._depth += 1
        if self._depth > DEEPEST_BRACKETS:
            raise _UnreadableError("brackets are too deep")
        found = self._sum()
        self._depth -= 1
        if self._take(")") is None:
            raise _UnreadableError("a bracket is not closed")
        return found

    def _number(self) -> Fraction:
        if not self._left or self._left[0] in _OPERATORS:
            raise _UnreadableError("a number is missing")
        return Fraction(self._left.popleft())

    def _take(self, *operators: str) -> str | None:
        """The next token if it is one of ``operators``."""
        return self._left.popleft() if self._left and self._left[0] in operators else None
