"""Settings of distillation. Imports neither torch nor numpy: the flow process reads it too."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from components.model.adapters.config import AdapterConfig
from components.model.config import ModelConfig
from components.training.config import TrainerConfig


class DistillObjectiveConfig(BaseModel):
    """What the student learns from its teacher."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    divergence: Literal["forward", "reverse", "js"] = "forward"
    """forward, KL(teacher || student), covers all that the teacher expects; reverse, KL(student || teacher), avoids
    what it does not; js is the generalised Jensen-Shannon divergence between them (arXiv:2306.13649)."""
    js_share: float = Field(default=0.5, gt=0, lt=1)
    """Share of the teacher in the mixture that js compares both with."""
    alpha: float = Field(default=0.5, ge=0, le=1)
    """Share of the divergence in the loss; the rest is the cross-entropy of the text."""
    temperature: PositiveFloat = 1.0
    """Above 1, what the teacher expects less counts for more. Applied to the top tokens and the rest as one."""
    least_confidence: float = Field(default=0.0, ge=0, le=1)
    """Take the teacher's word only where its top tokens hold at least this much probability; elsewhere the text alone
    teaches."""
    need: float = Field(default=1.0, gt=0, le=1)
    """Share of the tokens of a micro-batch that learn from the teacher: those on which the student differs most."""


class DistillConfig(BaseModel):
    """The section `finetune.distill`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    teacher: str = ""
    """A registered model (`champion`, a version, NAME@ALIAS) or the folder of one, with the tokenizer of the data."""
    top_k: PositiveInt = 8
    """The likeliest tokens of the teacher that are kept for every token of the text; the others are one rest."""
    start: Literal["base", "scratch"] = "base"
    """Train the base further, or a new model of the shape in `model`: distillation in pretraining."""
    objective: DistillObjectiveConfig = DistillObjectiveConfig()
    """What the student learns from it."""


class TeachConfig(BaseModel):
    """What the stage `teach` reads."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    teacher: str = ""
    """Folder of the teacher."""
    top_k: PositiveInt = 8
    """Tokens that are kept."""
    context_length: PositiveInt = 256
    """Tokens that the teacher reads together: the student's windows."""
    batch_windows: PositiveInt = 8
    """Windows in one forward pass."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where."""
    precision: Literal["auto", "bf16-mixed", "32-true"] = "auto"
    """In which arithmetic."""


class DistillStageConfig(BaseModel):
    """What the stage `distill` reads."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    model: ModelConfig = ModelConfig()
    """Shape of a student that starts from scratch."""
    trainer: TrainerConfig = TrainerConfig()
    """The training loop."""
    objective: DistillObjectiveConfig = DistillObjectiveConfig()
    """What the student learns from its teacher."""
    adapter: AdapterConfig = AdapterConfig()
    """Whether all weights of the base are trained, or an adapter."""
