"""Settings of preference tuning. Imports neither torch nor numpy: the flow process reads it too."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from components.evaluation.config import BootstrapConfig, ScoringConfig
from components.model.adapters.config import AdapterConfig
from components.training.config import TrainerConfig


class PairsConfig(BaseModel):
    """Where the pairs of answers come from."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    sources: list[str] = Field(default=["world"], min_length=1)
    """What to read, in order: `world` (true and false answers about the closed world that the model was trained on),
    and paths, globs or http(s) addresses of .jsonl (also .gz, .zst) and .parquet files. Their rows have `chosen` and
    `rejected`, beside `prompt`, `instruction` (with `input`), `conversations` or `messages`; or both are whole
    dialogues, as in hh-rlhf."""
    on_error: Literal["fail", "skip"] = "fail"
    """Identical answers, unknown roles, empty turns, dialogues that differ before the last turn: stop and name the
    line, or leave the row out and count it."""
    max_pairs: PositiveInt = 1500
    """At most this many pairs, chosen by a fixed shuffle; of the closed world those about popular subjects first."""
    validation_fraction: float = Field(default=0.1, gt=0, lt=0.5)
    """Share of the prompts (of the closed world: of the persons, places, works and events) kept for validation."""
    test_fraction: float = Field(default=0.25, gt=0, lt=0.5)
    """Share of the prompts kept for the report."""

    @model_validator(mode="after")
    def _splits_leave_room(self) -> "PairsConfig":
        if (held_out := self.validation_fraction + self.test_fraction) > 0.5:
            raise ValueError(
                f"validation_fraction + test_fraction = {held_out:g} would hold out more than half of the pairs; keep "
                "their sum at 0.5 or below"
            )
        return self


class ObjectiveConfig(BaseModel):
    """What is learned from a pair."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    loss: Literal["dpo", "ipo"] = "dpo"
    """dpo (arXiv:2305.18290) goes on with every pair, ever more slowly; ipo (arXiv:2310.12036) stops at a margin."""
    beta: PositiveFloat = 0.1
    """How close the model stays to its base: larger is closer."""
    per_token: bool = False
    """Compare means over the tokens of an answer, not sums: length-normalised, so that a long answer weighs no more."""
    chosen_weight: NonNegativeFloat = 0.0
    """Weight of the mean negative log-likelihood of the chosen answer, which is added to the loss."""


class PreferenceConfig(BaseModel):
    """The section `finetune.preference`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    pairs: PairsConfig = PairsConfig()
    """Where the pairs of answers come from."""
    objective: ObjectiveConfig = ObjectiveConfig()
    """What is learned from a pair."""


class ReferenceConfig(BaseModel):
    """What the stage `reference` reads: how the base is asked, which is how the model is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where."""
    precision: Literal["auto", "bf16-mixed", "32-true"] = "auto"
    """In which arithmetic."""
    batch_windows: PositiveInt = 8
    """Windows in one forward pass."""


class PreferConfig(BaseModel):
    """What the stage `prefer` reads."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    trainer: TrainerConfig = TrainerConfig()
    """The training loop."""
    objective: ObjectiveConfig = ObjectiveConfig()
    """What is learned from a pair."""
    adapter: AdapterConfig = AdapterConfig()
    """Whether all weights are trained, or an adapter."""


class AssessPreferenceConfig(ScoringConfig, BootstrapConfig):
    """What the stage `assess-preference` reads."""

    batch_windows: PositiveInt = 8
    """Windows of pairs in one forward pass."""
    examples: PositiveInt = 5
    """Pairs shown in the report: those on which the model has changed most."""
