"""Settings of the stage ``evaluate``: which model, on which tasks or texts.

Imports neither torch nor numpy: the flow's process reads these classes and must stay light.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from components.data.config import DataConfig
from components.evaluation.contamination.config import ContaminationConfig
from components.evaluation.harness.config import HarnessConfig
from components.evaluation.robustness.config import RobustnessConfig
from components.labelling.config import LabelConfig

_SETTINGS = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class TextConfig(BaseModel):
    """The task `text`: how well the model predicts the documents of `data.sources`, or anybody's."""

    model_config = _SETTINGS

    documents: Literal["auto", "held_out", "all"] = "auto"
    """Which documents: those that training on the same sources leaves out, or all of them. `auto` takes the held-out
    ones for models of this platform, and all for others."""
    max_documents: PositiveInt = 1_000
    """At most this many documents of each source, chosen by a hash of their text."""
    max_bytes: PositiveInt = 1_000_000
    """Choose no more documents of a source than reach this size together."""
    piece_bytes: PositiveInt = 100_000
    """Text that is scored between two saves; an interrupted evaluation loses no more than this."""
    facts: bool = True
    """Whether bits per byte are also given for tokens that state facts and for the others, as `label` finds them."""
    budgets: list[float] = [0.0, 0.05, 0.15, 0.3]
    """Call budgets of the cascade's curve, besides the one that a bundle is served with."""
    curve_bytes: NonNegativeInt = 50_000
    """Text of each source on which the helper is really asked for the curve; 0 asks nobody."""
    samples: NonNegativeInt = 3
    """Documents that the model continues from their first words, for people to read."""
    sample_tokens: PositiveInt = 48
    """Longest continuation."""

    @field_validator("budgets")
    @classmethod
    def _shares(cls, budgets: list[float]) -> list[float]:
        if budgets != sorted(set(budgets)) or not all(0.0 <= budget <= 1.0 for budget in budgets):
            raise ValueError(f"call budgets are shares between 0 and 1, each once and in order; given {budgets}")
        return budgets


class EndpointConfig(BaseModel):
    """How a served model is asked, where `model` is an address."""

    model_config = _SETTINGS

    model: str = ""
    """Which of its models to ask; empty leaves the choice to the server."""
    start: str = ""
    """Text of the token that starts a document there, such as `<|endoftext|>` or `<s>`. Without it, servers give no
    probability to the first token of a text, and texts that have nothing before them are refused."""
    context_length: PositiveInt = 512
    """Tokens that the server takes, answer included."""
    max_characters: PositiveInt = 1_000
    """Longest text in one request; a longer document is sent in parts, each after the half part before it."""
    timeout_seconds: PositiveFloat = 60.0
    """How long one answer may take."""
    parallel_texts: PositiveInt = 16
    """Texts in one request."""


class EvaluateConfig(BaseModel):
    """`lacewing evaluate`: any model, on any tasks or texts."""

    model_config = ConfigDict(**_SETTINGS, coerce_numbers_to_str=True)  # model=3 is version 3

    model: str = "champion"
    """What to evaluate: `champion`, `challenger`, the number of a version, `NAME@champion` of another registered model,
    the folder of an artifact or of a Hugging Face model, or the address of an OpenAI-compatible server, such as
    http://127.0.0.1:8000/v1. A key for it is read from LACEWING_EVALUATE_API_KEY."""
    name: str = ""
    """Name of the model in the table of scores; empty: made of the version, the folder or the address."""
    tasks: list[str] = Field(default=["text"], min_length=1)
    """What it is tried on."""
    text: TextConfig = TextConfig()
    """The task `text`."""
    harness: HarnessConfig = HarnessConfig()
    """Published tasks (`blimp`, `mmlu`, `hellaswag`, ...)."""
    robustness: RobustnessConfig = RobustnessConfig()
    """The tasks whose names begin with `robustness.`."""
    contamination: ContaminationConfig = ContaminationConfig()
    """When an example of a published task counts as seen in training."""
    endpoint: EndpointConfig = EndpointConfig()
    """How a served model is asked."""
    batch_tokens: PositiveInt = 8_192
    """Tokens in one forward pass; costs memory, changes no result."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute: `auto` takes the GPU if there is one."""

    @field_validator("tasks")
    @classmethod
    def _each_once(cls, tasks: list[str]) -> list[str]:
        if len(set(tasks)) < len(tasks):
            raise ValueError(f"every task is named once; given {tasks}")
        return tasks


class EvaluateStageConfig(BaseModel):
    """What the stage reads: the settings, the model as the flow found it, and where texts come from."""

    model_config = _SETTINGS

    evaluate: EvaluateConfig = EvaluateConfig()
    """What is measured. `model` is the folder or the address; empty for a model that is an input of the stage."""
    data: DataConfig = DataConfig()
    """Texts of the task `text`."""
    label: LabelConfig = LabelConfig()
    """Which of their tokens state facts."""
