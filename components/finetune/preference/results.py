"""What is measured of a model that has learnt preferences. Light: no torch, no numpy."""

from pydantic import BaseModel, ConfigDict

from components.evaluation.results import Interval
from components.finetune.preference.artifact import PairRecord


class ScoredPair(BaseModel):
    """A held-out pair and what two models make of it; one line of ``preferences.jsonl``."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    pair: PairRecord
    margin: float
    """Nats by which the model finds the chosen answer likelier than the rejected one."""
    base_margin: float
    """The same of the base."""


class PreferenceResults(BaseModel):
    """Shares of the held-out pairs, and the likelihood of text."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    pairs: int
    groups: int
    """Prompts, or subjects of the closed world."""
    confidence: float
    """Share of the resamples that the intervals cover; groups are drawn."""
    accuracy: Interval
    """Pairs whose chosen answer the model finds likelier."""
    base_accuracy: Interval
    """The same of the base."""
    longer_wins: Interval
    """Pairs whose chosen answer has more characters; a tie counts one half."""
    reward_accuracy: Interval
    """Pairs whose margin has grown."""
    over_longer_wins: Interval
    """Accuracy above that of preferring the longer answer."""
    over_base: Interval
    """Accuracy above that of the base."""
    bits_per_byte: float
    """On held-out text of the pretraining."""
    base_bits_per_byte: float
    call_probability: float
    """Mean probability of ``<CALL>`` on that text."""
    base_call_probability: float

    @property
    def bits_per_byte_change(self) -> float:
        """Share by which bits per byte have grown."""
        return self.bits_per_byte / self.base_bits_per_byte - 1

    def metrics(self) -> dict[str, float]:
        """By the names in the record of the artifact."""
        over, low, high = self.over_longer_wins
        return {
            "preference_accuracy": self.accuracy.estimate,
            "base_accuracy": self.base_accuracy.estimate,
            "longer_wins": self.longer_wins.estimate,
            "reward_accuracy": self.reward_accuracy.estimate,
            "over_longer_wins": over,
            "over_longer_wins_low": low,
            "over_longer_wins_high": high,
            "over_base": self.over_base.estimate,
            "bits_per_byte": self.bits_per_byte,
            "base_bits_per_byte": self.base_bits_per_byte,
            "bits_per_byte_change": self.bits_per_byte_change,
            "call_probability": self.call_probability,
            "base_call_probability": self.base_call_probability,
        }
