"""What all methods of finetuning share. Imports neither torch nor numpy: the flow process reads it too."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from components.model.adapters.config import AdapterConfig
from components.training.config import TrainerConfig

Method = Literal["chat", "classify", "preference", "distill"]


class FinetuneConfig(BaseModel):
    """From a trained model to a model for a purpose; presets: `finetune=chat`, ..."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    method: Method = "chat"
    """What the model is trained for."""
    base: Literal["delegated", "pretrained"] = "delegated"
    """Start from the model that has learnt when to ask, or from the plain one."""
    trainer: TrainerConfig = TrainerConfig(max_steps=200, learning_rate=2e-3, validate_every_steps=50)
    """The training loop, with settings of its own."""
    adapter: AdapterConfig = AdapterConfig()
    """Whether all weights are trained, or an adapter."""
