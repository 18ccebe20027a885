import math

import pytest

from components.evaluation.factuality.subset_likelihood import bits_per_byte
from tests.evaluation.factuality.conftest import predictions


def test_bits_are_divided_by_the_bytes_of_the_same_subset() -> None:
    # Two facts (3 + 5 bytes), one other token (2 bytes), and the boundary, which has no bytes but must be predicted.
    nats = [bits * math.log(2) for bits in (6.0, 2.0, 3.0, 1.0)]
    found = bits_per_byte(predictions([True] * 4, [True, True, False, False], nats, [3, 5, 2, 0]))
    assert found == pytest.approx({"all": 12 / 10, "factual": 8 / 8, "other": 4 / 2})


def test_a_subset_without_text_is_left_out() -> None:
    assert bits_per_byte(predictions([True, True], [False, False], [1.0, 1.0], [4, 0])).keys() == {"all", "other"}
    assert bits_per_byte(predictions([True], [True], [1.0], [4])).keys() == {"all", "factual"}
