"""P-values and the smallest detectable difference mean what they say: checked by counting and by simulation."""

from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.evaluation.comparison.paired_tests import (
    Sums,
    holm,
    is_right_or_wrong,
    permutation_test,
    sign_test,
    smallest_detectable,
)

LEVEL = 0.05


def answers(*right: float) -> Sums:
    return np.array(right), np.ones(len(right))


@given(gained=st.integers(0, 12), lost=st.integers(0, 12), equal=st.integers(0, 5))
def test_the_sign_test_is_the_binomial_distribution_counted_out(gained: int, lost: int, equal: int) -> None:
    differences = np.array([1.0] * gained + [-0.5] * lost + [0.0] * equal)
    changed, far = gained + lost, max(gained, lost)
    tail = sum(comb(changed, each) for each in range(far, changed + 1)) / 2**changed
    assert sign_test(differences) == pytest.approx(min(1.0, 2 * tail) if changed else 1.0)


def test_the_permutation_test_agrees_with_all_exchanges_written_out() -> None:
    random = np.random.default_rng(1)
    one = random.gamma(5, 20, 9), random.integers(20, 60, 9).astype(float)
    other = one[0] * random.uniform(0.8, 1.1, 9), one[1]
    found = abs(one[0].sum() / one[1].sum() - other[0].sum() / other[1].sum())
    as_far = 0
    for exchanged in product([False, True], repeat=9):
        first = np.where(exchanged, other[0], one[0]).sum() / one[1].sum()
        second = np.where(exchanged, one[0], other[0]).sum() / one[1].sum()
        as_far += abs(first - second) >= found * (1 - 1e-9)
    assert permutation_test(one, other, 40_000, 0) == pytest.approx(as_far / 2**9, abs=0.01)


def test_equal_models_are_told_apart_no_more_often_than_the_level() -> None:
    random = np.random.default_rng(0)
    found = 0
    for seed in range(300):
        sizes = random.integers(50, 500, 40).astype(float)
        difficulty = random.gamma(4, 0.5, 40) * sizes
        one, other = (difficulty * random.normal(1, 0.05, 40) for _ in range(2))
        found += permutation_test((one, sizes), (other, sizes), 400, seed) <= LEVEL
    assert found <= 26  # 15 expected; more than 26 happens once in 250


@pytest.mark.parametrize("right_or_wrong", [True, False])
def test_a_difference_of_the_detectable_size_is_found_four_times_in_five(right_or_wrong: bool) -> None:
    random = np.random.default_rng(2)
    size, found, tries = 400, 0, 150

    def models(difference: float) -> tuple[Sums, Sums]:
        if not right_or_wrong:
            base, weights = random.normal(100, 30, size), np.full(size, 50.0)
            return (base + random.normal(50 * difference, 10, size), weights), (base, weights)
        # A fifth of the answers changes, and the difference is how much more often to right.
        changed = random.choice([1.0, -1.0, 0.0], size, p=[0.1 + difference / 2, 0.1 - difference / 2, 0.8])
        base = np.where(changed == 0, 1.0, (1 - changed) / 2)
        return answers(*(base + changed)), answers(*base)

    detectable = smallest_detectable(*models(0.0), LEVEL)
    assert detectable is not None
    for seed in range(tries):
        one, other = models(detectable)
        p = sign_test(one[0] - other[0]) if right_or_wrong else permutation_test(one, other, 500, seed)
        found += p <= LEVEL
    assert 0.68 < found / tries < 0.9


def test_models_that_never_differ_have_the_bound_of_the_exact_test_or_none() -> None:
    same = answers(1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0)
    assert smallest_detectable(same, same, LEVEL) == 6 / 8  # five changes of one kind have p = 0.0625, six 0.03
    bits = np.arange(8.0), np.full(8, 2.0)
    assert smallest_detectable(bits, bits, LEVEL) is None
    other = bits[0][::-1], bits[1]
    assert smallest_detectable(bits, other, LEVEL) is not None
    few = (
        tuple(each[:5] for each in bits),
        tuple(each[:5] for each in other),
    )  # their 32 exchanges have p = 1/16 at best
    assert smallest_detectable(*few, LEVEL) is None  # type: ignore[arg-type]
    assert smallest_detectable(answers(1.0), answers(0.0), LEVEL) is None


def test_answers_are_right_wrong_or_a_tie_and_nothing_else() -> None:
    assert is_right_or_wrong(answers(1, 0, 0.5), answers(0, 0, 1))
    assert not is_right_or_wrong(answers(1, 0, 0.3), answers(0, 0, 1))
    assert not is_right_or_wrong((np.ones(2), np.full(2, 2.0)), answers(1, 1))


@settings(max_examples=200)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_no_correction_and_bonferroni_and_keeps_the_order(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(p <= c <= min(1.0, len(p_values) * p) + 1e-12 for p, c in zip(p_values, corrected, strict=True))
    order = sorted(range(len(p_values)), key=lambda each: p_values[each])
    assert [corrected[each] for each in order] == sorted(corrected)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
