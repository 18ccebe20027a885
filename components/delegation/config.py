"""Settings of delegation: which tokens are delegated, how that is trained, and how the threshold is found.

Imports neither torch nor numpy: the flow's process reads these classes and must stay light.
"""

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from components.cascade.config import HelperConfig
from components.core.neutral import Neutral
from components.model.config import ModelConfig
from components.training.config import TrainerConfig
from components.training.trained import TrainedModel

SelectionName = Literal[
    "ntp",
    "loss",
    "fact",
    "random",
    "lacy",
    "rho_call",
    "rho_ignore",
    "judge",
    "ignore",
    "ignore_facts",
    "helper_gain",
    "defer",
]
SELECTIONS: tuple[SelectionName, ...] = get_args(SelectionName)
SELECTIONS_THAT_CALL: frozenset[SelectionName] = frozenset(SELECTIONS) - {"ntp", "rho_ignore", "ignore", "ignore_facts"}
"""The other selections leave tokens out or learn all of them; they do not teach the model to call."""
DETAILS = "delegation"
"""Under which name a trained model's record has these settings."""
_SETTINGS = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class DelegationConfig(BaseModel):
    """Which targets become `<CALL>`, and how much that counts."""

    model_config = _SETTINGS

    selection: SelectionName = "lacy"
    """Which tokens are delegated (or, for rho_ignore, ignore and ignore_facts, dropped from the loss). `ntp`: none."""
    normalisation: Literal["full", "exclude_call"] = "full"
    """Softmax of the tokens that are kept: `full` has <CALL> in the denominator, `exclude_call` leaves it out."""
    budget: float = Field(0.15, ge=0.0, le=1.0)
    """Share of the valid tokens of a batch to delegate; never more than the selection's candidates."""
    budget_of: Literal["tokens", "facts"] = "tokens"
    """`facts`: delegate the share `fraction_of_facts` of the factual tokens instead."""
    fraction_of_facts: float = Field(0.6, ge=0.0, le=1.0)
    """Share of factual tokens to delegate with budget_of=facts; and what `fact` draws at random."""
    warmup_fraction: float = Field(0.02, ge=0.0, lt=1.0)
    """Share of the steps that are plain next-token prediction first: an untrained model's ranking means nothing."""
    start: Literal["checkpoint", "scratch"] = "checkpoint"
    """`checkpoint` continues from the pretrained model; `scratch` delegates from the first step of pretraining."""
    max_steps: PositiveInt = 200
    """Optimizer steps of delegation training with start=checkpoint; scratch takes trainer.max_steps."""
    learning_rate: PositiveFloat = 4e-3
    """Peak learning rate with start=checkpoint; scratch takes trainer.learning_rate."""
    match: Literal["steps", "gradient_tokens"] = "steps"
    """What max_steps counts: optimizer steps, or as many tokens with a ground-truth gradient as that many steps of
    plain training have (delegating and ignoring methods then train longer)."""
    misspelt: Annotated[float, Neutral(0.0)] = Field(0.0, ge=0.0, le=0.5)
    """Share of the words in lower case that are read misspelt in training, so that the model asks after a slip, too."""
    reference: str = ""
    """Model folder with the same tokenizer, for rho_call and rho_ignore: excess loss is measured against it. Empty:
    the model that training starts from."""

    @classmethod
    def of(cls, model: TrainedModel) -> "DelegationConfig | None":
        """How ``model`` was taught to delegate; ``None`` for a plain model."""
        settings = model.details.get(DETAILS)
        return None if settings is None else cls.model_validate(settings)


class CalibrateConfig(BaseModel):
    """From held-out text: the threshold on P(CALL) for a share of calls."""

    model_config = _SETTINGS

    max_tokens: PositiveInt = 100_000
    """Number of tokens of the validation split that are scored."""
    batch_tokens: PositiveInt = 8_192
    """Tokens in one forward pass."""
    bins: int = Field(10, ge=2, le=100)
    """Bins of the reliability table."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    precision: Literal["auto", "bf16-mixed", "32-true"] = "auto"
    """Precision of the forward pass."""


class DelegateConfig(BaseModel):
    """What the stage `delegate` reads: `model`, `trainer` and `delegation` of the composed configuration."""

    model_config = _SETTINGS

    model: ModelConfig = ModelConfig()
    """Shape of the decoder."""
    trainer: TrainerConfig = TrainerConfig()
    """The loop; steps and learning rate as `delegation` has them."""
    delegation: DelegationConfig = DelegationConfig()
    """What is delegated."""
    helper: HelperConfig = HelperConfig()
    """The helper; helper_gain and defer use what it knows."""
