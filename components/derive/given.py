"""A model as somebody gave it: shape, weights by our names, and its own tokenizer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from components.model.config import ModelConfig

StateDict = dict[str, Tensor]


@dataclass(frozen=True)
class GivenModel:
    """What every reader of foreign weights returns."""

    config: ModelConfig
    state: StateDict
    """fp32, by the names of our parameters."""
    tokenizer: Mapping[str, Any]
    """As in ``tokenizer.json``."""
    end: str
    """The token that ends a text."""
    padding: str | None = None
    """The token that pads, if there is one."""
