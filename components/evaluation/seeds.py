"""What a number is worth that changes with the seed: its mean, with an interval over the seeds."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

from components.evaluation.results import Interval


def seed_interval(values: Sequence[float], confidence: float) -> Interval:
    """Mean over seeds with Student's t interval; its ends are NaN for a single seed."""
    sample: Float[np.ndarray, " seeds"] = np.array(values, dtype=np.float64)
    mean = float(sample.mean())
    if len(sample) < 2:
        return Interval(mean, float("nan"), float("nan"))
    half = float(stats.t.ppf((1 + confidence) / 2, len(sample) - 1) * sample.std(ddof=1) / np.sqrt(len(sample)))
    return Interval(mean, mean - half, mean + half)
