"""Which direction of a metric is better, by its name. What is not listed here gets no verdict."""

from typing import Literal

from components.evaluation.gate.metrics import METRICS

Direction = Literal["higher", "lower"]

# Names, or their beginnings up to an underscore: ``bits_per_byte_factual`` is ``bits_per_byte`` of one class of tokens.
_LOWER = ("bits_per_byte", "perplexity", "word_perplexity", "byte_perplexity", "prompt_sensitivity")
_HIGHER = (
    "right", "acc", "exact", "em", "f1", "mc1", "mc2", "centred", "win", "true", "as_it_must",
)  # fmt: skip

NOT_COMPARED = ("confidence", "accuracy", "continuation")
"""Metrics of the task ``text`` that are parts of something: bins of a calibration, and samples."""


def direction(metric: str) -> Direction | None:
    """``higher``, ``lower``, or ``None`` for a metric that merely describes, such as the length of an answer."""
    if metric in METRICS:
        return METRICS[metric].better
    if _begins(metric, _LOWER):
        return "lower"
    return "higher" if _begins(metric, _HIGHER) else None


def _begins(metric: str, names: tuple[str, ...]) -> bool:
    return any(f"{metric}_".startswith(f"{name}_") for name in names)
