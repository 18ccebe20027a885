"""Likelihood on common subsets of held-out text.

Methods learn different tokens, so a single number would compare different populations. The same text is scored as a
whole, on its factual tokens, and on the rest. ``<CALL>`` is left out of the softmax.
"""

import math

import numpy as np
from jaxtyping import Bool

from components.evaluation.factuality.predictions import Predictions


def bits_per_byte(predictions: Predictions) -> dict[str, float]:
    """Bits per byte of ``all`` tokens, the ``factual`` and the ``other`` ones; a boundary costs bits and has no bytes.

    A subset without text is left out.
    """
    masks: dict[str, Bool[np.ndarray, " positions"]] = {
        "all": np.ones(len(predictions), dtype=bool),
        "factual": predictions.factual,
        "other": ~predictions.factual,
    }
    return {
        name: float(predictions.nats[mask].sum() / math.log(2) / predictions.bytes[mask].sum())
        for name, mask in masks.items()
        if predictions.bytes[mask].sum()
    }
