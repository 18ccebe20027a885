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


def no_facts(setting: str, value: float) -> str:
    """What is wrong with a setting about facts where nothing may become ``<CALL>``."""
    return (
        f"finetune.chat.{setting}={value:g} is about facts that may become <CALL>, and none may without "
        "finetune.chat.delegate=true: leave it out, for then all facts of answers are learnt, or take "
        "finetune=chat+delegate"
    )


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
    remember_in_answers: Annotated[float, Neutral(0.0)] = Field(0.0, ge=0.0)
    """Weight of the same on what the assistant says, where the base expects wordings that the answers do not have: they
    are kept possible instead of unlearnt. Needs no replay, and one forward pass of the base more; 0 leaves it out."""
    remember_facts: Annotated[float, Neutral(1.0)] = Field(1.0, ge=0.0)
    """With `delegate`, factor of `remember_in_answers` on facts: below 1, the model may leave the base where `guess`
    teaches it a value, and says fewer of the values that the base would say anywhere."""
    guess: Annotated[float, Neutral(0.0)] = Field(0.0, ge=0.0)
    """With `delegate`, weight of -log P(token | not <CALL>) on the facts of answers: what the model says of a fact
    where it may not ask. A token that becomes <CALL> teaches nothing of that; 0 leaves it out."""
    measure: ConverseConfig = ConverseConfig()
    """How it is measured."""

    @model_validator(mode="after")
    def _knows_facts_where_settings_are_about_them(self) -> "ChatConfig":
        if self.guess and not self.delegate:
            raise ValueError(no_facts("guess", self.guess))
        if self.remember_facts != 1.0 and not self.delegate:
            raise ValueError(no_facts("remember_facts", self.remember_facts))
        return self


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
    remember_in_answers: Annotated[float, Neutral(0.0)] = Field(0.0, ge=0.0)
    """Weight of the divergence from the base on what the assistant says."""
    remember_facts: Annotated[float, Neutral(1.0)] = Field(1.0, ge=0.0)
    """Factor of it on the facts that the assistant says."""
    guess: Annotated[float, Neutral(0.0)] = Field(0.0, ge=0.0)
    """Weight of -log P(token | not <CALL>) on the facts that the assistant says."""

    @property
    def remembers(self) -> bool:
        """Whether the base is asked what it expects."""
        return self.remember > 0 or self.remember_in_answers > 0


class ConverseStageConfig(BaseModel):
    """What the stage `converse` reads."""

    model_config = _SETTINGS

    measure: ConverseConfig = ConverseConfig()
    """What is asked."""
    cascade: CascadeConfig = CascadeConfig()
    """How model and helper answer together."""
