"""Likelihood on common subsets of held-out text.

Methods learn different tokens, so a single figure would compare different populations (lacy.md, section 6.5): the
same text is scored as a whole, its factual tokens, and the rest. ``<CALL>`` takes no part in the softmax.
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
