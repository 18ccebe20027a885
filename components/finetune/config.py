"""What all methods of finetuning share. Imports neither torch nor numpy: the flow process reads it too."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from components.finetune.chat.config import ChatConfig
from components.finetune.classify.config import ClassifyConfig
from components.finetune.distill.config import DistillConfig
from components.finetune.preference.config import PreferenceConfig
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
    training: TrainerConfig = TrainerConfig(max_steps=200, learning_rate=2e-3, validate_every_steps=50)
    """The training loop, with settings of its own."""
    replay: float = Field(default=0.5, ge=0, lt=1)
    """Share of the training windows that hold text of the pretraining, so that it is not forgotten; used by chat, and
    by distill with text=written."""
    release: bool = False
    """Register the finetuned model as challenger, so that `lacewing serve model=challenger` answers with it."""
    chat: ChatConfig = ChatConfig()
    """Conversations, with method=chat."""
    classify: ClassifyConfig = ClassifyConfig()
    """Which labels a text has; for method=classify."""
    adapter: AdapterConfig = AdapterConfig()
    """Whether all weights are trained, or an adapter."""
    preference: PreferenceConfig = PreferenceConfig()
    """Pairs of answers, with method=preference."""
    distill: DistillConfig = DistillConfig()
    """A teacher, with method=distill."""
