"""What a share of calls is worth: accuracy on facts if the highest-scoring positions are filled in, and the bound.

The helper is assumed to be perfect: every called position gets the gold token. This measures *where* the model asks. A
real helper is measured in ``generated`` and ``helper_accuracy``. The bound places the same number of calls exactly
where a fact would be wrong.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from components.evaluation.factuality.predictions import Predictions
from components.evaluation.factuality.results import CurvePoint


def called_positions(
    score: Float[np.ndarray, " positions"], budget: float, least: float = -math.inf
) -> Int[np.ndarray, " called"]:
    """Where the share ``budget`` of all positions calls: at the highest scores, ties in the order of the text.

    Where fewer positions have a score of ``least`` or more, only these.
    """
    order = np.argsort(-score, kind="stable")[: round(budget * len(score))]
    called: Int[np.ndarray, " called"] = order[score[order] >= least]
    return called


def call_points(
    predictions: Predictions,
    score: Float[np.ndarray, " positions"],
    budgets: Sequence[float],
    least: float = -math.inf,
) -> list[CurvePoint]:
    """The curve over ``budgets``, calls as ``called_positions`` places them."""
    facts = max(1, int(predictions.factual.sum()))
    known = int((predictions.factual & predictions.right).sum())
    missing = int(predictions.wrong_facts.sum())
    points = []
    for budget in budgets:
        called = called_positions(score, budget, least)
        filled = int(predictions.wrong_facts[called].sum())
        count = max(1, len(called))
        points.append(
            CurvePoint(
                budget=budget,
                accuracy=(known + filled) / facts,
                bound=(known + min(len(called), missing)) / facts,
                wasted=float((~predictions.factual[called]).sum() / count),
                precision=float((~predictions.right[called]).sum() / count),
            )
        )
    return points
