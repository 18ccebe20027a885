import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.evaluation.factuality.calls import call_points, called_positions
from tests.evaluation.factuality.conftest import predictions

# Places:   0      1      2     3     4      5      6      7     8     9
RIGHT = [True, False, False, True, False, False, True, False, True, True]
FACT = [False, True, False, True, True, False, False, True, True, False]
# Wrong facts: 1, 4, 7; known facts: 3, 8.
POSITIONS = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 5)), min_size=1, max_size=40)
BUDGETS = [0.0, 0.1, 0.3, 0.5, 0.8, 1.0]


def test_calls_go_to_the_highest_scores_and_fill_in_wrong_facts() -> None:
    score = np.array([0.0, 9, 8, 7, 6, 0, 0, 0, 0, 0])
    nothing, two, four, everything = call_points(predictions(RIGHT, FACT), score, [0.0, 0.2, 0.4, 1.0])
    assert (nothing.accuracy, nothing.bound, nothing.wasted, nothing.precision) == (0.4, 0.4, 0.0, 0.0)
    # Calls at 1 (a wrong fact) and 2 (wrong, no fact).
    assert (two.accuracy, two.bound, two.wasted, two.precision) == (0.6, 0.8, 0.5, 1.0)
    # ... and 3 (a known fact) and 4 (a wrong one); the bound has three wrong facts to fill.
    assert (four.accuracy, four.bound, four.wasted, four.precision) == (0.8, 1.0, 0.25, 0.75)
    assert (everything.accuracy, everything.bound, everything.wasted, everything.precision) == (1.0, 1.0, 0.5, 0.5)
    assert two.gain_of_bound(nothing.accuracy) == pytest.approx(0.5)
    assert nothing.gain_of_bound(nothing.accuracy) == 1.0


def test_below_the_least_score_nothing_is_called_whatever_is_left_of_the_budget() -> None:
    score = np.array([0.0, 9, 8, 7, 6, 0, 0, 0, 0, 0])
    assert called_positions(score, 0.5, least=7.0).tolist() == [1, 2, 3]
    assert called_positions(score, 0.2, least=7.0).tolist() == [1, 2]
    (point,) = call_points(predictions(RIGHT, FACT), score, [0.5], least=9.0)
    assert (point.accuracy, point.wasted) == (0.6, 0.0)


def test_of_equal_scores_the_first_in_the_text_is_called() -> None:
    (point,) = call_points(predictions(RIGHT, FACT), np.zeros(10), [0.2])
    assert (point.accuracy, point.wasted) == (0.6, 0.5)


def test_text_without_facts_has_nothing_to_gain() -> None:
    (point,) = call_points(predictions([False, True], [False, False]), np.array([1.0, 0.0]), [0.5])
    assert (point.accuracy, point.bound, point.wasted, point.precision) == (0.0, 0.0, 1.0, 1.0)
    assert point.gain_of_bound(0.0) == 1.0


@given(POSITIONS)
def test_no_placement_of_calls_beats_the_bound_and_more_calls_never_hurt(
    positions: list[tuple[bool, bool, int]],
) -> None:
    right, factual, scores = zip(*positions, strict=True)
    found = predictions(right, factual)
    points = call_points(found, np.array(scores, dtype=float), BUDGETS)
    for point in points:
        assert points[0].accuracy <= point.accuracy <= point.bound <= 1
        assert 0 <= point.wasted <= 1
        assert 0 <= point.precision <= 1
    assert [point.accuracy for point in points] == sorted(point.accuracy for point in points)
    perfect = call_points(found, found.wrong_facts.astype(float), BUDGETS)
    assert (
        [point.accuracy for point in perfect] == [point.bound for point in perfect] == [point.bound for point in points]
    )
    if any(factual):
        assert points[-1].accuracy == 1.0
