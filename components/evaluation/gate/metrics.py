"""The metrics of the gate: what they are called, which direction is better, and how their values are written."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """A metric of a served model."""

    label: str
    """For people, as part of a sentence."""
    better: Literal["higher", "lower"]
    share: bool = False
    """Whether it is a share, written in per cent."""
    unit: str = ""

    def written(self, value: float) -> str:
        """The value for people."""
        if self.share:
            return f"{value:.1%}"
        return f"{value:.4g}{self.unit}" if self.unit else f"{value:.4f}"

    def difference(self, value: float) -> str:
        """A difference of two values for people, with its sign."""
        return f"{100 * value:+.1f} points" if self.share else f"{value:+.4f}{self.unit}"

    def gain(self, difference: float) -> float:
        """``difference`` with the sign that makes more of it better."""
        return difference if self.better == "higher" else -difference


METRICS: dict[str, Metric] = {
    "facts_right": Metric("facts right", "higher", share=True),
    "bits_per_byte_other": Metric("bits per byte of what states no fact", "lower"),
    "bits_per_byte": Metric("bits per byte, without a helper", "lower"),
    "written_facts_true": Metric("written facts that are true", "higher", share=True),
    "wasted_calls": Metric("calls wasted on what is no fact", "lower", share=True),
    "calls": Metric("calls per decision", "lower", share=True),
    "helper_failures": Metric("calls that the helper fails", "lower", share=True),
    "leakage": Metric("questions answered from memory", "lower", share=True),
    "seconds_per_token": Metric("time per token", "lower", unit=" s"),
    "price_per_1000_tokens": Metric("price of 1,000 tokens", "lower"),
    "contaminated": Metric("held-out documents that have a near-duplicate in the training text", "lower", share=True),
    "contaminated_questions": Metric("questions that the training text holds", "lower", share=True),
}
