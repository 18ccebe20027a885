"""Settings of finetuning for conversations. Imports neither torch nor numpy: the flow's process reads it too."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from components.cascade.config import CascadeConfig
from components.core.neutral import Neutral
from components.data.chats.config import ConversationsConfig
from components.delegation.config import DelegationConfig
from components.evaluation.config import BootstrapConfig
from components.model.adapters.config import AdapterConfig
from components.training.config import TrainerConfig

_SETTINGS = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ConverseConfig(BootstrapConfig):
    """How the model is measured as it converses."""

    max_questions: PositiveInt = 300
    """Held-out questions, or first turns of held-out conversations, to ask, by a fixed shuffle."""
    answer_tokens: PositiveInt = 64
    """Longest answer; one that does not end within it counts as malformed."""
    budgets: list[float] = Field(default=[0.05, 0.1, 0.3])
    """Call budgets at which the questions are asked again, besides `cascade.budget`."""
    batch: PositiveInt = 32
    """Questions answered together."""
    max_documents: PositiveInt = 200
    """Held-out documents of the pretraining text whose bits per byte are compared."""


class ChatConfig(BaseModel):
    """`finetune=chat`, and `finetune=chat+delegate` where facts are asked for."""

    model_config = _SETTINGS

    data: ConversationsConfig = ConversationsConfig()
    """Where the conversations come from."""
    delegate: bool = False
    """The assistant's factual tokens may become <CALL>, chosen as `delegation` says, so that the model asks instead of
    inventing."""
    remember: Annotated[float, Neutral(0.0)] = Field(0.0, ge=0.0)
    """Weight of KL(base || model) on the tokens of the replayed text: the model keeps all that its base expects of
    them, not only the words that came. Meant for little replay; 0 leaves it out."""
    tuned_share: Annotated[float, Neutral(1.0)] = Field(1.0, gt=0.0, le=1.0)
    """The finished weights lie this part of the way from the base's to the tuned ones, those of the special tokens
    excepted. Needs all weights to be trained, not an adapter. Losses in the history are those of the tuned weights."""
    measure: ConverseConfig = ConverseConfig()
    """How it is measured."""


class ChatTrainConfig(BaseModel):
    """What the stage `chat` reads."""

    model_config = _SETTINGS

    trainer: TrainerConfig = TrainerConfig()
    """The training loop."""
    adapter: AdapterConfig = AdapterConfig()
    """Whether all weights are trained, or an adapter."""
    delegation: DelegationConfig | None = None
    """Which of the assistant's tokens become <CALL>; none: it learns to say all of them."""
    remember: Annotated[float, Neutral(0.0)] = Field(0.0, ge=0.0)
    """Weight of the divergence from the base on replayed text."""
    tuned_share: Annotated[float, Neutral(1.0)] = Field(1.0, gt=0.0, le=1.0)
    """How far from the base the finished weights lie."""

    @model_validator(mode="after")
    def _whole_models_are_blended(self) -> "ChatTrainConfig":
        if self.tuned_share < 1 and self.adapter.kind != "none":
            raise ValueError(
                f"finetune.chat.tuned_share={self.tuned_share:g} with adapter.kind={self.adapter.kind}: the finished "
                "model would be another one than its adapter. Set tuned_share=1, or train all weights (kind=none)"
            )
        return self


class ConverseStageConfig(BaseModel):
    """What the stage `converse` reads."""

    model_config = _SETTINGS

    measure: ConverseConfig = ConverseConfig()
    """What is asked."""
    cascade: CascadeConfig = CascadeConfig()
    """How model and helper answer together."""
