"""Is a difference between two models on the same examples more than chance, and how small a one could be seen?

Right and wrong answers have an exact test (McNemar 1947, which is the sign test on the examples that only one of the
two gets right). Ratios of sums, such as bits per byte, have the paired permutation test: if the models were alike, who
is called A on an example would not matter, so exchanging them at random gives what chance does (Efron & Tibshirani
1993, An Introduction to the Bootstrap, chapter 15).
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

POWER = 0.8
_DRAWS_AT_ONCE = 2_000_000  # bounds memory to some tens of MB

Sums = tuple[Float[np.ndarray, " items"], Float[np.ndarray, " items"]]
"""Numerator and denominator of a metric, by item."""


def is_right_or_wrong(one: Sums, other: Sums) -> bool:
    """Whether every item is one answer: wrong, right, or a tie that counts half."""
    scores, weights = np.concatenate([one[0], other[0]]), np.concatenate([one[1], other[1]])
    return bool(np.isin(scores, (0.0, 0.5, 1.0)).all() and (weights == 1.0).all())


def sign_test(differences: Float[np.ndarray, " items"]) -> float:
    """Two-sided exact p-value that gains and losses are equally likely; items without a difference say nothing."""
    gained, lost = int((differences > 0).sum()), int((differences < 0).sum())
    if gained + lost == 0:
        return 1.0
    return float(stats.binomtest(gained, gained + lost).pvalue)


def permutation_test(one: Sums, other: Sums, draws: int, seed: int) -> float:
    """Two-sided p-value of the difference of two ratios of sums, with the models exchanged at random by item.

    The given arrangement counts as one of the draws (Phipson & Smyth 2010, section 3), so the least value is
    1 / (draws + 1).
    """
    columns = np.stack([*one, *other], axis=1)
    exchanged = columns[:, [2, 3, 0, 1]] - columns
    found = abs(_difference(columns.sum(axis=0)))
    random = np.random.default_rng(seed)
    step = max(1, _DRAWS_AT_ONCE // len(columns))
    as_far = 0
    for start in range(0, draws, step):
        swapped = random.random((min(step, draws - start), len(columns))) < 0.5
        drawn = _difference((columns.sum(axis=0) + swapped @ exchanged).T)
        # Sums in another order differ in their last bits.
        as_far += int((np.abs(drawn) >= found * (1 - 1e-9)).sum())
    return (as_far + 1) / (draws + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number: the chance of one false finding among all stays below the level.

    Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda each: p_values[each])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def smallest_detectable(one: Sums, other: Sums, level: float) -> float | None:
    """The difference of two ratios of sums that a test at ``level`` would find with a power of 80 %.

    From the variance of the paired differences, by the normal approximation; ratios are made linear around their values
    (the delta method). For right and wrong answers it is never less than what the sign test needs if all changes point
    the same way. ``None`` where there is no such difference: the models agree exactly, or the permutations of so few
    items cannot reach the level.
    """
    items = len(one[0])
    if items < 2:
        return None
    residuals = _linear(one) - _linear(other)
    error = float(residuals.std(ddof=1)) / math.sqrt(items)
    normal = (stats.norm.ppf(1 - level / 2) + stats.norm.ppf(POWER)) * error
    if is_right_or_wrong(one, other):
        return max(float(normal), math.ceil(1 + math.log2(1 / level)) / items)
    return float(normal) if error > 0 and 2.0 ** (1 - items) <= level else None


def _linear(sums: Sums) -> Float[np.ndarray, " items"]:
    """What each item adds to the ratio, but for a constant."""
    ratio = sums[0].sum() / sums[1].sum()
    linear: Float[np.ndarray, " items"] = (sums[0] - ratio * sums[1]) / sums[1].mean()
    return linear


def _difference(
    sums: Float[np.ndarray, "4 *draws"],
) -> Float[np.ndarray, "*draws"]:
    difference: Float[np.ndarray, "*draws"] = sums[0] / sums[1] - sums[2] / sums[3]
    return difference
