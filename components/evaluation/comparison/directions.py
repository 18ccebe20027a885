"""Which direction of a metric is better, by its name. What is not listed here gets no verdict."""

from typing import Literal

from components.evaluation.gate.metrics import METRICS

Direction = Literal["higher", "lower"]

# Beginnings of names, because a metric of one class of tokens carries the class: ``bits_per_byte_factual``.
_LOWER = ("bits_per_byte", "perplexity", "word_perplexity", "byte_perplexity", "wasted", "leakage", "failures")
_HIGHER = ("right", "acc", "exact", "facts_right", "true", "win", "f1", "consistent", "changed", "kept", "mc")


def direction(metric: str) -> Direction | None:
    """``higher``, ``lower``, or ``None`` for a metric that merely describes, such as the length of an answer."""
    if metric in METRICS:
        return METRICS[metric].better
    if metric.startswith(_LOWER):
        return "lower"
    return "higher" if metric.startswith(_HIGHER) else None
