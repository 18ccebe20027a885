"""How well one set of decisions finds another: scikit-learn's metrics, and what they are where nothing is to be found.

scikit-learn takes a second to import, so it is imported by whoever asks for a metric.
"""

import math

import numpy as np
from jaxtyping import Bool, Float

Decisions = Bool[np.ndarray, " items"]

_LARGEST = 1e300  # scikit-learn refuses infinite scores; scores that are finite stay below


def auroc(score: Float[np.ndarray, " items"], positive: Decisions) -> float:
    """Probability that a positive item scores above a negative one, ties counting half (Mann and Whitney 1947).

    NaN if there are no positives or no negatives. Score log-odds rather than probabilities: those near one are equal
    in fp32, which would make ties of them.
    """
    from sklearn.metrics import roc_auc_score

    if positive.all() or not positive.any():
        return math.nan
    return float(roc_auc_score(positive, np.clip(score.astype(np.float64), -_LARGEST, _LARGEST)))


def kappa(one: Decisions, other: Decisions) -> float:
    """Cohen's kappa: agreement beyond what the two shares make likely; 1 if both always say the same one thing."""
    from sklearn.metrics import cohen_kappa_score

    if len(np.unique(np.concatenate([one, other]))) < 2:
        return 1.0
    return float(cohen_kappa_score(one, other))


def f1(one: Decisions, other: Decisions) -> float:
    """Harmonic mean of precision and recall of one against the other; 1 if neither holds anything."""
    from sklearn.metrics import f1_score

    return float(f1_score(one, other, zero_division=1.0)) if len(one) else 1.0


def precision_recall(found: Decisions, truth: Decisions) -> tuple[float, float]:
    """Share of what is ``found`` that is true, and share of the ``truth`` that is found; 0 of nothing."""
    from sklearn.metrics import precision_score, recall_score

    if len(found) == 0:
        return 0.0, 0.0
    return (
        float(precision_score(truth, found, zero_division=0.0)),
        float(recall_score(truth, found, zero_division=0.0)),
    )
