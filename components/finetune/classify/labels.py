"""The set of labels that travels with a classifier. Light: no torch, no numpy."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from components.finetune.classify.config import Kind, Pooling


class LabelSet(BaseModel):
    """Contents of ``labels.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Kind
    """Whether a text has exactly one of the labels, or any number of them."""
    labels: list[str]
    """In the order of the rows of the head."""
    pooling: Pooling = "mean"
    """What the head reads."""

    def numbers(self, labels: Sequence[str]) -> list[int]:
        """The rows of the head for these labels."""
        return [self.labels.index(label) for label in labels]
