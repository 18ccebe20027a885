"""The uncertainty of a metric: the percentile bootstrap of a ratio of sums.

Bits per byte is sum(bits) / sum(bytes), not a mean of per-document ratios, and documents differ in length; so both sums
are resampled together. Exact match is the same with a denominator of one per question. For two models over the same
documents the numerator is the difference of their bits: pairing removes what makes documents easy or hard for both.

Efron & Tibshirani (1993), An Introduction to the Bootstrap, chapters 13 and 16.
"""

import numpy as np
from jaxtyping import Float

from components.evaluation.config import BootstrapConfig
from components.evaluation.results import Interval

# Items drawn at once: bounds memory to some tens of MB whatever the number of documents and resamples.
_DRAWS_AT_ONCE = 2_000_000


def ratio_interval(
    numerator: Float[np.ndarray, " items"], denominator: Float[np.ndarray, " items"], cfg: BootstrapConfig
) -> Interval:
    """Interval of sum(numerator) / sum(denominator) when items are drawn anew with replacement.

    Arguments: per-item values of equal length, at least one item, the denominator positive. Returns the ratio of the
    given items and the ``cfg.confidence`` percentile interval over ``cfg.resamples`` resamples.
    """
    items = len(numerator)
    assert items == len(denominator) > 0, (items, len(denominator))
    random = np.random.default_rng(cfg.seed)
    ratios = np.empty(cfg.resamples)
    step = max(1, _DRAWS_AT_ONCE // items)
    for start in range(0, cfg.resamples, step):
        drawn = random.integers(items, size=(min(step, cfg.resamples - start), items))
        ratios[start : start + step] = numerator[drawn].sum(axis=1) / denominator[drawn].sum(axis=1)
    tail = (1 - cfg.confidence) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return Interval(float(numerator.sum() / denominator.sum()), float(low), float(high))


def difference_interval(
    one: tuple[Float[np.ndarray, " items"], Float[np.ndarray, " items"]],
    other: tuple[Float[np.ndarray, " items"], Float[np.ndarray, " items"]],
    cfg: BootstrapConfig,
) -> Interval:
    """Interval of the difference of two ratios of sums over the same items, which are drawn anew together.

    Arguments: numerator and denominator of each, per item, all of equal length. Denominators may be zero for some items
    (a document without calls has no wasted ones) but not for all. A resample without any counts for nothing.
    """
    columns = np.stack([*one, *other], axis=1)
    items = len(columns)
    random = np.random.default_rng(cfg.seed)
    differences = np.empty(cfg.resamples)
    step = max(1, _DRAWS_AT_ONCE // items)
    for start in range(0, cfg.resamples, step):
        drawn = random.integers(items, size=(min(step, cfg.resamples - start), items))
        sums = columns[drawn].sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            differences[start : start + step] = sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3]
    tail = (1 - cfg.confidence) / 2
    low, high = np.quantile(differences[np.isfinite(differences)], [tail, 1 - tail])
    above, below, above_other, below_other = columns.sum(axis=0)
    return Interval(float(above / below - above_other / below_other), float(low), float(high))
