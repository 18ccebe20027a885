"""Metrics against their definitions, and what they are where nothing is to be found."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core.metrics import auroc, f1, kappa, precision_recall

PAIRS = st.lists(st.tuples(st.booleans(), st.booleans()), max_size=30)


def bits(*values: int) -> np.ndarray:
    return np.array(values, dtype=bool)


@settings(deadline=None)  # the first call imports scikit-learn
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), max_size=30))
def test_auroc_is_the_share_of_pairs_in_the_right_order(items: list[tuple[int, bool]]) -> None:
    score = np.array([score for score, _ in items], dtype=float)
    positive = np.array([label for _, label in items], dtype=bool)
    pairs = [(high > low) + (high == low) / 2 for high in score[positive] for low in score[~positive]]
    found = auroc(score, positive)
    if pairs:
        assert found == pytest.approx(sum(pairs) / len(pairs))
    else:
        assert math.isnan(found)


def test_auroc_of_infinite_scores() -> None:
    assert auroc(np.array([np.inf, -np.inf, 0.0]), bits(1, 0, 0)) == 1.0
    assert auroc(np.array([np.inf, np.inf, -np.inf], dtype=np.float32), bits(1, 0, 0)) == 0.75


@settings(deadline=None)  # the first call imports scikit-learn
@given(PAIRS)
def test_agreement_is_by_its_definition(pairs: list[tuple[bool, bool]]) -> None:
    one, other = bits(*(a for a, _ in pairs)), bits(*(b for _, b in pairs))
    both = int((one & other).sum())
    assert precision_recall(one, other) == (both / max(1, one.sum()), both / max(1, other.sum()))
    marked = int(one.sum() + other.sum())
    assert f1(one, other) == (pytest.approx(2 * both / marked) if marked else 1.0)
    if pairs:
        agreed = float(np.mean(one == other))
        by_chance = float(one.mean() * other.mean() + (~one).mean() * (~other).mean())
        expected = 1.0 if by_chance == 1 else (agreed - by_chance) / (1 - by_chance)
        assert kappa(one, other) == pytest.approx(expected)
    else:
        assert kappa(one, other) == 1.0
