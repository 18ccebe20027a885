"""Values are exact, as Python's fractions have them, and what is no arithmetic has none, in bounded time."""

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.arithmetic.expressions import DEEPEST_BRACKETS, LONGEST_EXPRESSION, decimal, value

NUMBERS = st.one_of(
    st.integers(0, 10**6).map(str), st.decimals(0, 1000, places=3).map(str), st.sampled_from([".5", "007"])
)
EXPRESSIONS = st.recursive(
    NUMBERS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", " * "]), inner).map("".join),
        inner.map(lambda each: f"({each})"),
        inner.map(lambda each: f"-{each}"),
    ),
    max_leaves=8,
)


def by_python(expression: str) -> Fraction | None:
    """The same by Python's own parser, over fractions instead of numbers."""
    number = ""
    pieces = []
    for character in f"{expression} ":
        if character.isdigit() or character == ".":
            number += character
            continue
        pieces.append(f"Fraction('{number}')" if number else "")
        pieces.append(character)
        number = ""
    try:
        return Fraction(eval("".join(pieces).strip(), {"Fraction": Fraction}))
    except ZeroDivisionError:
        return None


@given(EXPRESSIONS)
def test_the_value_is_that_of_python_with_fractions(expression: str) -> None:
    assert value(expression) == by_python(expression)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [("48/2", 24), (".5+5.", "11/2"), ("-3--4", 1), ("007*2", 14), ("2*(3+(4-1))", 12), ("7//2", 3), (" 1 + 1 ", 2)],
)
def test_what_people_write_is_read(expression: str, expected: int | str) -> None:
    assert value(expression) == Fraction(expected)


@pytest.mark.parametrize(
    "expression",
    [
        "1/0", "1//0", "1/(2-2)", "9**9**9", "", " ", ".", "1..2", "1 2", "2(3)", "(1", "1)", "1+", "*2", "1e9", "0x10",
        "1,000", "$5", "5%", "٣+1", "x", "__import__('os').system('true')", "lambda: 0", "().__class__",
        "(" * (DEEPEST_BRACKETS + 1) + "1" + ")" * (DEEPEST_BRACKETS + 1),
        "9" * (LONGEST_EXPRESSION + 1),
    ],
)  # fmt: skip
def test_what_has_no_value_has_none(expression: str) -> None:
    assert value(expression) is None


@pytest.mark.parametrize(
    "expression",
    ["9" * 10**6, "(" * 10**6, "-" * 10**6 + "1", "1/" * 127 + "7", "9*" * 127 + "9", "-" * 255 + "1", "9" * 256],
)
def test_whatever_is_asked_the_time_is_short(expression: str) -> None:
    began = time.perf_counter()
    found = value(expression)
    assert found is None or decimal(found) is None or len(decimal(found) or "") <= LONGEST_EXPRESSION
    assert time.perf_counter() - began < 0.5


@given(st.decimals(-1000, 1000, places=5))
def test_digits_are_exact(number: object) -> None:
    written = decimal(Fraction(str(number)))
    assert written is not None
    assert Fraction(written) == Fraction(str(number))
    assert written == "0" or not written.lstrip("-").startswith("00")
    assert "." not in written or not written.endswith("0")


def test_what_no_decimals_express_is_not_written() -> None:
    assert decimal(Fraction(1, 3)) is None
    assert decimal(Fraction(1, 2**13)) is None
    assert decimal(Fraction(-1, 8)) == "-0.125"
